//! Which files of a model's repository the engine reads, and whether a directory has all required
//! files.

use std::path::Path;

use serde_json::Value;

use super::names::{SENTENCE_TRANSFORMERS, TRANSFORMER, VOCABULARIES};
use crate::error::{Error, Result};

/// Files that are read from the model's directory, if they exist.
const ROOT: [&str; 3] = ["modules.json", "config_sentence_transformers.json", "configuration.json"];

/// Files that may be missing without an error, so their absence is noted in the cache.
pub(super) const OPTIONAL: [&str; 6] = [
    "modules.json",
    "config_sentence_transformers.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "sparse_linear.pt",
    "colbert_linear.pt",
];

/// Files with weights, best first: a single file, or the index of several.
const WEIGHTS: [&str; 4] =
    ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"];

/// Why a model is not complete.
pub(super) enum Missing {
    /// The repository lacks a required file.
    File(String),
    /// A file could not be downloaded.
    Failed(Error),
}

impl Missing {
    /// The error about `what` on `hub`.
    pub(super) fn or(self, hub: &str, what: &str) -> Error {
        match self {
            Self::File(file) => Error::NotOnHub { hub: hub.to_owned(), what: format!("{file} in {what}") },
            Self::Failed(error) => error,
        }
    }
}

impl From<Error> for Missing {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Calls `fetch` for each file of the repository that the engine reads. `names` are all files of
/// the repository; the downloaded files are stored in `dir`.
pub(super) fn fetch(
    dir: &Path,
    names: &[&str],
    fetch: impl Fn(&str) -> Result<()>,
) -> std::result::Result<(), Missing> {
    // The list comes over the network: none of its names may leave the directory.
    let plain = |name: &&&str| name.split(['/', '\\']).all(|part| !part.is_empty() && !part.starts_with('.'));
    let names: Vec<&str> = names.iter().filter(plain).copied().collect();
    let has = |name: &str| names.contains(&name);
    if has("modules.json") {
        fetch("modules.json")?;
    }
    let folders = Folders::of(dir);
    let config = beneath(&folders.transformer, "config.json");
    if !has(&config) {
        return Err(Missing::File(config));
    }
    let vocabularies = if has(&beneath(&folders.transformer, "tokenizer.json")) { &[][..] } else { &VOCABULARIES };
    for name in &names {
        let (folder, file) = name.rsplit_once('/').unwrap_or(("", name));
        let of_transformer = folder == folders.transformer
            && [&TRANSFORMER[..], &SENTENCE_TRANSFORMERS, vocabularies].iter().any(|names| names.contains(&file));
        let of_module = file == "config.json" && folders.modules.iter().any(|(_, module)| module == folder);
        if of_transformer || of_module || ROOT.contains(name) {
            fetch(name)?;
        }
    }
    let dense = folders.modules.iter().filter(|(kind, _)| kind == "Dense").map(|(_, folder)| folder);
    for folder in std::iter::once(&folders.transformer).chain(dense) {
        let best = WEIGHTS.iter().map(|name| beneath(folder, name)).find(|name| has(name));
        let best =
            best.ok_or_else(|| Missing::File(format!("{} or pytorch_model.bin", beneath(folder, WEIGHTS[0]))))?;
        fetch(&best)?;
        for shard in shards(dir, &best).unwrap_or_default() {
            let shard = beneath(folder, &shard);
            if !has(&shard) {
                return Err(Missing::File(shard));
            }
            fetch(&shard)?;
        }
    }
    Ok(())
}

/// Whether `dir` has all required files.
pub(super) fn is_complete(dir: &Path) -> bool {
    let has = |file: &str| dir.join(file).is_file();
    let folders = Folders::of(dir);
    let weights = |folder: &str| {
        WEIGHTS.iter().map(|name| beneath(folder, name)).any(|name| {
            let whole = |shards: Vec<String>| shards.iter().all(|shard| has(&beneath(folder, shard)));
            has(&name) && (!name.ends_with(".index.json") || shards(dir, &name).is_some_and(whole))
        })
    };
    let tokenizer =
        ["tokenizer.json"].iter().chain(&VOCABULARIES).any(|file| has(&beneath(&folders.transformer, file)));
    let module = |(kind, folder): &(String, String)| match kind.as_str() {
        "Dense" => has(&beneath(folder, "config.json")) && weights(folder),
        "Pooling" | "LogitScore" => has(&beneath(folder, "config.json")),
        _ => true,
    };
    let config = has(&beneath(&folders.transformer, "config.json"));
    config && tokenizer && weights(&folders.transformer) && folders.modules.iter().all(module)
}

/// The folders that `modules.json` names. Its errors are reported later, when the model is loaded.
struct Folders {
    transformer: String,            // empty: the model's directory
    modules: Vec<(String, String)>, // kind and folder of the other modules
}

impl Folders {
    fn of(dir: &Path) -> Self {
        let read = || serde_json::from_slice::<Value>(&std::fs::read(dir.join("modules.json")).ok()?).ok();
        let mut folders = Self { transformer: String::new(), modules: Vec::new() };
        for module in read().as_ref().and_then(Value::as_array).into_iter().flatten() {
            let (Some(kind), Some(path)) = (module["type"].as_str(), module["path"].as_str()) else { continue };
            let kind = kind.rsplit('.').next().unwrap_or_default().to_owned();
            let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
            match kind.as_str() {
                "Transformer" => folders.transformer = parts.join("/"),
                _ => folders.modules.push((kind, parts.join("/"))),
            }
        }
        folders
    }
}

fn beneath(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

/// The files that the index of a sharded checkpoint names; `None` if it is not an index.
fn shards(dir: &Path, index: &str) -> Option<Vec<String>> {
    if !index.ends_with(".index.json") {
        return None;
    }
    let index: Value = serde_json::from_slice(&std::fs::read(dir.join(index)).ok()?).ok()?;
    let mut shards: Vec<String> =
        index["weight_map"].as_object()?.values().filter_map(|v| v.as_str().map(str::to_owned)).collect();
    shards.sort_unstable();
    shards.dedup();
    Some(shards)
}
