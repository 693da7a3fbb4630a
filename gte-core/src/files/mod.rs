//! `ModelFiles`: where the files of a model are, and how to read them. This file handles local
//! directories. `bundled.rs` has the bundled model. `hub.rs` downloads models from the Hugging Face
//! hub, its mirrors and ModelScope into their caches, with the downloader in `download.rs`.
//! `needed.rs` selects the files of a repository.

#[cfg(feature = "bundled")]
pub(crate) mod bundled;
#[cfg(feature = "hub")]
mod download;
#[cfg(feature = "hub")]
mod hub;
pub(crate) mod names;
#[cfg(feature = "hub")]
mod needed;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::env::Env;
use crate::error::{Error, Result};

/// The files of one model.
///
/// ```
/// use gte_core::{HubOptions, ModelFiles};
///
/// // `bundled`, a directory, or a hub id such as `thenlper/gte-large-zh`.
/// let files = ModelFiles::open("bundled", &HubOptions::from_env()?)?;
/// assert!(files.read("config.json")?.is_some() && files.read("absent.json")?.is_none());
/// # Ok::<(), gte_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ModelFiles {
    name: String,
    place: Location,
    folder: String, // in `place`, without a slash at its end; usually empty
}

#[derive(Clone, Debug)]
enum Location {
    Dir(PathBuf),
    #[cfg(feature = "bundled")]
    Bundled,
}

/// The progress of a download.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DownloadProgress<'a> {
    /// The file, relative to the model.
    pub file: &'a str,
    /// Number of bytes that have arrived.
    pub done: u64,
    /// Number of bytes in the file.
    pub total: u64,
}

/// Called during a download, on the thread that requested the model.
pub type OnProgress = Arc<dyn Fn(DownloadProgress<'_>) + Send + Sync>;

/// Where models come from and where they are kept. `Default` uses the public hubs and does not read
/// the environment.
///
/// ```
/// use gte_core::HubOptions;
///
/// let mut options = HubOptions::from_env()?;
/// options.endpoint = "https://hf-mirror.com".into();
/// options.revision = Some("main".into());
/// # Ok::<(), gte_core::Error>(())
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct HubOptions {
    /// A commit, branch or tag. `None`: the hub's main branch.
    pub revision: Option<String>,
    /// Never contact a hub: a model that is not complete in the cache is an error.
    pub offline: bool,
    /// Address of the Hugging Face hub or one of its mirrors.
    pub endpoint: String,
    /// Address of ModelScope.
    pub modelscope_endpoint: String,
    /// Access token for private and gated models. It is only sent to the hub's own host.
    pub token: Option<String>,
    /// Hugging Face cache, in the same layout as Python's `huggingface_hub`.
    pub cache: PathBuf,
    /// ModelScope cache, in the same layout as Python's `modelscope`.
    pub modelscope_cache: PathBuf,
    /// Timeout for a connection, and for the headers of a response.
    pub connect_timeout: Duration,
    /// Timeout for a transfer, which is then resumed where it stopped.
    pub transfer_timeout: Duration,
    /// Number of consecutive attempts without any data after which a download fails.
    pub tries: u32,
    /// Called during downloads.
    pub progress: Option<OnProgress>,
}

impl Default for HubOptions {
    fn default() -> Self {
        let home = std::env::home_dir().unwrap_or_else(|| PathBuf::from("."));
        Self {
            revision: None,
            offline: false,
            endpoint: "https://huggingface.co".into(),
            modelscope_endpoint: "https://www.modelscope.cn".into(),
            token: None,
            cache: home.join(".cache/huggingface/hub"),
            modelscope_cache: home.join(".cache/modelscope/hub"),
            connect_timeout: Duration::from_secs(15),
            transfer_timeout: Duration::from_secs(300),
            tries: 5,
            progress: None,
        }
    }
}

impl HubOptions {
    /// The settings from the variables that Python's `huggingface_hub` and `modelscope` read:
    /// `HF_ENDPOINT`, `HF_TOKEN` (or `HUGGING_FACE_HUB_TOKEN`, or the file `HF_TOKEN_PATH`, which
    /// is `$HF_HOME/token` where `hf auth login` writes it) unless `HF_HUB_DISABLE_IMPLICIT_TOKEN`
    /// is on, `HF_HUB_CACHE` (or `HUGGINGFACE_HUB_CACHE`), `HF_HOME`, `HF_HUB_OFFLINE` (or
    /// `TRANSFORMERS_OFFLINE`), `MODELSCOPE_ENDPOINT`, `MODELSCOPE_CACHE`, `XDG_CACHE_HOME`.
    ///
    /// An empty variable counts as unset, white space around a value is ignored, `~` at the
    /// beginning of a path is the home directory, and a switch is `1`, `yes`, `on`, `true` or `0`,
    /// `no`, `off`, `false`.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for any other word in a switch, and for a value that is not UTF-8.
    pub fn from_env() -> Result<Self> {
        Self::read(&Env::process())
    }

    pub(crate) fn read(env: &Env<'_>) -> Result<Self> {
        let mut options = Self::default();
        let caches = env.path("XDG_CACHE_HOME");
        let caches = caches.unwrap_or_else(|| env.home().unwrap_or_else(|| PathBuf::from(".")).join(".cache"));
        let hf_home = env.path("HF_HOME").unwrap_or_else(|| caches.join("huggingface"));
        let hf_cache = env.path("HF_HUB_CACHE").or_else(|| env.path("HUGGINGFACE_HUB_CACHE"));
        options.cache = hf_cache.unwrap_or_else(|| hf_home.join("hub"));
        options.modelscope_cache = env.path("MODELSCOPE_CACHE").unwrap_or_else(|| caches.join("modelscope/hub"));
        if let Some(endpoint) = env.text("HF_ENDPOINT")? {
            options.endpoint = endpoint;
        }
        if let Some(endpoint) = env.text("MODELSCOPE_ENDPOINT")? {
            options.modelscope_endpoint = endpoint;
        }
        let given = match env.text("HF_TOKEN")? {
            Some(token) => Some(token),
            None => env.text("HUGGING_FACE_HUB_TOKEN")?,
        };
        let file = env.path("HF_TOKEN_PATH").unwrap_or_else(|| hf_home.join("token"));
        let stored = || std::fs::read_to_string(file).ok().map(|token| token.trim().to_owned());
        if env.switch("HF_HUB_DISABLE_IMPLICIT_TOKEN")? != Some(true) {
            options.token = given.or_else(stored).filter(|token| !token.is_empty());
        }
        options.offline = match env.switch("HF_HUB_OFFLINE")? {
            Some(offline) => offline,
            None => env.switch("TRANSFORMERS_OFFLINE")?.unwrap_or(false),
        };
        Ok(options)
    }
}

impl std::fmt::Debug for HubOptions {
    /// Shows everything but the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HubOptions")
            .field("revision", &self.revision)
            .field("offline", &self.offline)
            .field("endpoint", &self.endpoint)
            .field("modelscope_endpoint", &self.modelscope_endpoint)
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("cache", &self.cache)
            .field("modelscope_cache", &self.modelscope_cache)
            .finish_non_exhaustive()
    }
}

