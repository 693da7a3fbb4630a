//! A real HTTP/1.1 server on loopback with the APIs of the Hugging Face hub and of ModelScope, a
//! second port as the CDN to which large files are redirected, and the faults of real networks.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha2::Digest;

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub(crate) const ID: &str = "thenlper/gte-tiny-zh";

/// What the server does wrong. Each `Option` happens once.
#[derive(Default, Clone)]
pub(crate) struct Faults {
    /// Statuses of the next responses.
    pub(crate) statuses: Vec<u16>,
    /// The connection is closed after this many bytes of a large file.
    pub(crate) cut_after: Option<usize>,
    /// The server stops sending after this many bytes of a large file.
    pub(crate) stall_after: Option<usize>,
    /// Large files arrive with one byte changed.
    pub(crate) corrupt: bool,
    /// Ranges are not supported: the whole file is always sent.
    pub(crate) ignore_range: bool,
    /// The list of files has neither sizes nor hashes, like a mirror's.
    pub(crate) no_hashes: bool,
    /// There is no tree of files; `Some` is the status of the response.
    pub(crate) no_tree: Option<u16>,
    /// Headers contain no hash, like those of a plain web server.
    pub(crate) no_tags: bool,
    /// The required token.
    pub(crate) token: Option<String>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    pub(crate) faults: Faults,
    /// `METHOD path` of each request.
    pub(crate) requests: Vec<String>,
    /// Number of bytes sent for large files.
    pub(crate) bytes_sent: usize,
    /// Number of `Authorization` headers that reached the CDN.
    pub(crate) tokens_at_cdn: usize,
}

pub(crate) struct HubServer {
    pub(crate) url: String,
    pub(crate) state: Arc<Mutex<State>>,
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    sha2::Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

pub(crate) fn git_sha1(bytes: &[u8]) -> String {
    let mut hasher = sha1::Sha1::new_with_prefix(format!("blob {}\0", bytes.len()));
    hasher.update(bytes);
    hasher.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

fn is_large(file: &str) -> bool {
    file.ends_with(".safetensors") || file.ends_with(".bin")
}

impl HubServer {
    pub(crate) fn start(files: BTreeMap<String, Vec<u8>>) -> Self {
        let state = Arc::new(Mutex::new(State { files, ..State::default() }));
        let cdn = TcpListener::bind("127.0.0.1:0").unwrap();
        let cdn_url = format!("http://{}", cdn.local_addr().unwrap());
        let hub = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", hub.local_addr().unwrap());
        for (listener, at_cdn) in [(hub, false), (cdn, true)] {
            let (state, cdn_url) = (state.clone(), cdn_url.clone());
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let (state, cdn_url) = (state.clone(), cdn_url.clone());
                    std::thread::spawn(move || answer(stream, &state, &cdn_url, at_cdn));
                }
            });
        }
        Self { url, state }
    }

    pub(crate) fn requests(&self) -> usize {
        self.state.lock().unwrap().requests.len()
    }
}

