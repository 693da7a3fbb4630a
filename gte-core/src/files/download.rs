//! The downloader for every hub. It resumes and verifies downloads, and gives a file its final name
//! only when it is complete.
//!
//! (The crate `hf-hub` was considered: it knows only one of the two hubs, and does not check the
//! hash of what it receives.)

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::Digest;

use super::{DownloadProgress, HubOptions, OnProgress};
use crate::error::{Error, Result};

/// What the hub announces about a file.
pub(super) struct Announced {
    /// Path of the file in the model.
    pub(super) file: String,
    pub(super) size: u64,
    pub(super) hash: Hash,
}

/// A checksum, in lower-case hexadecimal.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Hash {
    /// sha256 of the content.
    Sha256(String),
    /// sha1 as git computes it, over `blob <size>\0` and the content.
    GitSha1(String),
}

/// The paths of a download.
pub(super) struct DownloadPaths {
    /// The final name.
    pub(super) target: PathBuf,
    /// What has arrived so far.
    pub(super) partial: PathBuf,
    /// Locked by the process that downloads it.
    pub(super) lock: PathBuf,
}

type Response = ureq::http::Response<ureq::Body>;

/// A client of one hub. It follows redirects itself, so that the token is only sent to the hub's
/// own host.
pub(super) struct Client {
    agent: ureq::Agent,
    hub: String, // the address
    token: Option<String>,
    tries: u32,
    progress: Option<OnProgress>,
}