impl ModelFiles {
    /// Opens a model in a local directory. Never contacts a hub.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::MissingFile`] if it contains neither
    /// `config.json` nor a `modules.json` that may name another folder.
    pub fn from_dir(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let found = std::fs::metadata(dir).map_err(|e| Error::io(dir, e))?;
        if !found.is_dir() {
            return Err(Error::io(dir, std::io::Error::from(std::io::ErrorKind::NotADirectory)));
        }
        if !["config.json", "modules.json"].iter().any(|file| dir.join(file).is_file()) {
            return Err(Error::MissingFile {
                model: dir.display().to_string(),
                file: "config.json".into(),
                hint: "use the directory that contains the model's config.json",
            });
        }
        let name = dir.file_name().map_or_else(|| dir.display().to_string(), |n| n.to_string_lossy().into_owned());
        Ok(Self { name, place: Location::Dir(dir.to_path_buf()), folder: String::new() })
    }

    /// The small model that is part of this crate: 384 dimensions, Chinese and English, for trials
    /// and tests. Reads no file and contacts no hub.
    #[cfg(feature = "bundled")]
    pub fn bundled() -> Self {
        Self { name: bundled::NAME.to_owned(), place: Location::Bundled, folder: String::new() }
    }

    /// Opens a model by its hub id, `thenlper/gte-large-zh` or
    /// `modelscope:iic/nlp_gte_sentence-embedding_chinese-large`, from the cache; downloads it
    /// first if necessary.
    ///
    /// # Errors
    /// [`Error::InvalidModelId`], [`Error::NotOnHub`], [`Error::Unauthorized`], [`Error::Offline`],
    /// [`Error::Download`], [`Error::Corrupt`], and [`Error::Io`] for a cache that cannot be
    /// written.
    #[cfg(feature = "hub")]
    pub fn from_hub(id: &str, options: &HubOptions) -> Result<Self> {
        let dir = hub::fetch(id, options)?;
        let name = id.strip_prefix(hub::MODELSCOPE).unwrap_or(id).to_owned();
        Ok(Self { name, place: Location::Dir(dir), folder: String::new() })
    }