fn answer(mut stream: TcpStream, state: &Mutex<State>, cdn: &str, at_cdn: bool) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut headers = BTreeMap::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        match header.trim_end().split_once(": ") {
            Some((name, value)) => headers.insert(name.to_lowercase(), value.to_owned()),
            None => break,
        };
    }
    let (head, path) = (line.starts_with("HEAD "), line.split(' ').nth(1)?.to_owned());
    let (files, status, faults) = {
        let mut state = state.lock().unwrap();
        state.requests.push(line.trim_end().to_owned());
        if at_cdn && headers.contains_key("authorization") {
            state.tokens_at_cdn += 1;
        }
        let status = if state.faults.statuses.is_empty() { None } else { Some(state.faults.statuses.remove(0)) };
        (state.files.clone(), status, state.faults.clone())
    };
    let plain = |stream: &mut TcpStream, status: u16, extra: &str, body: &[u8]| {
        write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n{extra}\r\n", body.len())
            .ok()?;
        if head { Some(()) } else { stream.write_all(body).ok() }
    };
    if let Some(status) = status {
        return plain(&mut stream, status, "", b"{}");
    }
    if let Some(token) = faults.token.filter(|_| !at_cdn)
        && headers.get("authorization") != Some(&format!("Bearer {token}"))
    {
        return plain(&mut stream, 401, "X-Error-Code: GatedRepo\r\n", b"{}");
    }

    // Hugging Face: the list of files.
    if let Some(revision) = path.strip_prefix(&format!("/api/models/{ID}/revision/")) {
        let revision = revision.strip_suffix("?blobs=true")?;
        if !["main", COMMIT].contains(&revision) {
            return plain(&mut stream, 404, "X-Error-Code: RevisionNotFound\r\n", b"{}");
        }
        let sibling = |(name, content): (&String, &Vec<u8>)| {
            let lfs = is_large(name)
                .then(|| serde_json::json!({ "sha256": sha256(content), "size": content.len(), "pointerSize": 130 }));
            match faults.no_hashes {
                true => serde_json::json!({ "rfilename": name }),
                false => {
                    serde_json::json!({ "rfilename": name, "size": content.len(), "blobId": git_sha1(content), "lfs": lfs })
                }
            }
        };
        let info =
            serde_json::json!({ "id": ID, "sha": COMMIT, "siblings": files.iter().map(sibling).collect::<Vec<_>>() });
        return plain(&mut stream, 200, "Content-Type: application/json\r\n", info.to_string().as_bytes());
    }
    // Hugging Face: the tree of a commit, three files per page.
    if let Some(query) = path.strip_prefix(&format!("/api/models/{ID}/tree/{COMMIT}?recursive=true")) {
        if let Some(status) = faults.no_tree {
            return plain(&mut stream, status, "", b"{}");
        }
        let start: usize = query.strip_prefix("&cursor=").map_or(0, |cursor| cursor.parse().unwrap());
        let entry = |(name, content): (&String, &Vec<u8>)| {
            let lfs = is_large(name)
                .then(|| serde_json::json!({ "oid": sha256(content), "size": content.len(), "pointerSize": 130 }));
            let mut entry =
                serde_json::json!({ "type": "file", "path": name, "size": content.len(), "oid": git_sha1(content) });
            if let Some(lfs) = lfs {
                entry["lfs"] = lfs;
            }
            entry
        };
        let page: Vec<_> = files.iter().skip(start).take(3).map(entry).collect();
        let more = format!(
            "Link: <{}/api/models/{ID}/tree/{COMMIT}?recursive=true&cursor={}>; rel=\"next\"\r\n",
            format_args!("http://{}", headers.get("host")?),
            start + 3
        );
        let link = if start + 3 < files.len() { more.as_str() } else { "" };
        return plain(&mut stream, 200, link, serde_json::json!(page).to_string().as_bytes());
    }
    // ModelScope: the list of files.
    if path.starts_with(&format!("/api/v1/models/{ID}/repo/files?")) {
        let file = |(name, content): (&String, &Vec<u8>)| serde_json::json!({ "Name": name.rsplit('/').next(), "Path": name, "Type": "blob", "Size": content.len(), "Sha256": sha256(content), "Revision": "x" });
        let listing = serde_json::json!({ "Code": 200, "Data": { "Files": files.iter().map(file).collect::<Vec<_>>() }, "Success": true });
        return plain(&mut stream, 200, "Content-Type: application/json\r\n", listing.to_string().as_bytes());
    }
    let resolve = format!("/{ID}/resolve/{COMMIT}/");
    let file = if let Some(file) = path.strip_prefix(&resolve) {
        if is_large(file) && !at_cdn {
            let extra = format!(
                "Location: {cdn}/{file}\r\nX-Linked-Size: {}\r\nX-Repo-Commit: {COMMIT}\r\n{}",
                files.get(file).map_or(0, Vec::len),
                match files.get(file) {
                    Some(content) if !faults.no_tags => format!("X-Linked-ETag: \"{}\"\r\n", sha256(content)),
                    _ => String::new(),
                }
            );
            return plain(&mut stream, 302, &extra, b"");
        }
        file
    } else if at_cdn {
        path.strip_prefix('/')?
    } else if path.starts_with(&format!("/api/v1/models/{ID}/repo?")) {
        path.split_once("FilePath=")?.1
    } else {
        return plain(&mut stream, 404, "X-Error-Code: RepoNotFound\r\n", b"{}");
    };
    let Some(content) = files.get(file) else {
        return plain(&mut stream, 404, "X-Error-Code: EntryNotFound\r\n", b"{}");
    };

    let mut content = content.clone();
    let large = is_large(file);
    if large && faults.corrupt {
        content[7] ^= 1;
    }
    let from = match headers.get("range") {
        Some(range) if !faults.ignore_range => range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()?,
        _ => 0usize,
    };
    if from > 0 {
        let total = content.len();
        write!(stream, "HTTP/1.1 206 X\r\nContent-Range: bytes {from}-{}/{total}\r\n", total - 1).ok()?;
    } else {
        // The CDN has its own tags.
        let tag = if faults.no_tags || at_cdn { "5f-abc".to_owned() } else { git_sha1(&content) };
        write!(stream, "HTTP/1.1 200 X\r\nETag: \"{tag}\"\r\n").ok()?;
    }
    write!(stream, "Content-Length: {}\r\nConnection: close\r\n\r\n", content.len() - from).ok()?;
    if head {
        return Some(());
    }
    let mut body = &content[from..];
    let mut stall = false;
    if large {
        let mut state = state.lock().unwrap();
        if let Some(cut) = state.faults.cut_after.take() {
            body = &body[..cut.min(body.len())];
        } else if let Some(cut) = state.faults.stall_after.take() {
            body = &body[..cut.min(body.len())];
            stall = true;
        }
        state.bytes_sent += body.len();
    }
    stream.write_all(body).ok()?;
    stream.flush().ok()?;
    if stall {
        std::thread::sleep(Duration::from_secs(20));
    }
    Some(())
}
