//! What the Hugging Face hub and ModelScope say over HTTP, and how their Python libraries lay out their caches.
//!
//! Hugging Face: `GET /api/models/{id}/revision/{revision}?blobs=true` gives the commit and every file's size and hash,
//! `GET /{id}/resolve/{commit}/{file}` the content; the cache is
//! `models--owner--name/{blobs/<hash>, snapshots/<commit>/<file> → blob, refs/<revision>, .no_exist/<commit>/<file>}`.
//! ModelScope: `GET /api/v1/models/{id}/repo/files?Revision=…&Recursive=true` and
//! `GET /api/v1/models/{id}/repo?Revision=…&FilePath=…`; the cache is `models/owner/name/<file>`.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::HubOptions;
use super::download::{Announced, Client, Hash, Place, checksum};
use crate::{Error, Result};

/// What an id on ModelScope begins with.
pub(super) const MODELSCOPE: &str = "modelscope:";

/// Files that are fetched where the model has them, besides its weights.
const SMALL: [&str; 9] = [
    "config.json",
    "configuration.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
];

/// Weights, best first: a single file, or the index of several.
const WEIGHTS: [&str; 4] =
    ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"];

/// The directory of the model `id`, complete.
pub(super) fn fetch(id: &str, options: &HubOptions) -> Result<PathBuf> {
    let (modelscope, id) = match id.strip_prefix(MODELSCOPE) {
        Some(id) => (true, id),
        None => (false, id),
    };
    let bad = |reason: &str| Error::InvalidModelId { id: id.to_owned(), reason: reason.to_owned() };
    let (owner, name) = id.split_once('/').ok_or_else(|| bad("expected a directory that exists, or owner/name"))?;
    for part in [owner, name] {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if part.is_empty() || !part.chars().all(allowed) || part.starts_with('.') || part.contains("..") {
            return Err(bad("expected owner/name of letters, digits, `-`, `_` and `.`"));
        }
    }
    let revision = options.revision.as_deref().unwrap_or(if modelscope { "master" } else { "main" });
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    if revision.is_empty()
        || !revision.chars().all(plain)
        || revision.split('/').any(|p| p.is_empty() || p.starts_with('.'))
    {
        return Err(bad(&format!("revision `{revision}` is neither a commit nor a branch or tag")));
    }
    if modelscope { from_modelscope(owner, name, revision, options) } else { from_hugging_face(id, revision, options) }
}