    /// Opens `bundled` (with that feature), or else an existing directory, or else a hub id.
    ///
    /// # Errors
    /// As [`from_dir`](Self::from_dir) and [`from_hub`](Self::from_hub).
    pub fn open(id_or_dir: &str, options: &HubOptions) -> Result<Self> {
        #[cfg(feature = "bundled")]
        if id_or_dir == bundled::NAME {
            return Ok(Self::bundled());
        }
        if Path::new(id_or_dir).is_dir() {
            return Self::from_dir(id_or_dir);
        }
        // Something that looks like a path is meant as one, so the error is about the path.
        if id_or_dir.starts_with(['.', '/', '~', '\\']) || id_or_dir.split('/').count() > 2 {
            return Self::from_dir(id_or_dir);
        }
        #[cfg(feature = "hub")]
        return Self::from_hub(id_or_dir, options);
        #[cfg(not(feature = "hub"))]
        {
            let _ = options;
            Self::from_dir(id_or_dir)
        }
    }

    /// The model's id on a hub, or its directory's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The directory of the files; `None` for the bundled model.
    pub fn dir(&self) -> Option<&Path> {
        match &self.place {
            Location::Dir(dir) => Some(dir),
            #[cfg(feature = "bundled")]
            Location::Bundled => None,
        }
    }

    /// How messages name the model: by its directory, if it has one.
    pub(crate) fn place(&self) -> String {
        self.dir().map_or_else(|| self.name.clone(), |dir| dir.display().to_string())
    }

    /// The files of one folder of this model: every name is relative to it. An empty path is the
    /// folder itself, and so is `.`; trailing slashes are ignored.
    ///
    /// # Errors
    /// [`Error::InvalidFile`] for a path that leaves the model's directory.
    pub(crate) fn within(&self, folder: &str) -> Result<Self> {
        let windows = folder.contains('\\') || folder.as_bytes().get(1) == Some(&b':');
        let parts = || folder.split('/').filter(|part| !part.is_empty() && *part != ".");
        if folder.starts_with('/') || windows || folder.contains('\0') || parts().any(|part| part == "..") {
            return Err(Error::invalid(self.place(), format_args!("`{folder}` is not a folder in this directory")));
        }
        let folder = parts().fold(self.folder.clone(), |path, part| join(&path, part));
        Ok(Self { folder, ..self.clone() })
    }

    /// The folder in which names are looked up; empty for the model's directory.
    pub(crate) fn folder(&self) -> &str {
        &self.folder
    }

    /// A file's path in the model's directory.
    pub(crate) fn inside(&self, file: &str) -> String {
        join(&self.folder, file)
    }

    /// How messages name one of the files.
    #[doc(hidden)]
    pub fn label(&self, file: &str) -> String {
        let file = &self.inside(file);
        match &self.place {
            Location::Dir(dir) => dir.join(file).display().to_string(),
            #[cfg(feature = "bundled")]
            Location::Bundled => format!("{}/{file}", self.name),
        }
    }

    /// The content of a small file; `None` if the model has no such file.
    ///
    /// # Errors
    /// [`Error::Io`] if it exists but cannot be read; [`Error::InvalidFile`] if its name leaves the
    /// model's directory, or if it is a Git LFS pointer.
    pub fn read(&self, file: &str) -> Result<Option<Vec<u8>>> {
        let file = &self.inside(file);
        match &self.place {
            Location::Dir(dir) => {
                let path = inside(dir, file)?;
                match std::fs::read(&path) {
                    Ok(content) => refuse_pointer(&path, &content).map(|()| Some(content)),
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
                    Err(e) => Err(Error::io(path, e)),
                }
            }
            #[cfg(feature = "bundled")]
            Location::Bundled => Ok(bundled::file(file).map(<[u8]>::to_vec)),
        }
    }

    /// A large file, to be read in parts; `None` if the model has no such file.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub(crate) fn open_data(&self, file: &str) -> Result<Option<DataFile>> {
        let file = &self.inside(file);
        match &self.place {
            Location::Dir(dir) => {
                let path = inside(dir, file)?;
                let opened = match File::open(&path) {
                    Ok(opened) => opened,
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                    Err(e) => return Err(Error::io(path, e)),
                };
                let len = opened.metadata().map_err(|e| Error::io(&path, e))?.len();
                let mut start = [0; POINTER.len()];
                if len >= start.len() as u64 {
                    read_exact_at(&opened, &path, 0, &mut start).map_err(|e| Error::io(&path, e))?;
                    refuse_pointer(&path, &start)?;
                }
                Ok(Some(DataFile { label: path.display().to_string(), data: Data::File(opened, path), len }))
            }
            #[cfg(feature = "bundled")]
            Location::Bundled => Ok(bundled::file(file).map(|content| DataFile {
                label: format!("{}/{file}", self.name),
                len: content.len() as u64,
                data: Data::Bundled(content),
            })),
        }
    }
}

