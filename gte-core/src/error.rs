//! Everything that can go wrong, as data. Messages name the file, key or tensor and what to do
//! about it. Callers match on variants, never on text.

use std::path::PathBuf;

/// What every fallible function of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be opened, read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// A required file of a model is missing.
    #[error("{model}: {file} is missing: {hint}")]
    MissingFile {
        /// The model's directory or name.
        model: String,
        /// The file, relative to the model's directory.
        file: String,
        /// What to do about it.
        hint: &'static str,
    },
    /// A file has invalid content: broken JSON, a truncated or malformed tensor file, a bad
    /// vocabulary.
    #[error("{file}: {reason}")]
    InvalidFile {
        /// The file.
        file: String,
        /// What is wrong with it, with the key, line or byte.
        reason: String,
    },
    /// A model requires something that this engine cannot compute. It is refused, never
    /// approximated.
    #[error("{file}: `{key}` is {found}, supported: {supported}")]
    Unsupported {
        /// The file that requires it.
        file: String,
        /// The key in that file.
        key: String,
        /// Its value.
        found: String,
        /// What would be accepted.
        supported: String,
    },
    /// Neither the model's files nor its name determine how its hidden states become one vector.
    #[error(
        "{model}: there is no 1_Pooling/config.json, and the model's name does not determine its pooling: choose one of cls, mean, last-token"
    )]
    UnknownPooling {
        /// The model's name or directory.
        model: String,
    },
    /// A tensor that the architecture requires is not in the checkpoint.
    #[error("{file}: tensor `{name}` is missing, expected shape {expected:?}")]
    MissingTensor {
        /// The checkpoint.
        file: String,
        /// The tensor's name.
        name: String,
        /// The shape according to the configuration.
        expected: Vec<usize>,
    },
    /// The checkpoint contains a tensor that the architecture does not use: most likely the model
    /// has another architecture.
    #[error("{file}: tensor `{name}` of shape {shape:?} does not belong to this architecture")]
    UnexpectedTensor {
        /// The checkpoint.
        file: String,
        /// The tensor's name.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// A tensor's shape differs from the configuration.
    #[error("{file}: tensor `{name}` has shape {found:?}, config.json requires {expected:?}")]
    TensorShape {
        /// The checkpoint.
        file: String,
        /// The tensor's name.
        name: String,
        /// Its shape in the file.
        found: Vec<usize>,
        /// The shape according to the configuration.
        expected: Vec<usize>,
    },
    /// A weight is NaN or infinite.
    #[error("{file}: tensor `{name}` contains {value} at index {index}: the checkpoint is damaged")]
    NotFinite {
        /// The checkpoint.
        file: String,
        /// The tensor's name.
        name: String,
        /// Position in the flattened tensor.
        index: usize,
        /// The value found.
        value: f32,
    },
    /// A model name is neither a directory nor `owner/name`.
    #[error("`{id}` is not a model: {reason}")]
    InvalidModelId {
        /// The given name.
        id: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The hub does not have the model, the revision or the file.
    #[error("{hub} has no {what}: check the name and the revision")]
    NotOnHub {
        /// The hub's address.
        hub: String,
        /// The requested model, revision and file.
        what: String,
    },
    /// The hub refused access.
    #[error("{hub} refused {what} (HTTP {status}): a private or gated model needs a token ({token_hint})")]
    Unauthorized {
        /// The hub's address.
        hub: String,
        /// The requested model, revision and file.
        what: String,
        /// 401 or 403.
        status: u16,
        /// Where a token can be set.
        token_hint: &'static str,
    },
    /// Offline mode is on, and the model in the cache is not complete.
    #[error("offline, and {what} is not in the cache ({}): download it once while online, or use a directory", cache.display())]
    Offline {
        /// Model, revision and file.
        what: String,
        /// The cache directory that was searched.
        cache: PathBuf,
    },
    /// A download failed after all retries. What has arrived is kept for the next attempt.
    #[error("download of {url} failed: {reason}")]
    Download {
        /// The address.
        url: String,
        /// The last error.
        reason: String,
    },
    /// A downloaded file differs from what the hub announced. It was removed.
    #[error("{url}: expected {expected}, received {found}: the file was discarded, try again or use another mirror")]
    Corrupt {
        /// The address.
        url: String,
        /// The announced size or sha256.
        expected: String,
        /// The size or sha256 of the received file.
        found: String,
    },
    /// The tokenizer failed on a text.
    #[error("text {index} cannot be tokenized: {reason}")]
    Tokenize {
        /// The text's position in the input.
        index: usize,
        /// The tokenizer's own message.
        reason: String,
    },
    /// A token id is outside the vocabulary.
    #[error("token id {id} is outside the vocabulary of {vocab} tokens")]
    TokenId {
        /// The id.
        id: u32,
        /// The size of the vocabulary.
        vocab: usize,
    },
    /// A list of token ids is empty or longer than the model's positions.
    #[error("{}", token_count(*found, *max))]
    TokenCount {
        /// The number of tokens.
        found: usize,
        /// The largest number that is accepted.
        max: usize,
    },
    /// Two sets of vectors do not have the same dimension.
    #[error("vectors of {left} and {right} dimensions cannot be compared")]
    Dimensions {
        /// Dimension of the first.
        left: usize,
        /// Dimension of the second.
        right: usize,
    },
    /// Values that should be vectors, row after row, are not a whole number of rows.
    #[error("{values} values are not a whole number of rows of {dim}")]
    Rows {
        /// The number of values.
        values: usize,
        /// Values per row.
        dim: usize,
    },
    /// A buffer for vectors is too short or too long.
    #[error("the output buffer has {found} values, expected {expected}: one row for each text")]
    OutputLength {
        /// The number of values in the vectors.
        expected: usize,
        /// The number of values that fit into the buffer.
        found: usize,
    },
    /// There is no row with this number.
    #[error("there is no row {index}: the rows are numbered from 0, and there are {rows}")]
    NoRow {
        /// The requested number.
        index: usize,
        /// How many rows there are.
        rows: usize,
    },
    /// An option has an invalid value.
    #[error("{option} is {value}, expected {expected}")]
    InvalidOption {
        /// The option or environment variable.
        option: &'static str,
        /// The value given.
        value: String,
        /// What is accepted.
        expected: String,
    },
    /// A model was opened as another kind of model.
    #[error("{model} is {}: open it with `{}` in Rust, or use the example `{}`", article(found), door(found).0, door(found).1)]
    WrongTask {
        /// The model.
        model: String,
        /// What it is: `embedder`, `reranker`, `classifier`.
        found: &'static str,
    },
    /// The device cannot be used, or failed while computing.
    #[error("device {device}: {reason}")]
    Device {
        /// The name of the device.
        device: String,
        /// The message of the driver or of candle.
        reason: String,
    },
    /// The device has no room for a model's weights, or for the activations of a single text.
    #[error("device {device}: no room for {} MiB more: free memory, take a smaller model, or cut texts earlier", bytes.div_ceil(1 << 20))]
    DeviceMemory {
        /// The device, as it was named.
        device: String,
        /// Bytes that were asked for.
        bytes: usize,
    },
    /// The device answers no more: nothing is computed on it until the process is restarted.
    #[error("device {device} is lost: {reason}: restart the process")]
    DeviceLost {
        /// The device, as it was named.
        device: String,
        /// The driver's own words.
        reason: String,
    },
}

impl Error {
    /// Wraps an operating system error with the path at which it happened.
    pub(crate) fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }

    /// An error about a file with invalid content.
    pub(crate) fn invalid(file: impl std::fmt::Display, reason: impl std::fmt::Display) -> Self {
        Self::InvalidFile { file: file.to_string(), reason: reason.to_string() }
    }
}

fn article(kind: &str) -> String {
    let article = if kind.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {kind}")
}

/// The type that opens a model of this kind, and the example.
fn door(kind: &str) -> (&'static str, &'static str) {
    if kind == "embedder" { ("Embedder", "embed") } else { ("Reranker", "rerank") }
}

fn token_count(found: usize, max: usize) -> String {
    match found {
        0 => "a list of token ids is empty: a text has at least one token".to_owned(),
        _ => format!("{found} tokens in one text: the limit of this model is {max}"),
    }
}