impl Client {
    pub(super) fn new(hub: &str, options: &HubOptions) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_connect(Some(options.connect_timeout))
            .timeout_recv_response(Some(options.connect_timeout))
            .timeout_recv_body(Some(options.transfer_timeout))
            .user_agent(concat!("gte-core/", env!("CARGO_PKG_VERSION")))
            .build();
        Self {
            agent: config.into(),
            hub: hub.to_owned(),
            token: options.token.clone(),
            tries: options.tries.max(1),
            progress: options.progress.clone(),
        }
    }

    /// One GET with up to five redirects. `from`: request the bytes from this position on.
    fn get(&self, url: &str, from: u64) -> Result<Response, String> {
        self.request(false, url, from)
    }

    /// One GET or HEAD. A HEAD stops at the response that has the headers of a large file, before
    /// it is redirected to the file's storage.
    fn request(&self, head: bool, url: &str, from: u64) -> Result<Response, String> {
        let first_host = host(url).to_owned();
        let mut url = url.to_owned();
        for _ in 0..=5 {
            let request = if head { self.agent.head(&url) } else { self.agent.get(&url) };
            let mut request = request.header("Accept-Encoding", "identity");
            if let Some(token) = self.token.as_ref().filter(|_| host(&url) == first_host) {
                request = request.header("Authorization", format!("Bearer {token}"));
            }
            if from > 0 {
                request = request.header("Range", format!("bytes={from}-"));
            }
            let response = request.call().map_err(|e| e.to_string())?;
            let target = response.headers().get("Location").and_then(|l| l.to_str().ok());
            match target {
                Some(_) if head && response.headers().contains_key("X-Linked-ETag") => return Ok(response),
                Some(target) if response.status().is_redirection() => url = absolute(&url, target),
                _ => return Ok(response),
            }
        }
        Err("more than five redirects".into())
    }

    /// A small JSON response. `what` names it in errors.
    pub(super) fn json(&self, url: &str, what: &str) -> Result<serde_json::Value> {
        Ok(self.page(url, what)?.0)
    }

    /// All entries of a list that is split into pages. Each page names the next one in its `Link`
    /// header.
    pub(super) fn pages(&self, url: &str, what: &str) -> Result<Vec<serde_json::Value>> {
        let mut url = url.to_owned();
        let mut entries = Vec::new();
        loop {
            let (page, next) = self.page(&url, what)?;
            let serde_json::Value::Array(mut page) = page else {
                return Err(Error::Download { url, reason: "unexpected response: not a list".into() });
            };
            let more = !page.is_empty();
            entries.append(&mut page);
            match next.map(|next| absolute(&url, &next)) {
                // The token is sent with the request, so the next page must be on the same host.
                Some(next) if more && host(&next) == host(&url) => url = next,
                _ => return Ok(entries),
            }
        }
    }

    /// A JSON response, and the address of the next page of a list.
    fn page(&self, url: &str, what: &str) -> Result<(serde_json::Value, Option<String>)> {
        let answer = self.patiently(url, what, || {
            let mut response = self.get(url, 0)?;
            let next = response.headers().get("Link").and_then(|link| next_of(link.to_str().ok()?));
            let body = response.body_mut().with_config().limit(32 << 20).read_to_vec().map_err(|e| e.to_string())?;
            Ok((response.status().as_u16(), (body, next)))
        });
        let (body, next) = answer?;
        let malformed = |e| Error::Download { url: url.to_owned(), reason: format!("the response is not JSON: {e}") };
        Ok((serde_json::from_slice(&body).map_err(malformed)?, next))
    }

    /// What the headers of `file` announce about it.
    pub(super) fn headers(&self, url: &str, file: &str) -> Result<Announced> {
        let headers = self.patiently(url, file, || {
            let response = self.request(true, url, 0)?;
            let status = if response.status().is_redirection() { 200 } else { response.status().as_u16() };
            Ok((status, response.headers().clone()))
        })?;
        let header =
            |names: [&str; 2]| names.iter().find_map(|name| headers.get(*name)?.to_str().ok()).map(str::to_owned);
        let hash = header(["X-Linked-ETag", "ETag"]).and_then(|tag| Hash::of_tag(&tag));
        let size = header(["X-Linked-Size", "Content-Length"]).and_then(|size| size.parse().ok());
        match (hash, size) {
            (Some(hash), Some(size)) => Ok(Announced { file: file.to_owned(), size, hash }),
            _ => Err(Error::Download {
                url: url.to_owned(),
                reason:
                    "this mirror announces no hash, neither in its lists nor in the file's headers: use another mirror"
                        .into(),
            }),
        }
    }

    /// Repeats the request until the response has status 200.
    fn patiently<T>(&self, url: &str, what: &str, ask: impl Fn() -> Result<(u16, T), String>) -> Result<T> {
        let mut reason = String::new();
        for attempt in 0..self.tries {
            pause(attempt);
            match ask() {
                Ok((200, answer)) => return Ok(answer),
                Ok((status, _)) => reason = self.refused(status, what)?,
                Err(e) => reason = e,
            }
        }
        Err(Error::Download { url: url.to_owned(), reason })
    }

    /// Final refusals are errors; temporary ones are a reason to retry.
    fn refused(&self, status: u16, what: &str) -> Result<String> {
        let (hub, what) = (self.hub.clone(), what.to_owned());
        match status {
            401 | 403 => Err(Error::Unauthorized {
                hub,
                what,
                status,
                token_hint: "HF_TOKEN; hubs send the same response if there is no such model",
            }),
            404 => Err(Error::NotOnHub { hub, what }),
            408 | 429 | 500..=599 => Ok(format!("HTTP {status}")),
            _ => Err(Error::Download { url: what, reason: format!("HTTP {status}") }),
        }
    }

    /// Downloads `url` to `paths.target`. What arrives is kept in `paths.partial` until it is
    /// complete and its hash is correct. A partial file of an earlier attempt is continued.
    /// `paths.lock` keeps other processes out meanwhile.
    pub(super) fn download(&self, url: &str, announced: &Announced, paths: &DownloadPaths) -> Result<()> {
        self.fetch(url, announced, paths, || Ok(paths.target.exists()))
    }

    /// As [`download`](Self::download), but replaces a different file at `paths.target`.
    pub(super) fn replace(&self, url: &str, announced: &Announced, paths: &DownloadPaths) -> Result<()> {
        self.fetch(url, announced, paths, || {
            let whole = std::fs::metadata(&paths.target).is_ok_and(|found| found.len() == announced.size);
            Ok(whole && checksum(&paths.target, &announced.hash, announced.size)? == announced.hash)
        })
    }

    /// Downloads the file, unless it is `there` after any other process has finished with it.
    fn fetch(
        &self,
        url: &str,
        announced: &Announced,
        paths: &DownloadPaths,
        there: impl Fn() -> Result<bool>,
    ) -> Result<()> {
        let DownloadPaths { target, partial, lock } = paths;
        for path in [target, partial, lock] {
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent).map_err(|e| Error::io(parent, e))?;
            }
        }
        let guard = File::create(lock).map_err(|e| Error::io(lock, e))?;
        // Another process may be downloading the same file: wait for it, and use its result. The
        // lock is released when `guard` is dropped, or by the system when the process dies. On file
        // systems without locks, a file that two processes have written fails its checksum.
        if let Err(error) = guard.lock() {
            tracing::warn!(file = %lock.display(), %error, "cannot lock the file");
        }
        if there()? {
            return Ok(());
        }
        self.complete(url, announced, partial)?;
        let found = checksum(partial, &announced.hash, announced.size)?;
        if found != announced.hash {
            std::fs::remove_file(partial).map_err(|e| Error::io(partial, e))?;
            return Err(Error::Corrupt {
                url: url.to_owned(),
                expected: announced.hash.to_string(),
                found: found.to_string(),
            });
        }
        std::fs::rename(partial, target).map_err(|e| Error::io(target, e))
    }

    /// Downloads until `partial` has the announced size.
    fn complete(&self, url: &str, announced: &Announced, partial: &Path) -> Result<()> {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(partial)
            .map_err(|e| Error::io(partial, e))?;
        let total = announced.size;
        let mut done = file.seek(SeekFrom::End(0)).map_err(|e| Error::io(partial, e))?;
        if done > total {
            (file, done) = (restart(file, partial)?, 0);
        }
        let report = |done| {
            if let Some(progress) = &self.progress {
                progress(DownloadProgress { file: &announced.file, done, total });
            }
        };
        report(done);
        let mut fruitless = 0;
        let mut reason = String::new();
        while done < total {
            if fruitless == self.tries {
                return Err(Error::Download {
                    url: url.to_owned(),
                    reason: format!("{reason} ({done} of {total} bytes are kept for the next attempt)"),
                });
            }
            pause(fruitless);
            fruitless += 1;
            let response = match self.get(url, done) {
                Ok(response) => response,
                Err(e) => {
                    reason = e;
                    continue;
                }
            };
            match response.status().as_u16() {
                206 => {}
                // The server sends the whole file, not only the requested range.
                200 => (file, done) = (restart(file, partial)?, 0),
                // There is nothing after the requested position, so the partial file is not a part
                // of this file.
                416 => {
                    (file, done) = (restart(file, partial)?, 0);
                    continue;
                }
                status => {
                    reason = self.refused(status, &announced.file)?;
                    continue;
                }
            }
            let before = done;
            let mut body = response.into_body().into_reader();
            let mut buffer = vec![0; 1 << 16];
            loop {
                let n = match body.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(n) => n,
                    Err(e) => {
                        reason = e.to_string();
                        break;
                    }
                };
                done += n as u64;
                if done > total {
                    drop(restart(file, partial)?);
                    return Err(Error::Corrupt {
                        url: url.to_owned(),
                        expected: format!("{total} bytes"),
                        found: "more".into(),
                    });
                }
                file.write_all(&buffer[..n]).map_err(|e| Error::io(partial, e))?;
                report(done);
            }
            if done > before {
                fruitless = 0;
            }
            if done < total && reason.is_empty() {
                reason = "the connection was closed early".into();
            }
        }
        file.sync_all().map_err(|e| Error::io(partial, e))
    }
}