/// The beginning of the text that Git LFS stores instead of a large file.
const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

fn refuse_pointer(path: &Path, start: &[u8]) -> Result<()> {
    if !start.starts_with(POINTER) {
        return Ok(());
    }
    let reason = "it is a Git LFS pointer, not the file itself: run `git lfs pull` in the model's directory";
    Err(Error::invalid(path.display(), reason))
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

/// Names come from a model's own files (shards of an index, paths of modules): none may leave its
/// directory.
fn inside(dir: &Path, file: &str) -> Result<PathBuf> {
    let plain = Path::new(file).components().all(|c| matches!(c, std::path::Component::Normal(_)));
    if plain && !file.is_empty() {
        Ok(dir.join(file))
    } else {
        Err(Error::invalid(dir.display(), format_args!("`{file}` is not the name of a file in this directory")))
    }
}

/// A file that is read in parts, from several threads at once. It is not memory-mapped, because a
/// mapped file that shrinks kills the process, and weights are copied into their packed layout
/// anyway.
#[derive(Debug)]
pub(crate) struct DataFile {
    label: String,
    data: Data,
    len: u64,
}

#[derive(Debug)]
enum Data {
    File(File, PathBuf),
    #[cfg(feature = "bundled")]
    Bundled(&'static [u8]),
}

impl DataFile {
    /// Size in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// How messages name the file.
    pub(crate) fn label(&self) -> String {
        self.label.clone()
    }

    /// Fills `buffer` with the bytes at `offset`.
    ///
    /// # Errors
    /// [`Error::Io`], also if the file ends before the buffer is full.
    pub(crate) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        match &self.data {
            Data::File(file, path) => read_exact_at(file, path, offset, buffer).map_err(|e| Error::io(path, e)),
            #[cfg(feature = "bundled")]
            Data::Bundled(content) => {
                let part = usize::try_from(offset).ok().and_then(|start| content.get(start..)?.get(..buffer.len()));
                let ended = || Error::io(&self.label, std::io::ErrorKind::UnexpectedEof.into());
                part.map(|part| buffer.copy_from_slice(part)).ok_or_else(ended)
            }
        }
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, _: &Path, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
}

#[cfg(not(unix))]
fn read_exact_at(_: &File, path: &Path, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
    use std::io::{Read, Seek};
    // A second handle has its own position.
    let mut file = File::open(path)?;
    file.seek(std::io::SeekFrom::Start(offset))?;
    file.read_exact(buffer)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]
    use super::*;

    #[test]
    fn a_directory_is_read_and_nothing_outside_it() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(ModelFiles::from_dir(dir.path()), Err(Error::MissingFile { .. })));
        std::fs::write(dir.path().join("config.json"), "{}").unwrap();
        let files = ModelFiles::from_dir(dir.path()).unwrap();
        assert_eq!(files.read("config.json").unwrap().unwrap(), b"{}");
        assert!(files.read("absent.json").unwrap().is_none());
        for name in ["../config.json", "/etc/hostname", "", "a/../../b"] {
            assert!(matches!(files.read(name), Err(Error::InvalidFile { .. })), "{name}");
        }
        let data = files.open_data("config.json").unwrap().unwrap();
        let mut byte = [0];
        data.read_at(1, &mut byte).unwrap();
        assert_eq!((data.len(), byte), (2, *b"}"));
        assert!(data.read_at(2, &mut byte).is_err());
        assert!(ModelFiles::from_dir(dir.path().join("config.json")).is_err());
        assert!(matches!(ModelFiles::open("./no/such", &HubOptions::default()), Err(Error::Io { .. })));
    }

    #[test]
    fn a_git_lfs_pointer_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 1340616616\n";
        for file in ["config.json", "tokenizer.json", "model.safetensors"] {
            std::fs::write(dir.path().join(file), pointer).unwrap();
        }
        let files = ModelFiles::from_dir(dir.path()).unwrap();
        let read = files.read("tokenizer.json").unwrap_err().to_string();
        let opened = files.open_data("model.safetensors").unwrap_err().to_string();
        assert!(
            read.contains("tokenizer.json") && read.contains("Git LFS pointer") && read.contains("git lfs pull"),
            "{read}"
        );
        assert!(opened.contains("model.safetensors") && opened.contains("git lfs pull"), "{opened}");
    }

    #[test]
    fn a_token_is_never_shown() {
        let options = HubOptions { token: Some("hf_secret".into()), ..HubOptions::default() };
        assert!(!format!("{options:?}").contains("hf_secret"));
    }
}
