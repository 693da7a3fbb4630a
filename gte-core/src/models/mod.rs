//! Models are data: this module reads the `config.json` of a family into an [`Architecture`], and
//! knows the names of its tensors.
//!
//! There is one file per family. Nothing else in the crate knows a family or spells a tensor's
//! name.

mod architecture;
mod bert;
mod ernie;
mod modernbert;
mod new;
mod pooling;
mod qwen;
mod read;
mod xlm_roberta;

pub(crate) use architecture::{
    Architecture, AttentionSpec, ClassifierSpec, Gate, HeadActivation, LayerSpec, MlpSpec, Names, NormKind, NormPlace,
    NormSpec, PositionRule, RopeSpec, Task, TensorSpec,
};
pub use pooling::Pooling;

use crate::error::Result;
use crate::json::{Fate, Json, Key};

/// How to read the `config.json` of a family, and the names of its tensors.
pub(crate) struct Family {
    /// The values of `model_type` for this family.
    pub(crate) model_types: &'static [&'static str],
    /// The beginning of the class names in `architectures`, for files without a `model_type`.
    pub(crate) class: &'static str,
    /// Reads `config.json`. Anything that this engine cannot compute is refused, with the key's
    /// name.
    pub(crate) read: fn(&Json, &Choices) -> Result<Architecture>,
    /// The spellings of tensor names that occur in files of the family.
    pub(crate) names: &'static [Names],
    /// The keys that `read` obeys or refuses, and those that it ignores, with the reason.
    pub(crate) keys: &'static [Key],
}

/// The caller's choices for what a model's files leave open.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Choices {
    /// Whether a token only attends to the tokens before it.
    pub(crate) causal: Option<bool>,
}

/// All families.
pub(crate) static FAMILIES: [&Family; 7] = [
    &bert::FAMILY,
    &xlm_roberta::FAMILY,
    &ernie::FAMILY,
    &new::FAMILY,
    &modernbert::FAMILY,
    &qwen::QWEN3,
    &qwen::QWEN2,
];

/// Reads `config.json` according to its family.
///
/// # Errors
/// [`Error::Unsupported`](crate::Error::Unsupported) for an unknown family, and for anything that a
/// family cannot compute; [`Error::InvalidFile`](crate::Error::InvalidFile) for impossible values.
pub(crate) fn read(json: &Json, choices: &Choices) -> Result<Architecture> {
    let family = family(json)?;
    let architecture = (family.read)(json, choices)?;
    let known: Vec<Key> = family.keys.iter().chain(COMMON).copied().collect();
    json.log_unknown(&known);
    Ok(architecture)
}

fn family(json: &Json) -> Result<&'static Family> {
    let names = || FAMILIES.iter().flat_map(|f| f.model_types).copied().collect::<Vec<_>>().join(", ");
    let class = json.get("architectures").and_then(|a| a.get(0)?.as_str()).unwrap_or_default().to_owned();
    match json.string("model_type")? {
        Some(model_type) => FAMILIES
            .iter()
            .find(|f| f.model_types.contains(&model_type))
            .copied()
            .ok_or_else(|| json.unsupported("model_type", &format!("\"{model_type}\""), &names())),
        None => FAMILIES
            .iter()
            .find(|f| class.starts_with(f.class))
            .copied()
            .ok_or_else(|| json.unsupported("model_type", "absent", &names())),
    }
}

/// Keys that have the same meaning in every family.
pub(crate) static COMMON: &[Key] = &[
    harmless("_name_or_path", "the origin of the file"),
    harmless("attention_dropout", "only for training"),
    harmless("attention_probs_dropout_prob", "only for training"),
    harmless("auto_map", "remote code; the architecture is computed by this engine"),
    harmless("bos_token_id", "ids come from the tokenizer"),
    harmless("classifier_dropout", "only for training"),
    harmless("cls_token_id", "ids come from the tokenizer"),
    harmless("dtype", "the tensors have their own types"),
    harmless("eos_token_id", "ids come from the tokenizer"),
    harmless("gradient_checkpointing", "only for training"),
    harmless("hidden_dropout_prob", "only for training"),
    harmless("initializer_range", "only for training"),
    harmless("output_attentions", "adds outputs, and does not change the others"),
    harmless("output_hidden_states", "adds outputs, and does not change the others"),
    harmless("output_past", "a cache for generation"),
    harmless("problem_type", "only for training"),
    harmless("sep_token_id", "ids come from the tokenizer"),
    harmless("torch_dtype", "the tensors have their own types"),
    harmless("transformers_version", "the version that wrote the file"),
    harmless("use_cache", "a cache for generation"),
    obeyed("architectures", "the class determines the head: an encoder, a classifier, a language model"),
    obeyed("id2label", "the number of labels of a classifier"),
    obeyed("model_type", "selects the family"),
    obeyed("num_labels", "the number of labels of a classifier"),
    refused("add_cross_attention", "cross attention is not supported"),
    refused("chunk_size_feed_forward", "only 0: other values only change the order of additions in the reference"),
    refused("is_decoder", "a causal mask is not supported in encoder families"),
    refused("is_encoder_decoder", "only a single stack of layers is supported"),
    refused("is_causal", "a causal mask is only supported for decoders"),
    refused("transformers_weights", "the weights are in model.safetensors or pytorch_model.bin"),
    refused("pruned_heads", "pruned heads change the shapes of a layer"),
    refused("quantization_config", "other quantized formats are not supported"),
];

pub(crate) const fn obeyed(key: &'static str, why: &'static str) -> Key {
    Key { file: "config.json", key, fate: Fate::Obeyed, why }
}

pub(crate) const fn refused(key: &'static str, why: &'static str) -> Key {
    Key { file: "config.json", key, fate: Fate::Refused, why }
}

pub(crate) const fn harmless(key: &'static str, why: &'static str) -> Key {
    Key { file: "config.json", key, fate: Fate::Harmless, why }
}

/// The family's name of a tensor: without the prefix of an enclosing model, and with PyTorch's
/// current name for LayerNorm instead of TensorFlow's.
pub(crate) fn canonical(name: &str, prefix: &str) -> String {
    let name = name.strip_prefix(prefix).unwrap_or(name);
    match name.rsplit_once(".LayerNorm.") {
        Some((module, "gamma")) => format!("{module}.LayerNorm.weight"),
        Some((module, "beta")) => format!("{module}.LayerNorm.bias"),
        _ => name.to_owned(),
    }
}
