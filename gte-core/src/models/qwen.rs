//! Qwen2 and Qwen3 (Yang et al. 2025, <https://arxiv.org/abs/2505.09388>; transformers'
//! `modeling_qwen3.py`, `modeling_qwen2.py`): Qwen3-Embedding, Qwen3-Reranker, gte-Qwen2.
//!
//! Pre-norm decoders with RMSNorm, grouped queries, RoPE and a gated MLP. Qwen3 normalizes each
//! head of queries and keys; Qwen2 has biases there instead.

use serde_json::Value;

use super::read::{
    MAX_HEADS, MAX_HIDDEN, Sizes, activation, eps, heads, labels, must_be, refuse_what_is_not_computed, rope, size,
};
use super::{
    Architecture, AttentionSpec, Choices, ClassifierSpec, Family, Gate, Key, LayerSpec, MlpSpec, Names, NormKind,
    NormPlace, NormSpec, Pooling, Task, harmless, obeyed, refused,
};
use crate::error::Result;
use crate::json::Json;
use crate::kernels::{Activation, Mask};

pub(super) static QWEN3: Family =
    Family { model_types: &["qwen3"], class: "Qwen3", read: read_qwen3, names: &[NAMES], keys: KEYS };

pub(super) static QWEN2: Family =
    Family { model_types: &["qwen2"], class: "Qwen2", read: read_qwen2, names: &[NAMES], keys: KEYS };

const NAMES: Names = Names {
    words: "embed_tokens",
    positions: "",
    types: "",
    tasks: "",
    embedding_norm: "",
    layer: "layers.",
    qkv: &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    q_norm: "self_attn.q_norm",
    k_norm: "self_attn.k_norm",
    attention_output: "self_attn.o_proj",
    attention_norm: "input_layernorm",
    up: &["mlp.gate_proj", "mlp.up_proj"],
    down: "mlp.down_proj",
    mlp_norm: "post_attention_layernorm",
    final_norm: "norm",
    head_dense: "",
    head_norm: "",
    head_out: "score",
    language: "lm_head",
    harmless: &["lm_head.", "rotary_emb."],
};

static KEYS: &[Key] = &[
    obeyed("attention_bias", "for qwen3: biases of all four projections; default false"),
    obeyed("head_dim", "for qwen3, default 128; for qwen2 only hidden_size / num_attention_heads"),
    obeyed("hidden_act", "default silu"),
    obeyed("hidden_size", "default 4096"),
    obeyed("intermediate_size", "default 22016"),
    obeyed("is_causal", "false: every token attends to every other; default true (qwen3), required (qwen2)"),
    obeyed("layer_types", "only full_attention"),
    obeyed("max_position_embeddings", "the length of the longest text; default 32768"),
    obeyed("num_attention_heads", "default 32"),
    obeyed("num_hidden_layers", "default 32"),
    obeyed("num_key_value_heads", "default 32; null: as many as num_attention_heads"),
    obeyed("rms_norm_eps", "default 1e-6"),
    obeyed("rope_parameters", "default or linear, with rope_theta and factor"),
    obeyed("rope_scaling", "linear"),
    obeyed("rope_theta", "default 10000"),
    obeyed(
        "tie_word_embeddings",
        "whether a language model's output layer is the table of word embeddings; default false",
    ),
    obeyed("vocab_size", "default 151936"),
    harmless("max_window_layers", "only with use_sliding_window"),
    obeyed("pad_token_id", "for classifiers: tokens with this id at the end are ignored; there is no padding"),
    harmless("sliding_window", "only with use_sliding_window"),
    refused("use_bidirectional_attention", "transformers ignores it: use is_causal"),
    refused("use_sliding_window", "only false"),
];

fn read_qwen3(json: &Json, choices: &Choices) -> Result<Architecture> {
    let causal = causal(json, choices)?.unwrap_or(true);
    let head_dim = size(json, "head_dim", 2, MAX_HIDDEN, 128)?;
    let bias = json.flag("attention_bias")?.unwrap_or(false);
    decoder(
        json,
        &QWEN3,
        causal,
        |_| Ok(head_dim),
        |spec| AttentionSpec { qk_norm: true, qkv_bias: bias, output_bias: bias, ..spec },
    )
}

fn read_qwen2(json: &Json, choices: &Choices) -> Result<Architecture> {
    let Some(causal) = causal(json, choices)? else {
        return Err(json.unsupported(
            "is_causal",
            "absent",
            "true or false, in the file or as the option `causal`: models of this family were trained either way",
        ));
    };
    decoder(json, &QWEN2, causal, |sizes| sizes.head_dim(json), |spec| spec)
}

