//! GTE v1.5 and mGTE (Zhang et al. 2024, <https://arxiv.org/abs/2407.19669>; `modeling.py` of
//! Alibaba-NLP/new-impl, and transformers' `modeling_gte.py`): gte-multilingual-base and its
//! reranker, gte-*-en-v1.5, arctic-embed-m-v2.0.
//!
//! BERT's post-norm layers with RoPE instead of a position table, and a gated MLP whose rows are
//! [up; gate].

use serde_json::Value;

use super::read::{
    FIRST_TOKEN_TANH, Sizes, activation, eps, factor, heads, labels, must_be, refuse_causal,
    refuse_what_is_not_computed, rope, rope_of, size,
};
use super::{
    Architecture, AttentionSpec, Choices, ClassifierSpec, Family, Gate, Key, LayerSpec, MlpSpec, Names, NormKind,
    NormPlace, NormSpec, RopeSpec, Task, harmless, obeyed, refused,
};
use crate::error::Result;
use crate::json::Json;
use crate::kernels::{Activation, Mask};

pub(super) static FAMILY: Family =
    Family { model_types: &["new", "gte"], class: "New", read, names: &[ALIBABA, TRANSFORMERS], keys: KEYS };

/// The spelling in Alibaba's files, and in those that transformers saves by default.
const ALIBABA: Names = Names {
    words: "embeddings.word_embeddings",
    positions: "",
    types: "embeddings.token_type_embeddings",
    tasks: "",
    embedding_norm: "embeddings.LayerNorm",
    layer: "encoder.layer.",
    qkv: &["attention.qkv_proj"],
    q_norm: "",
    k_norm: "",
    attention_output: "attention.o_proj",
    attention_norm: "attn_ln",
    up: &["mlp.up_gate_proj"],
    down: "mlp.down_proj",
    mlp_norm: "mlp_ln",
    final_norm: "",
    head_dense: "pooler.dense",
    head_norm: "",
    head_out: "classifier",
    language: "",
    harmless: &["embeddings.position_ids", "pooler.", "lm_head.", "embeddings.rotary_emb.", "rotary_emb."],
};

/// The spelling of transformers' own class.
const TRANSFORMERS: Names = Names {
    layer: "layers.",
    qkv: &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    attention_output: "self_attn.o_proj",
    attention_norm: "post_attention_layernorm",
    up: &["mlp.up_proj", "mlp.gate_proj"],
    mlp_norm: "post_mlp_layernorm",
    ..ALIBABA
};

static KEYS: &[Key] = &[
    obeyed("hidden_act", "as in bert; default gelu"),
    obeyed("hidden_size", "default 768"),
    obeyed("intermediate_size", "default 3072"),
    obeyed("layer_norm_eps", "default 1e-12"),
    obeyed("max_position_embeddings", "the length of the longest text; default 2048 (new), 8192 (gte)"),
    obeyed("num_attention_heads", "default 12"),
    obeyed("num_hidden_layers", "default 12"),
    obeyed("rope_parameters", "default or linear, with rope_theta and factor"),
    obeyed("rope_scaling", "ntk (new), linear; ntk without a factor and with mixed_b is refused"),
    obeyed("rope_theta", "default 10000 (new), 160000 (gte)"),
    obeyed("type_vocab_size", "0: no token types; default 1"),
    obeyed("vocab_size", "default 30528 (new), 250048 (gte)"),
    harmless("layer_norm_eps_", "never read"),
    harmless("pack_qkv", "the tensors show how they are packed"),
    harmless("pad_token_id", "there is no padding, and positions count from 0"),
    harmless("tie_word_embeddings", "only for the head of pre-training"),
    harmless("unpad_inputs", "there is no padding"),
    harmless("use_memory_efficient_attention", "the result is the same"),
    refused("layer_norm_type", "only layer_norm"),
    refused("logn_attention_clip1", "only false"),
    refused("logn_attention_scale", "only false"),
    refused("position_embedding_type", "only rope"),
];