fn from_hugging_face(id: &str, revision: &str, options: &HubOptions) -> Result<PathBuf> {
    let folder = format!("models--{}", id.replace('/', "--"));
    let root = options.cache.join(&folder);
    let what = format!("{id} at {revision}");
    let is_commit = revision.len() == 40 && revision.bytes().all(|b| b.is_ascii_hexdigit());
    let cached_commit = || match is_commit {
        true => Some(revision.to_owned()),
        false => std::fs::read_to_string(root.join("refs").join(revision)).ok().map(|c| c.trim().to_owned()),
    };
    let cached = || cached_commit().map(|c| root.join("snapshots").join(c)).filter(|dir| is_complete(dir));
    if options.offline {
        return cached().ok_or_else(|| Error::Offline { what, cache: root.clone() });
    }
    // A commit never changes: complete is complete. `modules.json` says that the pooling came along, or was looked for.
    let settled = |dir: &PathBuf| {
        let absent = root.join(".no_exist").join(revision).join("modules.json");
        is_commit && (dir.join("modules.json").exists() || absent.exists())
    };
    if let Some(dir) = cached().filter(settled) {
        return Ok(dir);
    }

    let endpoint = options.endpoint.trim_end_matches('/');
    let client = Client::new(endpoint, options);
    let url = format!("{endpoint}/api/models/{id}/revision/{}?blobs=true", revision.replace('/', "%2F"));
    let info = match client.json(&url, &what) {
        Ok(info) => info,
        Err(error @ Error::Download { .. }) => {
            // A hub that cannot be reached must not stop a service whose model is here.
            let dir = cached().ok_or(error)?;
            tracing::warn!(model = id, revision, "the hub cannot be reached: using the cached model");
            return Ok(dir);
        }
        Err(error) => return Err(error),
    };
    let malformed = |reason: &str| Error::Download { url: url.clone(), reason: format!("unexpected answer: {reason}") };
    let commit = info["sha"].as_str().filter(|c| is_plain_name(c)).ok_or_else(|| malformed("no commit in `sha`"))?;
    let mut files = Vec::new();
    for sibling in info["siblings"].as_array().ok_or_else(|| malformed("no list in `siblings`"))? {
        let lfs = &sibling["lfs"];
        let hash = match (lfs["sha256"].as_str().or(lfs["oid"].as_str()), sibling["blobId"].as_str()) {
            (Some(sha256), _) => Hash::Sha256(sha256.to_lowercase()),
            (None, Some(sha1)) => Hash::GitSha1(sha1.to_lowercase()),
            (None, None) => return Err(malformed("a file without a hash: the mirror does not know `blobs=true`")),
        };
        let size = lfs["size"].as_u64().or(sibling["size"].as_u64());
        if let (Some(file), Some(size)) = (sibling["rfilename"].as_str(), size) {
            files.push(Announced { file: file.to_owned(), size, hash });
        }
    }

    let snapshot = root.join("snapshots").join(commit);
    let locks = options.cache.join(".locks").join(&folder);
    fetch_needed(&snapshot, &files, &what, endpoint, |file| {
        if !is_plain_name(file.hash.hex()) {
            return Err(malformed("a hash that is no hash"));
        }
        let link = snapshot.join(&file.file);
        if link.exists() {
            return Ok(());
        }
        let blob = root.join("blobs").join(file.hash.hex());
        let place = Place {
            target: blob.clone(),
            partial: blob.with_extension("incomplete"),
            lock: locks.join(file.hash.hex()).with_extension("lock"),
        };
        client.download(&format!("{endpoint}/{id}/resolve/{commit}/{}", file.file), file, &place)?;
        link_to(&blob, &link, file.file.matches('/').count() + 2)
    })?;
    if !files.iter().any(|f| f.file == "modules.json") {
        write_atomically(&root.join(".no_exist").join(commit).join("modules.json"), b"")?;
    }
    if !is_commit {
        write_atomically(&root.join("refs").join(revision), commit.as_bytes())?;
    }
    Ok(snapshot)
}

fn from_modelscope(owner: &str, name: &str, revision: &str, options: &HubOptions) -> Result<PathBuf> {
    let id = format!("{owner}/{name}");
    let what = format!("{id} at {revision}");
    // As the Python library does, which keeps dots out of a module's path.
    let dir = options.modelscope_cache.join("models").join(owner).join(name.replace('.', "___"));
    if options.offline {
        return if is_complete(&dir) { Ok(dir) } else { Err(Error::Offline { what, cache: dir }) };
    }
    let endpoint = options.modelscope_endpoint.trim_end_matches('/');
    let client = Client::new(endpoint, options);
    let url = format!("{endpoint}/api/v1/models/{id}/repo/files?Revision={revision}&Recursive=true");
    let listing = match client.json(&url, &what) {
        Ok(listing) => listing,
        Err(Error::Download { .. }) if is_complete(&dir) => {
            tracing::warn!(model = id, revision, "ModelScope cannot be reached: using the cached model");
            return Ok(dir);
        }
        Err(error) => return Err(error),
    };
    let malformed = |reason: &str| Error::Download { url: url.clone(), reason: format!("unexpected answer: {reason}") };
    let mut files = Vec::new();
    for entry in listing["Data"]["Files"].as_array().ok_or_else(|| malformed("no list in `Data.Files`"))? {
        if entry["Type"].as_str() == Some("tree") {
            continue;
        }
        if let (Some(file), Some(size), Some(sha256)) =
            (entry["Path"].as_str(), entry["Size"].as_u64(), entry["Sha256"].as_str())
        {
            files.push(Announced { file: file.to_owned(), size, hash: Hash::Sha256(sha256.to_lowercase()) });
        }
    }
    fetch_needed(&dir, &files, &what, endpoint, |file| {
        let target = dir.join(&file.file);
        // A checksum once verified is noted: hashing a large file anew at every start would take longer than loading it.
        let note = dir.join(".verified").join(file.file.replace('/', "--"));
        let noted = std::fs::read_to_string(&note).unwrap_or_default();
        let whole = std::fs::metadata(&target).is_ok_and(|m| m.len() == file.size);
        if whole && (noted == file.hash.hex() || checksum(&target, &file.hash, file.size)? == file.hash) {
            return write_atomically(&note, file.hash.hex().as_bytes());
        }
        // Another revision's file, or a damaged one.
        if target.exists() {
            std::fs::remove_file(&target).map_err(|e| Error::io(&target, e))?;
        }
        let partial = dir.join("._____temp").join(format!("{}.{}", file.file.replace('/', "--"), file.hash.hex()));
        let place = Place { target, lock: partial.with_extension("lock"), partial };
        let url = format!("{endpoint}/api/v1/models/{id}/repo?Revision={revision}&FilePath={}", file.file);
        client.download(&url, file, &place)?;
        write_atomically(&note, file.hash.hex().as_bytes())
    })?;
    Ok(dir)
}

