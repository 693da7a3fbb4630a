//! `Error`: what stops the application. A file that cannot be read does not: the index keeps why.

use std::error::Error as _;
use std::path::{Path, PathBuf};

/// A result whose error is [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// What stops the application.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder that the application itself needs.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A model that cannot be loaded, or cannot compute.
    #[error(transparent)]
    Model(#[from] gte_core::Error),
    /// The embedded database.
    #[error("SQLite: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The database server. Its own message stands at the end of the chain of causes.
    #[error("PostgreSQL: {}", causes(.0))]
    Postgres(#[from] postgres::Error),
    /// Options that do not go together, or not with the index as it is.
    #[error("{0}")]
    Settings(String),
}

impl Error {
    /// An error of a file, for `map_err`.
    pub fn file(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        |source| Self::File { path, source }
    }
}

/// The messages of an error and of its causes: those of `postgres` say little alone.
fn causes(error: &postgres::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
