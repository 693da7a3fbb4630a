//! BERT (Devlin et al. 2018, <https://arxiv.org/abs/1810.04805>; transformers' `modeling_bert.py`):
//! the Chinese and English GTE models, bge-*-zh, all-MiniLM, and cross-encoders based on it.

use super::read::{FIRST_TOKEN_TANH, Sizes, activation, eps, refuse_causal, refuse_what_is_not_computed, size, task};
use super::{
    Architecture, AttentionSpec, Choices, Family, Gate, Key, LayerSpec, MlpSpec, Names, NormKind, NormPlace, NormSpec,
    PositionRule, Task, harmless, obeyed, refused,
};
use crate::error::Result;
use crate::json::Json;
use crate::kernels::{Activation, Mask};

pub(super) static FAMILY: Family = Family { model_types: &["bert"], class: "Bert", read, names: &[NAMES], keys: KEYS };

pub(super) const NAMES: Names = Names {
    words: "embeddings.word_embeddings",
    positions: "embeddings.position_embeddings",
    types: "embeddings.token_type_embeddings",
    tasks: "",
    embedding_norm: "embeddings.LayerNorm",
    layer: "encoder.layer.",
    qkv: &["attention.self.query", "attention.self.key", "attention.self.value"],
    q_norm: "",
    k_norm: "",
    attention_output: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    up: &["intermediate.dense"],
    down: "output.dense",
    mlp_norm: "output.LayerNorm",
    final_norm: "",
    head_dense: "pooler.dense",
    head_norm: "",
    head_out: "classifier",
    language: "",
    // Counters, the pooler of next-sentence prediction if no classifier reads it, the heads of
    // pre-training.
    harmless: &["embeddings.position_ids", "embeddings.token_type_ids", "pooler.", "cls."],
};

pub(super) static KEYS: &[Key] = &[
    obeyed("hidden_act", "gelu, gelu_python, gelu_new, gelu_pytorch_tanh, gelu_fast, relu, silu; default gelu"),
    obeyed("hidden_size", "default 768"),
    obeyed("intermediate_size", "default 3072"),
    obeyed("layer_norm_eps", "default 1e-12"),
    obeyed("max_position_embeddings", "default 512"),
    obeyed("num_attention_heads", "default 12"),
    obeyed("num_hidden_layers", "default 12"),
    obeyed("type_vocab_size", "default 2"),
    obeyed("vocab_size", "default 30522"),
    harmless("pad_token_id", "there is no padding, and positions count from 0"),
    harmless("directionality", "in the first BERT files; always bidirectional"),
    harmless("pooler_fc_size", "in the first BERT files; never read"),
    harmless("pooler_num_attention_heads", "in the first BERT files; never read"),
    harmless("pooler_num_fc_layers", "in the first BERT files; never read"),
    harmless("pooler_size_per_head", "in the first BERT files; never read"),
    harmless("pooler_type", "in the first BERT files; never read"),
    refused("position_embedding_type", "only absolute"),
];

fn read(json: &Json, _choices: &Choices) -> Result<Architecture> {
    let task = task(json, FAMILY.class, FIRST_TOKEN_TANH)?;
    encoder(json, &FAMILY, Sizes::read(json, [768, 12, 12, 3072, 30522, 512])?, |_| Ok(PositionRule::Index), task)
}

/// BERT's encoder, which RoBERTa shares except for its positions.
pub(super) fn encoder(
    json: &Json,
    family: &'static Family,
    sizes: Sizes,
    rule: impl Fn(&Json) -> Result<PositionRule>,
    task: Task,
) -> Result<Architecture> {
    refuse_what_is_not_computed(json)?;
    refuse_causal(json)?;
    json.only("position_embedding_type", &["absolute"], Some("absolute"))?;
    let (rows, rule) = (sizes.positions, rule(json)?);
    let max_tokens = match rule {
        PositionRule::Index => rows,
        PositionRule::AfterPad(pad) => rows.saturating_sub(pad as usize + 1),
    };
    if max_tokens == 0 {
        return Err(json.invalid(format_args!("`max_position_embeddings` {rows} leaves no position for a token")));
    }
    let head_dim = sizes.head_dim(json)?;
    Ok(Architecture {
        family,
        hidden: sizes.hidden,
        vocab: sizes.vocab,
        max_tokens,
        positions: Some((rows, rule)),
        token_types: size(json, "type_vocab_size", 1, 1 << 8, 2)?,
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
            gate: Gate::None,
            up_bias: true,
            down_bias: true,
        },
        layers: vec![LayerSpec { mask: Mask::Full, rope: None }; sizes.layers],
        task,
    })
}