/// Calls `fetch_one` for each file that the engine reads: the small ones, the poolings, and the best form of the weights.
fn fetch_needed(
    dir: &Path,
    files: &[Announced],
    what: &str,
    hub: &str,
    fetch_one: impl Fn(&Announced) -> Result<()>,
) -> Result<()> {
    let find = |name: &str| files.iter().find(|f| f.file == name);
    let missing = |file: &str| Error::NotOnHub { hub: hub.to_owned(), what: format!("{file} in {what}") };
    find("config.json").ok_or_else(|| missing("config.json"))?;
    for file in files {
        let pooling =
            file.file.split_once('/').is_some_and(|(folder, f)| folder.ends_with("_Pooling") && f == "config.json");
        if pooling || SMALL.contains(&file.file.as_str()) {
            fetch_one(file)?;
        }
    }
    let weights =
        WEIGHTS.iter().find_map(|name| find(name)).ok_or_else(|| missing("model.safetensors or pytorch_model.bin"))?;
    fetch_one(weights)?;
    if weights.file.ends_with(".index.json") {
        for shard in shards(&dir.join(&weights.file)).unwrap_or_default() {
            let plain = !shard.starts_with('.') && !shard.contains(['/', '\\']);
            fetch_one(find(&shard).filter(|_| plain).ok_or_else(|| missing(&shard))?)?;
        }
    }
    Ok(())
}

/// Whether `dir` has all that the engine cannot do without.
fn is_complete(dir: &Path) -> bool {
    let has = |file: &str| dir.join(file).is_file();
    let weights = WEIGHTS.iter().any(|name| {
        has(name)
            && (!name.ends_with(".index.json") || shards(&dir.join(name)).is_some_and(|s| s.iter().all(|f| has(f))))
    });
    has("config.json") && weights && (has("tokenizer.json") || has("vocab.txt"))
}

/// The files that the index of a sharded checkpoint names.
fn shards(index: &Path) -> Option<Vec<String>> {
    let index: Value = serde_json::from_slice(&std::fs::read(index).ok()?).ok()?;
    let mut shards: Vec<String> =
        index["weight_map"].as_object()?.values().filter_map(|v| v.as_str().map(str::to_owned)).collect();
    shards.sort_unstable();
    shards.dedup();
    Some(shards)
}

/// A name that is safe as the name of a file: no separators, no dots in front.
fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// Makes `link` point to `blob`, `up` folders above it; a copy where the file system has no symbolic links.
fn link_to(blob: &Path, link: &Path, up: usize) -> Result<()> {
    if let Some(parent) = link.parent() {
        std::fs::create_dir_all(parent).map_err(|e| Error::io(parent, e))?;
    }
    let name = blob.file_name().unwrap_or_default();
    let relative = PathBuf::from("../".repeat(up)).join("blobs").join(name);
    #[cfg(unix)]
    let linked = std::os::unix::fs::symlink(&relative, link);
    #[cfg(not(unix))]
    let linked = std::fs::copy(blob, link).map(|_| drop(relative));
    match linked {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(Error::io(link, e)),
        _ => Ok(()),
    }
}

/// Writes a small file so that a reader sees the old content or the new, never a part.
fn write_atomically(path: &Path, content: &[u8]) -> Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(|e| Error::io(parent, e))?;
    }
    let temporary = path.with_extension(format!("tmp{}", std::process::id()));
    std::fs::write(&temporary, content).map_err(|e| Error::io(&temporary, e))?;
    std::fs::rename(&temporary, path).map_err(|e| Error::io(path, e))
}