fn read(json: &Json, _choices: &Choices) -> Result<Architecture> {
    refuse_what_is_not_computed(json)?;
    refuse_causal(json)?;
    let own = json.string("model_type")? != Some("gte");
    json.only("position_embedding_type", &["rope"], Some("rope"))?;
    json.only("layer_norm_type", &["layer_norm"], Some("layer_norm"))?;
    for key in ["logn_attention_scale", "logn_attention_clip1"] {
        must_be(json, key, &Value::Bool(false))?;
    }
    let (vocab, positions) = if own { (30528, 2048) } else { (250_048, 8192) };
    let sizes = Sizes::read(json, [768, 12, 12, 3072, vocab, positions])?;
    let head_dim = sizes.head_dim(json)?;
    let rope = if own { own_rope(json, head_dim)? } else { rope(json, 160_000.0)? };
    Ok(Architecture {
        family: &FAMILY,
        hidden: sizes.hidden,
        vocab: sizes.vocab,
        max_tokens: sizes.positions,
        positions: None,
        token_types: size(json, "type_vocab_size", 0, 1 << 8, 1)?,
        task_types: 0,
        embedding_norm: true,
        norm: NormSpec {
            kind: NormKind::Layer,
            eps: eps(json, &["layer_norm_eps"], 1e-12)?,
            bias: true,
            place: NormPlace::After,
            first_attention: true,
            at_end: false,
        },
        attention: AttentionSpec {
            heads: sizes.heads,
            kv_heads: sizes.heads,
            head_dim,
            qk_norm: false,
            qkv_bias: true,
            output_bias: true,
        },
        mlp: MlpSpec {
            inner: sizes.inner,
            activation: activation(json, "hidden_act", Activation::Gelu)?,
            gate: Gate::Second,
            up_bias: false,
            down_bias: true,
        },
        layers: vec![LayerSpec { mask: Mask::Full, rope: Some(rope) }; sizes.layers],
        task: task(json)?,
    })
}

/// `NTKScalingRotaryEmbedding` of new-impl: at every length, the base grows with the factor, and
/// the frequencies shrink by the factor's power of 2/d.
fn own_rope(json: &Json, head_dim: usize) -> Result<RopeSpec> {
    let Some(scaling) = json.object("rope_scaling")? else { return rope(json, 10_000.0) };
    let key = if scaling.string("type")?.is_some() { "type" } else { "rope_type" };
    if scaling.string(key)? != Some("ntk") {
        return rope(json, 10_000.0);
    }
    must_be(&scaling, "mixed_b", &Value::Null)?;
    let (factor, plain) = (factor(&scaling)?, rope_of(&[], json.number("rope_theta")?.unwrap_or(10_000.0), json)?);
    Ok(RopeSpec { theta: plain.theta * factor, divisor: factor.powf(2.0 / head_dim as f64) })
}

/// `NewForTokenClassification` besides `NewModel` with one label computes the weight per token of a
/// sparse vector (`scripts/gte_embedding.py` of gte-multilingual-base). It is not a classifier.
fn task(json: &Json) -> Result<Task> {
    let own = [heads(json, "New"), heads(json, "Gte")].concat();
    if own.iter().any(|head| head == "ForTokenClassification") {
        return match labels(json)? {
            1 => Ok(Task::Embed { sparse: true }),
            labels => Err(json.unsupported(
                "id2label",
                &format!("{labels} labels of a token classifier"),
                "1, the weight of a token",
            )),
        };
    }
    match own.first().map(String::as_str) {
        Some("ForSequenceClassification") => {
            Ok(Task::Classify(ClassifierSpec { labels: labels(json)?, ..FIRST_TOKEN_TANH }))
        }
        Some(head @ ("ForQuestionAnswering" | "ForMultipleChoice")) => Err(json.unsupported(
            "architectures",
            &format!("\"{head}\""),
            "the model, …ForMaskedLM, …ForSequenceClassification, …ForTokenClassification with one label",
        )),
        _ => Ok(Task::Embed { sparse: false }),
    }
}
