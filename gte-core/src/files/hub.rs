//! The HTTP APIs of the Hugging Face hub and ModelScope, and the cache layouts of their Python
//! libraries.
//!
//! Hugging Face: `GET /api/models/{id}/revision/{revision}?blobs=true` returns the commit and the
//! size and hash of every file. A mirror that returns no hashes there returns them in `GET
//! /api/models/{id}/tree/{commit}?recursive=true` or in the headers of the files. `GET
//! /{id}/resolve/{commit}/{file}` is the content. The cache is `models--owner--name/{blobs/<hash>,
//! snapshots/<commit>/<file> → blob, refs/<revision>, .no_exist/<commit>/<file>}`.
//!
//! ModelScope: `GET /api/v1/models/{id}/repo/files?Revision=…&Recursive=true` and `GET
//! /api/v1/models/{id}/repo?Revision=…&FilePath=…`. The cache is `models/owner/name/<file>`.
//!
//! A complete model in the cache is enough: if the cache cannot be written, or a newer revision
//! cannot be downloaded, the existing model is used. Nothing is written if nothing has changed.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::HubOptions;
use super::download::{Announced, Client, DownloadPaths, Hash, checksum};
use super::needed::{self, Missing};
use crate::error::{Error, Result};

/// The prefix of ids on ModelScope.
pub(super) const MODELSCOPE: &str = "modelscope:";

/// The directory of the complete model `id`.
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
            return Err(bad("expected owner/name with letters, digits, `-`, `_` and `.`"));
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
    let cached = || cached_commit().map(|c| root.join("snapshots").join(c)).filter(|dir| needed::is_complete(dir));
    if options.offline {
        return cached().ok_or_else(|| Error::Offline { what, cache: root.clone() });
    }
    // A commit never changes, so its files need not be looked up again.
    let settled = |dir: &PathBuf| {
        let seen = |file: &str| dir.join(file).exists() || root.join(".no_exist").join(revision).join(file).exists();
        is_commit && needed::OPTIONAL.iter().all(|file| seen(file))
    };
    if let Some(dir) = cached().filter(settled) {
        return Ok(dir);
    }
    let endpoint = options.endpoint.trim_end_matches('/');
    let client = Client::new(endpoint, options);
    let fetched = list(&client, endpoint, id, revision, &what).and_then(|listing| {
        let commit = &listing.commit;
        let snapshot = root.join("snapshots").join(commit);
        let locks = options.cache.join(".locks").join(&folder);
        needed::fetch(&snapshot, &listing.names(), |file| {
            let link = snapshot.join(file);
            if link.exists() {
                return Ok(());
            }
            let url = format!("{endpoint}/{id}/resolve/{commit}/{file}");
            let announced = listing.announced(file).map_or_else(|| client.headers(&url, file), Ok)?;
            let blob = root.join("blobs").join(announced.hash.hex());
            let paths = DownloadPaths {
                target: blob.clone(),
                partial: blob.with_extension("incomplete"),
                lock: locks.join(announced.hash.hex()).with_extension("lock"),
            };
            client.download(&url, &announced, &paths)?;
            link_to(&blob, &link, file.matches('/').count() + 2)
        })
        .map_err(|missing| missing.or(endpoint, &what))?;
        // Notes the files that the model lacks, as Python's library does, so that they need not be
        // requested again.
        let absent = needed::OPTIONAL.iter().filter(|file| !listing.names().contains(file));
        let notes = absent.map(|file| note(&root.join(".no_exist").join(commit).join(file), b""));
        let reference = root.join("refs").join(revision);
        let reference = (!is_commit).then(|| note(&reference, commit.as_bytes()));
        if let Some(Err(error)) = notes.chain(reference).find(Result::is_err) {
            tracing::warn!(model = id, %error, "cannot write to the cache");
        }
        Ok(snapshot)
    });
    match fetched {
        Err(error) if is_passed_over(&error) => {
            let Some(dir) = cached() else { return Err(error) };
            tracing::warn!(model = id, revision, %error, "using the model in the cache");
            Ok(dir)
        }
        fetched => fetched,
    }
}

/// Whether an existing model is used in spite of this error: a hub that cannot be reached or no
/// longer answers, or a cache that cannot be written, must not stop a service. Python's library
/// does the same.
fn is_passed_over(error: &Error) -> bool {
    matches!(error, Error::Download { .. } | Error::Io { .. } | Error::Unauthorized { .. } | Error::NotOnHub { .. })
}

