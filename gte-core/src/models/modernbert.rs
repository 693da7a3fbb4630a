//! ModernBERT (Warner et al. 2024, <https://arxiv.org/abs/2412.13663>; transformers'
//! `modeling_modernbert.py`): gte-modernbert-base and its reranker,
//! Zhinao-ChineseModernBert-Embedding, granite-embedding r2.
//!
//! Pre-norm layers without biases, a gated MLP, RoPE, and a window in most layers.

use serde_json::Value;

use super::read::{
    Sizes, activation, eps, head_activation, refuse_causal, refuse_what_is_not_computed, rope_of, size, task,
};
use super::{
    Architecture, AttentionSpec, Choices, ClassifierSpec, Family, Gate, Key, LayerSpec, MlpSpec, Names, NormKind,
    NormPlace, NormSpec, Pooling, RopeSpec, harmless, obeyed,
};
use crate::error::Result;
use crate::json::Json;
use crate::kernels::{Activation, Mask};

pub(super) static FAMILY: Family =
    Family { model_types: &["modernbert"], class: "ModernBert", read, names: &[NAMES], keys: KEYS };

const NAMES: Names = Names {
    words: "embeddings.tok_embeddings",
    positions: "",
    types: "",
    tasks: "",
    embedding_norm: "embeddings.norm",
    layer: "layers.",
    qkv: &["attn.Wqkv"],
    q_norm: "",
    k_norm: "",
    attention_output: "attn.Wo",
    attention_norm: "attn_norm",
    up: &["mlp.Wi"],
    down: "mlp.Wo",
    mlp_norm: "mlp_norm",
    final_norm: "final_norm",
    head_dense: "head.dense",
    head_norm: "head.norm",
    head_out: "classifier",
    language: "",
    harmless: &["decoder.", "head.", "rotary_emb."],
};

static KEYS: &[Key] = &[
    obeyed("attention_bias", "default false"),
    obeyed("classifier_activation", "for classifiers; default gelu"),
    obeyed("classifier_bias", "for the dense layer of classifiers; default false"),
    obeyed("classifier_pooling", "for classifiers: cls or mean; default cls; for embedders the modules decide"),
    obeyed("global_attn_every_n_layers", "default 3"),
    obeyed("global_rope_theta", "default 160000"),
    obeyed("hidden_activation", "default gelu"),
    obeyed("hidden_size", "default 768"),
    obeyed("intermediate_size", "default 1152"),
    obeyed("layer_norm_eps", "if norm_eps is missing"),
    obeyed("layer_types", "full_attention or sliding_attention, per layer"),
    obeyed("local_attention", "a token attends to half of it on each side; default 128"),
    obeyed("local_rope_theta", "default 10000"),
    obeyed("max_position_embeddings", "the length of the longest text; default 8192"),
    obeyed("mlp_bias", "default false"),
    obeyed("norm_bias", "default false"),
    obeyed("norm_eps", "default 1e-5"),
    obeyed("num_attention_heads", "default 12"),
    obeyed("num_hidden_layers", "default 22"),
    obeyed("rope_parameters", "per layer type: default or linear"),
    obeyed("rope_scaling", "for both layer types"),
    obeyed("sliding_window", "half of local_attention, which it overrides"),
    obeyed("vocab_size", "default 50368"),
    harmless("decoder_bias", "only for the head of pre-training"),
    harmless("deterministic_flash_attn", "results are always the same"),
    harmless("embedding_dropout", "only for training"),
    harmless("initializer_cutoff_factor", "only for training"),
    harmless("mlp_dropout", "only for training"),
    harmless("pad_token_id", "there is no padding"),
    harmless("position_embedding_type", "never read: always RoPE"),
    harmless("reference_compile", "changes the way of computing, not the result"),
    harmless("repad_logits_with_grad", "only for training"),
    harmless("sparse_pred_ignore_index", "only for training"),
    harmless("sparse_prediction", "only for the head of pre-training"),
    harmless("tie_word_embeddings", "only for the head of pre-training"),
];