/// Whether a token only attends to the tokens before it, according to the caller, or else the file.
fn causal(json: &Json, choices: &Choices) -> Result<Option<bool>> {
    let said = json.flag("is_causal")?;
    if let Some(both) = json.flag("use_bidirectional_attention")?.filter(|_| said.is_none() && choices.causal.is_none())
        && both
    {
        return Err(json.unsupported("use_bidirectional_attention", "true", "`is_causal`, which says the same"));
    }
    Ok(choices.causal.or(said))
}

fn decoder(
    json: &Json,
    family: &'static Family,
    causal: bool,
    head_dim: impl Fn(&Sizes) -> Result<usize>,
    attention: impl Fn(AttentionSpec) -> AttentionSpec,
) -> Result<Architecture> {
    refuse_what_is_not_computed(json)?;
    must_be(json, "use_sliding_window", &Value::Bool(false))?;
    if let Some(types) = json.get("layer_types").and_then(|v| v.as_array().cloned())
        && let Some(other) = types.iter().find(|kind| *kind != "full_attention")
    {
        return Err(json.unsupported("layer_types", &other.to_string(), "full_attention"));
    }
    let sizes = Sizes::read(json, [4096, 32, 32, 22016, 151_936, 32768])?;
    let head_dim = head_dim(&sizes)?;
    if !head_dim.is_multiple_of(2) {
        return Err(json.unsupported("head_dim", &head_dim.to_string(), "an even number, for RoPE"));
    }
    let kv_heads = match json.get("num_key_value_heads") {
        Some(Value::Null) => sizes.heads,
        _ => size(json, "num_key_value_heads", 1, MAX_HEADS, 32)?,
    };
    if !sizes.heads.is_multiple_of(kv_heads) {
        return Err(json.invalid(format_args!(
            "`num_attention_heads` {} is not a multiple of `num_key_value_heads` {kv_heads}",
            sizes.heads
        )));
    }
    let mask = if causal { Mask::Causal } else { Mask::Full };
    let rope = rope(json, 10_000.0)?;
    let plain =
        AttentionSpec { heads: sizes.heads, kv_heads, head_dim, qk_norm: false, qkv_bias: true, output_bias: false };
    Ok(Architecture {
        family,
        hidden: sizes.hidden,
        vocab: sizes.vocab,
        max_tokens: sizes.positions,
        positions: None,
        token_types: 0,
        task_types: 0,
        embedding_norm: false,
        norm: NormSpec {
            kind: NormKind::Rms,
            eps: eps(json, &["rms_norm_eps"], 1e-6)?,
            bias: false,
            place: NormPlace::Before,
            first_attention: true,
            at_end: true,
        },
        attention: attention(plain),
        mlp: MlpSpec {
            inner: sizes.inner,
            activation: activation(json, "hidden_act", Activation::Silu)?,
            gate: Gate::First,
            up_bias: false,
            down_bias: false,
        },
        layers: vec![LayerSpec { mask, rope: Some(rope) }; sizes.layers],
        task: task(json, family, &sizes, causal)?,
    })
}

fn task(json: &Json, family: &Family, sizes: &Sizes, causal: bool) -> Result<Task> {
    match heads(json, family.class).first().map(String::as_str) {
        Some("ForSequenceClassification") => {
            // The reference pools the last token that is not the pad token, even without padding.
            // In a causal model, the tokens after it have no effect on it.
            let pad = match json.get("pad_token_id") {
                None | Some(Value::Null) => sizes.vocab,
                Some(_) => size(json, "pad_token_id", 0, sizes.vocab as u64 - 1, sizes.vocab)?,
            };
            if !causal && pad < sizes.vocab {
                return Err(json.unsupported("is_causal", "false", "true for a classifier with a `pad_token_id`"));
            }
            Ok(Task::Classify(ClassifierSpec {
                labels: labels(json)?,
                pooling: Pooling::LastToken,
                dense: None,
                norm: false,
                out_bias: false,
                pad: (pad < sizes.vocab).then_some(pad as u32),
            }))
        }
        Some(head @ ("ForTokenClassification" | "ForQuestionAnswering")) => Err(json.unsupported(
            "architectures",
            &format!("\"{}{head}\"", family.class),
            "the model, …ForCausalLM, …ForSequenceClassification",
        )),
        Some("ForCausalLM") => Ok(Task::Language { tied: json.flag("tie_word_embeddings")?.unwrap_or(false) }),
        _ => Ok(Task::Embed { sparse: false }),
    }
}