/// The files of a commit.
struct Listing {
    commit: String,
    files: Vec<(String, Option<(u64, Hash)>)>, // with size and hash, if the list has them
}

impl Listing {
    fn names(&self) -> Vec<&str> {
        self.files.iter().map(|(name, _)| name.as_str()).collect()
    }

    fn announced(&self, file: &str) -> Option<Announced> {
        let (name, found) = self.files.iter().find(|(name, _)| name == file)?;
        found.clone().map(|(size, hash)| Announced { file: name.clone(), size, hash })
    }
}

/// What Hugging Face has at `revision`.
fn list(client: &Client, endpoint: &str, id: &str, revision: &str, what: &str) -> Result<Listing> {
    let url = format!("{endpoint}/api/models/{id}/revision/{}?blobs=true", revision.replace('/', "%2F"));
    let malformed =
        |reason: &str| Error::Download { url: url.clone(), reason: format!("unexpected response: {reason}") };
    let info = client.json(&url, what)?;
    let commit = info["sha"].as_str().filter(|c| is_plain_name(c)).ok_or_else(|| malformed("no commit in `sha`"))?;
    let siblings = info["siblings"].as_array().ok_or_else(|| malformed("no list in `siblings`"))?;
    let file = |sibling: &Value| Some((sibling["rfilename"].as_str()?.to_owned(), of_list(sibling, "blobId")));
    let mut files: Vec<_> = siblings.iter().filter_map(file).collect();
    if files.iter().any(|(_, found)| found.is_none()) {
        let tree = format!("{endpoint}/api/models/{id}/tree/{commit}?recursive=true");
        match client.pages(&tree, what) {
            Ok(entries) => {
                for (name, found) in files.iter_mut().filter(|(_, found)| found.is_none()) {
                    let entry = entries.iter().find(|entry| entry["path"].as_str() == Some(name));
                    *found = entry.and_then(|entry| of_list(entry, "oid"));
                }
            }
            Err(error @ Error::Unauthorized { .. }) => return Err(error),
            Err(error) => tracing::debug!(%error, "there is no list of hashes: requesting the headers of each file"),
        }
    }
    Ok(Listing { commit: commit.to_owned(), files })
}

/// Size and hash of an entry in a list. `lfs` has those of a large file; `sha1` is the key of git's
/// hash.
fn of_list(entry: &Value, sha1: &str) -> Option<(u64, Hash)> {
    let lfs = &entry["lfs"];
    let hash = match lfs["sha256"].as_str().or(lfs["oid"].as_str()) {
        Some(sha256) => Hash::Sha256(sha256.trim_start_matches("sha256:").to_lowercase()),
        None => Hash::GitSha1(entry[sha1].as_str()?.to_lowercase()),
    };
    let size = lfs["size"].as_u64().or(entry["size"].as_u64())?;
    is_plain_name(hash.hex()).then_some((size, hash))
}