fn read(json: &Json, _choices: &Choices) -> Result<Architecture> {
    refuse_what_is_not_computed(json)?;
    refuse_causal(json)?;
    let sizes = Sizes::read(json, [768, 22, 12, 1152, 50368, 8192])?;
    let head_dim = sizes.head_dim(json)?;
    let flag = |key: &str| Ok::<bool, crate::error::Error>(json.flag(key)?.unwrap_or(false));
    let (norm_bias, attention_bias, mlp_bias) = (flag("norm_bias")?, flag("attention_bias")?, flag("mlp_bias")?);
    // transformers' own name for half of it.
    let window = match json.get("sliding_window").filter(|value| !value.is_null()) {
        Some(_) => size(json, "sliding_window", 0, 1 << 22, 64)?,
        None => size(json, "local_attention", 0, 1 << 22, 128)? / 2,
    };
    let ropes = [
        rope(json, "full_attention", "global_rope_theta", 160_000.0)?,
        rope(json, "sliding_attention", "local_rope_theta", 10_000.0)?,
    ];
    let layer = |local: bool| match local {
        false => LayerSpec { mask: Mask::Full, rope: Some(ropes[0]) },
        true => LayerSpec { mask: Mask::Window(window), rope: Some(ropes[1]) },
    };
    let head = ClassifierSpec {
        labels: 1,
        pooling: classifier_pooling(json)?,
        dense: Some((
            head_activation(activation(json, "classifier_activation", Activation::Gelu)?),
            flag("classifier_bias")?,
        )),
        norm: true,
        out_bias: true,
        pad: None,
    };
    Ok(Architecture {
        family: &FAMILY,
        hidden: sizes.hidden,
        vocab: sizes.vocab,
        max_tokens: sizes.positions,
        positions: None,
        token_types: 0,
        task_types: 0,
        embedding_norm: true,
        norm: NormSpec {
            kind: NormKind::Layer,
            eps: eps(json, &["norm_eps", "layer_norm_eps"], 1e-5)?,
            bias: norm_bias,
            place: NormPlace::Before,
            first_attention: false,
            at_end: true,
        },
        attention: AttentionSpec {
            heads: sizes.heads,
            kv_heads: sizes.heads,
            head_dim,
            qk_norm: false,
            qkv_bias: attention_bias,
            output_bias: attention_bias,
        },
        mlp: MlpSpec {
            inner: sizes.inner,
            activation: activation(json, "hidden_activation", Activation::Gelu)?,
            gate: Gate::First,
            up_bias: mlp_bias,
            down_bias: mlp_bias,
        },
        layers: local_layers(json, sizes.layers)?.into_iter().map(layer).collect(),
        task: task(json, FAMILY.class, head)?,
    })
}

/// Which layers have a window: according to `layer_types`, or else all except every n-th.
fn local_layers(json: &Json, layers: usize) -> Result<Vec<bool>> {
    let Some(types) = json.get("layer_types").filter(|v| !v.is_null()) else {
        let every = size(json, "global_attn_every_n_layers", 1, 1 << 9, 3)?;
        return Ok((0..layers).map(|i| i % every != 0).collect());
    };
    let local = |kind: &Value| match kind.as_str() {
        Some("full_attention") => Ok(false),
        Some("sliding_attention") => Ok(true),
        _ => Err(json.unsupported("layer_types", &kind.to_string(), "full_attention, sliding_attention")),
    };
    let types = types.as_array().ok_or_else(|| json.invalid("`layer_types` is not a list"))?;
    if types.len() != layers {
        return Err(json.invalid(format_args!("`layer_types` has {} entries for {layers} layers", types.len())));
    }
    types.iter().map(local).collect()
}

fn classifier_pooling(json: &Json) -> Result<Pooling> {
    match json.string("classifier_pooling")? {
        None | Some("cls") => Ok(Pooling::Cls),
        Some("mean") => Ok(Pooling::Mean),
        Some(other) => Err(json.unsupported("classifier_pooling", &format!("\"{other}\""), "cls, mean")),
    }
}

/// The RoPE of one type of layer. The new spelling has one object per type, the old one a theta per
/// type.
fn rope(json: &Json, layer_type: &str, theta_key: &str, default: f64) -> Result<RopeSpec> {
    let of_type = match json.object("rope_parameters")? {
        Some(all) => all.object(layer_type)?,
        None => None,
    };
    let for_both = json.object("rope_scaling")?;
    let objects: Vec<&Json> = of_type.iter().chain(&for_both).collect();
    rope_of(&objects, json.number(theta_key)?.unwrap_or(default), json)
}