/// Empties a partial file.
fn restart(mut file: File, path: &Path) -> Result<File> {
    file.set_len(0).and_then(|()| file.rewind()).map_err(|e| Error::io(path, e))?;
    Ok(file)
}

/// Waits before attempt number `attempt`: not before the first, then 0.2 s, doubled each time up to
/// 5 s.
fn pause(attempt: u32) {
    if attempt > 0 {
        std::thread::sleep(Duration::from_millis((100u64 << attempt.min(10)).min(5000)));
    }
}

/// Computes the checksum of a file, of the same kind as `like`.
pub(super) fn checksum(path: &Path, like: &Hash, size: u64) -> Result<Hash> {
    fn digest<D: Digest>(mut hasher: D, path: &Path) -> Result<String> {
        let mut file = File::open(path).map_err(|e| Error::io(path, e))?;
        let mut buffer = vec![0; 1 << 18];
        loop {
            match file.read(&mut buffer).map_err(|e| Error::io(path, e))? {
                0 => break,
                n => hasher.update(&buffer[..n]),
            }
        }
        Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
    match like {
        Hash::Sha256(_) => digest(sha2::Sha256::new(), path).map(Hash::Sha256),
        Hash::GitSha1(_) => digest(sha1::Sha1::new_with_prefix(format!("blob {size}\0")), path).map(Hash::GitSha1),
    }
}

impl Hash {
    /// The tag of a file on Hugging Face is its hash: sha256 for a large file, git's sha1 for a
    /// small one.
    fn of_tag(tag: &str) -> Option<Self> {
        let hex = tag.trim_start_matches("W/").trim_matches('"').to_lowercase();
        match hex.len() {
            _ if !hex.bytes().all(|b| b.is_ascii_hexdigit()) => None,
            64 => Some(Self::Sha256(hex)),
            40 => Some(Self::GitSha1(hex)),
            _ => None,
        }
    }

    /// The hexadecimal digits.
    pub(super) fn hex(&self) -> &str {
        match self {
            Self::Sha256(hex) | Self::GitSha1(hex) => hex,
        }
    }
}

impl std::fmt::Display for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sha256(hex) => write!(f, "sha256 {hex}"),
            Self::GitSha1(hex) => write!(f, "git sha1 {hex}"),
        }
    }
}

/// The address of the next page in `Link: <address>; rel="next"`.
fn next_of(link: &str) -> Option<String> {
    let next = link.split(',').find(|part| part.contains("rel=\"next\""))?;
    Some(next.split_once('<')?.1.split_once('>')?.0.to_owned())
}

/// The part `https://host:port` of an address.
fn host(url: &str) -> &str {
    let start = url.find("://").map_or(0, |i| i + 3);
    let end = url[start..].find('/').map_or(url.len(), |i| start + i);
    &url[..end]
}

/// The target of a redirect, which may be relative.
fn absolute(url: &str, target: &str) -> String {
    if target.contains("://") {
        target.to_owned()
    } else if target.starts_with('/') {
        format!("{}{target}", host(url))
    } else {
        format!("{}/{target}", url.rsplit_once('/').map_or(url, |(base, _)| base))
    }
}