fn from_modelscope(owner: &str, name: &str, revision: &str, options: &HubOptions) -> Result<PathBuf> {
    let id = format!("{owner}/{name}");
    let what = format!("{id} at {revision}");
    // As in the Python library, which does not allow dots in the path of a module.
    let dir = options.modelscope_cache.join("models").join(owner).join(name.replace('.', "___"));
    // This file exists while files of one revision are being replaced by those of another.
    let updating = dir.join("._____temp").join("updating");
    let is_complete = || needed::is_complete(&dir) && !updating.exists();
    if options.offline {
        return if is_complete() { Ok(dir) } else { Err(Error::Offline { what, cache: dir }) };
    }
    let endpoint = options.modelscope_endpoint.trim_end_matches('/');
    let client = Client::new(endpoint, options);
    let url = format!("{endpoint}/api/v1/models/{id}/repo/files?Revision={revision}&Recursive=true");
    let listing = match client.json(&url, &what) {
        Ok(listing) => listing,
        Err(error) if is_passed_over(&error) && is_complete() => {
            tracing::warn!(model = id, revision, %error, "using the model in the cache");
            return Ok(dir);
        }
        Err(error) => return Err(error),
    };
    let malformed =
        |reason: &str| Error::Download { url: url.clone(), reason: format!("unexpected response: {reason}") };
    let entries = listing["Data"]["Files"].as_array().ok_or_else(|| malformed("no list in `Data.Files`"))?;
    let entries = || entries.iter().filter(|entry| entry["Type"].as_str() != Some("tree"));
    let names: Vec<&str> = entries().filter_map(|entry| entry["Path"].as_str()).collect();
    let fetched = needed::fetch(&dir, &names, |file| {
        let entry = entries().find(|entry| entry["Path"].as_str() == Some(file));
        let of = |entry: &Value| Some((entry["Size"].as_u64()?, entry["Sha256"].as_str()?.to_lowercase()));
        let (size, sha256) = entry.and_then(of).ok_or_else(|| malformed(&format!("no size or no hash for {file}")))?;
        let announced = Announced { file: file.to_owned(), size, hash: Hash::Sha256(sha256) };
        let target = dir.join(file);
        // A verified checksum is noted, because hashing a large file again at every start would
        // take longer than loading it.
        let verified = dir.join(".verified").join(file.replace('/', "--"));
        let noted = std::fs::read_to_string(&verified).unwrap_or_default();
        let whole = std::fs::metadata(&target).is_ok_and(|m| m.len() == size);
        if whole && (noted == announced.hash.hex() || checksum(&target, &announced.hash, size)? == announced.hash) {
            noted_if_possible(&verified, announced.hash.hex());
            return Ok(());
        }
        let partial = dir.join("._____temp").join(format!("{}.{}", file.replace('/', "--"), announced.hash.hex()));
        let paths = DownloadPaths { target, lock: partial.with_extension("lock"), partial };
        let url = format!("{endpoint}/api/v1/models/{id}/repo?Revision={revision}&FilePath={file}");
        // A file of another revision, or a damaged one, is replaced when the new one is complete.
        note(&updating, b"")?;
        client.replace(&url, &announced, &paths)?;
        noted_if_possible(&verified, announced.hash.hex());
        Ok(())
    });
    match fetched {
        Ok(()) => {
            if updating.exists()
                && let Err(error) = std::fs::remove_file(&updating)
            {
                tracing::warn!(%error, "cannot write to the cache");
            }
            Ok(dir)
        }
        Err(Missing::File(file)) => Err(Missing::File(file).or(endpoint, &what)),
        Err(Missing::Failed(error)) if is_passed_over(&error) && is_complete() => {
            tracing::warn!(model = id, revision, %error, "using the model in the cache");
            Ok(dir)
        }
        Err(Missing::Failed(error)) => Err(error),
    }
}

/// A name that is safe as a file name: without separators, and without a leading dot.
fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// Makes `link` point to `blob`, `up` folders above it. If the file system has no symbolic links,
/// it becomes a copy.
fn link_to(blob: &Path, link: &Path, up: usize) -> Result<()> {
    if let Some(parent) = link.parent() {
        std::fs::create_dir_all(parent).map_err(|e| Error::io(parent, e))?;
    }
    let name = blob.file_name().unwrap_or_default();
    let relative = PathBuf::from("../".repeat(up)).join("blobs").join(name);
    #[cfg(unix)]
    let linked = std::os::unix::fs::symlink(&relative, link);
    #[cfg(not(unix))]
    let linked = Err::<(), _>(std::io::Error::from(std::io::ErrorKind::Unsupported)).inspect_err(|_| drop(relative));
    let linked = linked.or_else(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => Err(e),
        _ => std::fs::copy(blob, link).map(drop),
    });
    match linked {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(Error::io(link, e)),
        _ => Ok(()),
    }
}

/// Notes a checksum. Without the note, the file is hashed again at the next start.
fn noted_if_possible(path: &Path, hash: &str) {
    if let Err(error) = note(path, hash.as_bytes()) {
        tracing::debug!(%error, "cannot write to the cache");
    }
}

/// Writes a small file, unless it already has this content.
fn note(path: &Path, content: &[u8]) -> Result<()> {
    match std::fs::read(path) {
        Ok(found) if found == content => Ok(()),
        _ => write_atomically(path, content),
    }
}

/// Writes a small file in such a way that readers see either the old or the new content, never a
/// part.
fn write_atomically(path: &Path, content: &[u8]) -> Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(|e| Error::io(parent, e))?;
    }
    let temporary = path.with_extension(format!("tmp{}", std::process::id()));
    std::fs::write(&temporary, content).map_err(|e| Error::io(&temporary, e))?;
    std::fs::rename(&temporary, path).map_err(|e| Error::io(path, e))
}
