//! Parts of `config.json` that families read in the same way: sizes, activations, labels, RoPE, and
//! values that none of them can compute.

use serde_json::Value;

use super::{ClassifierSpec, HeadActivation, Pooling, RopeSpec, Task};
use crate::error::Result;
use crate::json::{Json, shown};
use crate::kernels::Activation;

/// Maximum sizes. A file with a larger size is not a model but an attack on the allocator.
pub(super) const MAX_HIDDEN: u64 = 1 << 14;
pub(super) const MAX_LAYERS: u64 = 1 << 9;
pub(super) const MAX_HEADS: u64 = 1 << 9;
pub(super) const MAX_INNER: u64 = 1 << 17;
pub(super) const MAX_VOCAB: u64 = 1 << 22;
pub(super) const MAX_POSITIONS: u64 = 1 << 22;

/// The sizes that have the same keys in every family, with the defaults of its class in
/// transformers.
pub(super) struct Sizes {
    pub(super) hidden: usize,
    pub(super) layers: usize,
    pub(super) heads: usize,
    pub(super) inner: usize,
    pub(super) vocab: usize,
    pub(super) positions: usize,
}

impl Sizes {
    /// `defaults`: hidden, layers, heads, inner, vocab, positions.
    pub(super) fn read(json: &Json, defaults: [usize; 6]) -> Result<Self> {
        let [hidden, layers, heads, inner, vocab, positions] = defaults;
        Ok(Self {
            hidden: size(json, "hidden_size", 1, MAX_HIDDEN, hidden)?,
            layers: size(json, "num_hidden_layers", 1, MAX_LAYERS, layers)?,
            heads: size(json, "num_attention_heads", 1, MAX_HEADS, heads)?,
            inner: size(json, "intermediate_size", 1, MAX_INNER, inner)?,
            vocab: size(json, "vocab_size", 1, MAX_VOCAB, vocab)?,
            positions: size(json, "max_position_embeddings", 1, MAX_POSITIONS, positions)?,
        })
    }

    /// Number of values per head, if the heads divide the hidden state.
    pub(super) fn head_dim(&self, json: &Json) -> Result<usize> {
        if self.hidden.is_multiple_of(self.heads) {
            return Ok(self.hidden / self.heads);
        }
        Err(json.invalid(format_args!(
            "`hidden_size` {} is not a multiple of `num_attention_heads` {}",
            self.hidden, self.heads
        )))
    }
}

/// A size from `min` to `max`. Default: `default` if the key is missing; null is an error, as in
/// transformers.
pub(super) fn size(json: &Json, key: &str, min: u64, max: u64, default: usize) -> Result<usize> {
    match json.get(key) {
        None => Ok(default),
        Some(value) => match value.as_u64() {
            Some(n) if (min..=max).contains(&n) => Ok(n as usize),
            _ => Err(json.invalid(format_args!("`{key}` is {}, expected {min} to {max}", shown(value)))),
        },
    }
}

/// Refuses every value of `key` other than `value`, a missing key and null.
pub(super) fn must_be(json: &Json, key: &str, value: &Value) -> Result<()> {
    match json.get(key).filter(|found| !found.is_null() && *found != value) {
        None => Ok(()),
        Some(found) => Err(json.unsupported(key, &shown(found), &value.to_string())),
    }
}

/// Refuses what no family here computes: decoders, cross attention, pruned heads, other quantized
/// formats.
pub(super) fn refuse_what_is_not_computed(json: &Json) -> Result<()> {
    for key in ["is_decoder", "add_cross_attention", "is_encoder_decoder"] {
        must_be(json, key, &Value::Bool(false))?;
    }
    must_be(json, "chunk_size_feed_forward", &Value::from(0))?;
    for key in ["pruned_heads", "quantization_config", "transformers_weights"] {
        if let Some(value) = json.get(key).filter(|v| v.as_object().is_none_or(|o| !o.is_empty())) {
            return Err(json.unsupported(key, &value.to_string(), "none"));
        }
    }
    Ok(())
}

/// Refuses a causal mask, which an encoder family cannot compute.
pub(super) fn refuse_causal(json: &Json) -> Result<()> {
    must_be(json, "is_causal", &Value::Bool(false))
}

/// The activation of the MLP under `key`, by the names in transformers' `activations.py`.
pub(super) fn activation(json: &Json, key: &str, default: Activation) -> Result<Activation> {
    let Some(name) = json.string(key)? else { return Ok(default) };
    match name {
        "gelu" | "gelu_python" => Ok(Activation::Gelu),
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" | "gelu_python_tanh" => Ok(Activation::GeluTanh),
        "relu" => Ok(Activation::Relu),
        "silu" | "swish" => Ok(Activation::Silu),
        name => Err(json.unsupported(
            key,
            &format!("\"{name}\""),
            "gelu, gelu_python, gelu_new, gelu_pytorch_tanh, gelu_fast, relu, silu, swish",
        )),
    }
}

