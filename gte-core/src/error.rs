//! Everything that can go wrong, as data. Messages name the file, key or tensor at fault and what to do about it;
//! callers match on variants, never on text.

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
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// A model lacks a file that it cannot do without.
    #[error("{model}: {file} is missing: {hint}")]
    MissingFile {
        /// The model's directory or name.
        model: String,
        /// The file, relative to the model's directory.
        file: String,
        /// What to do about it.
        hint: &'static str,
    },
    /// A file is there but is not what it should be: broken JSON, a truncated or malformed tensor file, a bad vocabulary.
    #[error("{file}: {reason}")]
    InvalidFile {
        /// The file.
        file: String,
        /// What is wrong with it, with the key, line or byte where it shows.
        reason: String,
    },
    /// A model asks for something that this engine does not compute. It is refused, never approximated.
    #[error("{file}: `{key}` is {found}, supported: {supported}")]
    Unsupported {
        /// The file that asks for it.
        file: String,
        /// The key in that file.
        key: String,
        /// Its value.
        found: String,
        /// What would be accepted.
        supported: String,
    },
    /// Neither the model's files nor its name say how its hidden states become one vector.
    #[error(
        "{model}: no 1_Pooling/config.json, and not a model whose pooling is known by name: choose one of cls, mean, last-token"
    )]
    UnknownPooling {
        /// The model's name or directory.
        model: String,
    },
    /// A tensor that the architecture needs is not in the checkpoint.
    #[error("{file}: tensor `{name}` is missing, expected shape {expected:?}")]
    MissingTensor {
        /// The checkpoint.
        file: String,
        /// The tensor's name.
        name: String,
        /// The shape that the configuration asks for.
        expected: Vec<usize>,
    },
    /// The checkpoint holds a tensor that the architecture has no use for: most likely it is another architecture.
    #[error("{file}: tensor `{name}` of shape {shape:?} has no place in this architecture")]
    UnexpectedTensor {
        /// The checkpoint.
        file: String,
        /// The tensor's name.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// A tensor's shape is not the one that the configuration asks for.
    #[error("{file}: tensor `{name}` has shape {found:?}, config.json asks for {expected:?}")]
    TensorShape {
        /// The checkpoint.
        file: String,
        /// The tensor's name.
        name: String,
        /// Its shape in the file.
        found: Vec<usize>,
        /// The shape that the configuration asks for.
        expected: Vec<usize>,
    },
    /// A weight is NaN or infinite.
    #[error("{file}: tensor `{name}` holds {value} at index {index}: the checkpoint is damaged")]
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
        /// What was given.
        id: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The hub does not know the model, the revision or the file.
    #[error("{hub} has no {what}: check the name and the revision")]
    NotOnHub {
        /// The hub's address.
        hub: String,
        /// Model, revision and file that were asked for.
        what: String,
    },
    /// The hub refused access.
    #[error("{hub} refused {what} (HTTP {status}): a private or gated model needs a token ({token_hint})")]
    Unauthorized {
        /// The hub's address.
        hub: String,
        /// Model, revision and file that were asked for.
        what: String,
        /// 401 or 403.
        status: u16,
        /// Where a token is looked for.
        token_hint: &'static str,
    },
    /// Offline mode was asked for and the cache is not complete.
    #[error("offline, and {what} is not in the cache ({}): download it once while online, or give a directory", cache.display())]
    Offline {
        /// Model, revision and file.
        what: String,
        /// The cache directory that was searched.
        cache: PathBuf,
    },
    /// A download failed after all retries. What has arrived is kept for the next try.
    #[error("download of {url} failed: {reason}")]
    Download {
        /// The address.
        url: String,
        /// The last failure.
        reason: String,
    },
    /// A downloaded file is not the one that the hub announced. It was removed.
    #[error("{url}: expected {expected}, received {found}: the file was discarded, try again or use another mirror")]
    Corrupt {
        /// The address.
        url: String,
        /// The announced size or sha256.
        expected: String,
        /// The size or sha256 of what arrived.
        found: String,
    },
    /// The tokenizer failed on a text.
    #[error("text {index} cannot be tokenized: {reason}")]
    Tokenize {
        /// The text's position in the input.
        index: usize,
        /// The tokenizer's own words.
        reason: String,
    },
    /// A token id lies outside the vocabulary.
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
    /// Values that should be vectors, row after row, are no whole number of rows.
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
        /// The number of values that the vectors have.
        expected: usize,
        /// The number of values that the buffer has room for.
        found: usize,
    },
    /// There is no row of this number.
    #[error("there is no row {index}: the rows are numbered from 0, and there are {rows}")]
    NoRow {
        /// The number that was asked for.
        index: usize,
        /// How many rows there are.
        rows: usize,
    },
    /// An option has a value that cannot be used.
    #[error("{option} is {value}, expected {expected}")]
    InvalidOption {
        /// The option or environment variable.
        option: &'static str,
        /// The value given.
        value: String,
        /// What is accepted.
        expected: String,
    },
    /// A model of one kind was opened as one of another.
    #[error("{model} is {}: open it as one (`{}` in Rust, the example `{}`)", article(found), door(found).0, door(found).1)]
    WrongTask {
        /// The model.
        model: String,
        /// What it is: `embedder`, `reranker`, `classifier`.
        found: &'static str,
    },
    /// The device cannot be used, or failed while computing.
    #[error("device {device}: {reason}")]
    Device {
        /// The device, as it was named.
        device: String,
        /// The driver's or candle's own words.
        reason: String,
    },
}

impl Error {
    /// Wraps an operating system error with the path at which it happened.
    pub(crate) fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }

    /// A file that is not what it should be.
    pub(crate) fn invalid(file: impl std::fmt::Display, reason: impl std::fmt::Display) -> Self {
        Self::InvalidFile { file: file.to_string(), reason: reason.to_string() }
    }
}

fn article(kind: &str) -> String {
    let article = if kind.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {kind}")
}

/// What opens a model of a kind: the type, and the example.
fn door(kind: &str) -> (&'static str, &'static str) {
    if kind == "embedder" { ("Embedder", "embed") } else { ("Reranker", "rerank") }
}

fn token_count(found: usize, max: usize) -> String {
    match found {
        0 => "a list of token ids is empty: a text has at least one token".to_owned(),
        _ => format!("{found} tokens in one text: this model takes at most {max}"),
    }
}
