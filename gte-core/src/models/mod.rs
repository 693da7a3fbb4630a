//! Models are data: what a family's `config.json` means, as an [`Architecture`], and what its tensors are called.
//!
//! One file per family. Nothing else in the crate knows a family or spells a tensor's name.

mod architecture;
mod bert;
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

/// How to read the `config.json` of some models, and what their tensors are called.
pub(crate) struct Family {
    /// The values of `model_type` that mean this family.
    pub(crate) model_types: &'static [&'static str],
    /// How a class of `architectures` begins, for files without a `model_type`.
    pub(crate) class: &'static str,
    /// Reads `config.json`. What this engine does not compute is refused by key.
    pub(crate) read: fn(&Json, &Choices) -> Result<Architecture>,
    /// The spellings of tensor names that files of the family use.
    pub(crate) names: &'static [Names],
    /// The keys that `read` obeys or refuses, and those that it passes over with the reason.
    pub(crate) keys: &'static [Key],
}

/// What a caller says where a model's files leave it open.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Choices {
    /// Whether a token sees only the tokens before it.
    pub(crate) causal: Option<bool>,
}

/// All families.
pub(crate) static FAMILIES: [&Family; 6] =
    [&bert::FAMILY, &xlm_roberta::FAMILY, &new::FAMILY, &modernbert::FAMILY, &qwen::QWEN3, &qwen::QWEN2];

/// Reads `config.json` as its family says.
///
/// # Errors
/// [`Error::Unsupported`](crate::Error::Unsupported) for a family that is not here, and for what a family does not
/// compute; [`Error::InvalidFile`](crate::Error::InvalidFile) for values that make no sense.
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

/// Keys that mean the same in every family.
pub(crate) static COMMON: &[Key] = &[
    harmless("_name_or_path", "where the file came from"),
    harmless("attention_dropout", "training only"),
    harmless("attention_probs_dropout_prob", "training only"),
    harmless("auto_map", "remote code; the architecture is computed by this engine"),
    harmless("bos_token_id", "ids come from the tokenizer"),
    harmless("classifier_dropout", "training only"),
    harmless("cls_token_id", "ids come from the tokenizer"),
    harmless("dtype", "the tensors say how they are stored"),
    harmless("eos_token_id", "ids come from the tokenizer"),
    harmless("gradient_checkpointing", "training only"),
    harmless("hidden_dropout_prob", "training only"),
    harmless("initializer_range", "training only"),
    harmless("output_attentions", "asks for more outputs, not for other ones"),
    harmless("output_hidden_states", "asks for more outputs, not for other ones"),
    harmless("output_past", "a cache for generation"),
    harmless("problem_type", "the loss of training"),
    harmless("sep_token_id", "ids come from the tokenizer"),
    harmless("torch_dtype", "the tensors say how they are stored"),
    harmless("transformers_version", "who wrote the file"),
    harmless("use_cache", "a cache for generation"),
    obeyed("architectures", "the class tells the head: an encoder, a classifier, a language model"),
    obeyed("id2label", "counts the labels of a classifier"),
    obeyed("model_type", "chooses the family"),
    obeyed("num_labels", "the labels of a classifier"),
    refused("add_cross_attention", "cross attention is not computed"),
    refused("chunk_size_feed_forward", "only 0: the result is the same, the reference adds in another order"),
    refused("is_decoder", "an encoder family with a causal mask is not computed"),
    refused("is_encoder_decoder", "only one stack of layers is computed"),
    refused("is_causal", "a causal mask is computed for decoders alone"),
    refused("transformers_weights", "the weights are in model.safetensors or pytorch_model.bin"),
    refused("pruned_heads", "pruned heads change the shapes of a layer"),
    refused("quantization_config", "weights in another quantized format are not read"),
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

/// The family's name of a tensor: without the prefix of its wrapper, and LayerNorm as PyTorch names it now, not as
/// TensorFlow did.
pub(crate) fn canonical(name: &str, prefix: &str) -> String {
    let name = name.strip_prefix(prefix).unwrap_or(name);
    match name.rsplit_once(".LayerNorm.") {
        Some((module, "gamma")) => format!("{module}.LayerNorm.weight"),
        Some((module, "beta")) => format!("{module}.LayerNorm.bias"),
        _ => name.to_owned(),
    }
}