/// The same activation for the layers after pooling.
pub(super) fn head_activation(activation: Activation) -> HeadActivation {
    match activation {
        Activation::None => HeadActivation::Identity,
        Activation::Gelu => HeadActivation::Gelu,
        Activation::GeluTanh => HeadActivation::GeluTanh,
        Activation::Silu => HeadActivation::Silu,
        Activation::Relu => HeadActivation::Relu,
    }
}

/// The epsilon that LayerNorm or RMSNorm adds to the variance, under the first of `keys` that
/// exists.
pub(super) fn eps(json: &Json, keys: &[&str], default: f32) -> Result<f32> {
    for key in keys {
        if let Some(Value::Null) = json.get(key) {
            return Err(json.invalid(format_args!("`{key}` is null, expected a number")));
        }
        match json.number(key)? {
            Some(eps) if (0.0..0.1).contains(&eps) => return Ok(eps as f32),
            Some(eps) => return Err(json.unsupported(key, &eps.to_string(), "0 to 0.1")),
            None => {}
        }
    }
    Ok(default)
}

/// The last part of each class name in `architectures`, after `class`: `Model`,
/// `ForSequenceClassification`, … Only the first entry counts, as in transformers.
pub(super) fn heads(json: &Json, class: &str) -> Vec<String> {
    let entries = json.get("architectures").and_then(|v| v.as_array().cloned()).unwrap_or_default();
    entries.iter().filter_map(|e| e.as_str()?.strip_prefix(class).map(str::to_owned)).collect()
}

/// The task of an encoder according to its class. `spec` is what its `ForSequenceClassification`
/// computes.
pub(super) fn task(json: &Json, class: &str, spec: ClassifierSpec) -> Result<Task> {
    match heads(json, class).first().map(String::as_str) {
        Some("ForSequenceClassification") => Ok(Task::Classify(ClassifierSpec { labels: labels(json)?, ..spec })),
        Some(head @ ("ForQuestionAnswering" | "ForMultipleChoice" | "ForTokenClassification")) => Err(json
            .unsupported(
                "architectures",
                &format!("\"{class}{head}\""),
                &format!("{class}Model, {class}ForMaskedLM, {class}ForSequenceClassification"),
            )),
        _ => Ok(Task::Embed { sparse: false }),
    }
}

/// The number of labels: `id2label`, else `num_labels`, else 2, the default of transformers.
pub(super) fn labels(json: &Json) -> Result<usize> {
    let named = json.get("id2label").and_then(|v| v.as_object().map(|o| o.len()));
    match named {
        Some(labels) if labels > 0 => Ok(labels),
        _ => size(json, "num_labels", 1, 1 << 12, 2),
    }
}

/// The classifier of BERT and similar models: the first token, a dense layer with tanh, an output
/// layer with bias.
pub(super) const FIRST_TOKEN_TANH: ClassifierSpec = ClassifierSpec {
    labels: 1,
    pooling: Pooling::Cls,
    dense: Some((HeadActivation::Tanh, true)),
    norm: false,
    out_bias: true,
    pad: None,
};

/// The RoPE of a model with only one, in the old spelling (`rope_theta`, `rope_scaling`) or the new
/// one (`rope_parameters`). If both exist, the old one counts, as in transformers.
pub(super) fn rope(json: &Json, default_theta: f64) -> Result<RopeSpec> {
    let old_theta = json.number("rope_theta")?;
    let scaling = match json.object("rope_scaling")? {
        Some(scaling) => Some(scaling),
        None => json.object("rope_parameters")?,
    };
    match scaling {
        Some(scaling) => rope_of(&[&scaling], old_theta.unwrap_or(default_theta), json),
        None => rope_of(&[], old_theta.unwrap_or(default_theta), json),
    }
}

/// A RoPE from objects with `rope_type` (or `type`), `rope_theta` and `factor`. Later objects
/// override earlier ones.
pub(super) fn rope_of(objects: &[&Json], default_theta: f64, json: &Json) -> Result<RopeSpec> {
    let mut spec = RopeSpec { theta: default_theta, divisor: 1.0 };
    for object in objects {
        if let Some(theta) = object.number("rope_theta")? {
            spec.theta = theta;
        }
        must_be(object, "partial_rotary_factor", &Value::from(1.0))?;
        let key = if object.string("rope_type")?.is_some() { "rope_type" } else { "type" };
        match object.string(key)? {
            None | Some("default") => {}
            Some("linear") => spec.divisor = factor(object)?,
            Some(other) => {
                return Err(object.unsupported(key, &format!("\"{other}\""), "default, linear"));
            }
        }
    }
    if spec.theta.is_finite() && spec.theta > 0.0 {
        return Ok(spec);
    }
    Err(json.unsupported("rope_theta", &spec.theta.to_string(), "a number above 0"))
}

/// The `factor` of a scaling, which is required.
pub(super) fn factor(scaling: &Json) -> Result<f64> {
    match scaling.number("factor")? {
        Some(factor) if factor.is_finite() && factor > 0.0 => Ok(factor),
        Some(factor) => Err(scaling.unsupported("factor", &factor.to_string(), "a number above 0")),
        None => Err(scaling.invalid("`factor` of the RoPE scaling is missing")),
    }
}
