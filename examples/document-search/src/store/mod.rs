//! `Store`: what a database does for the application. A document is in the index whole or not at
//! all: each method that writes is one transaction, so a process may be killed at any moment.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use crate::error::{Error, Result};

mod postgres;
mod sqlite;

/// A file as the index knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileState {
    /// Time of the last change in nanoseconds since 1970. 0 if the file was read within moments of
    /// its change, and may have changed again unseen: then its content is compared.
    pub modified: i64,
    /// Length in bytes.
    pub size: i64,
    /// SHA-256 of the content, in hexadecimal digits.
    pub hash: String,
}

/// A document to write.
#[derive(Debug)]
pub struct NewDocument {
    /// Below the folder, with `/` between its parts.
    pub path: String,
    /// The file that it was read from.
    pub state: FileState,
    /// [`Kind::name`](crate::extract::Kind::name).
    pub kind: &'static str,
    /// The document's own title, else the file's name.
    pub title: String,
    /// The extracted text.
    pub text: String,
    /// Why the file cannot be read; then there is no text.
    pub problem: Option<String>,
    /// Its pieces, in order.
    pub pieces: Vec<NewPiece>,
}

/// A piece to write.
#[derive(Debug)]
pub struct NewPiece {
    /// Characters of the document's text.
    pub characters: Range<usize>,
    /// The words of full-text search, in order, with repetitions.
    pub terms: Vec<String>,
    /// Of unit length.
    pub vector: Vec<f32>,
}

/// A piece that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Passage {
    /// The piece.
    pub id: i64,
    /// Its document.
    pub document: i64,
    /// The document's path.
    pub path: String,
    /// The document's title.
    pub title: String,
    /// Characters of the document's text.
    pub characters: Range<usize>,
    /// The text between.
    pub text: String,
}

/// A document as the page shows it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Document {
    /// Below the folder.
    pub path: String,
    /// text, markdown, html or pdf.
    pub kind: String,
    /// Its title.
    pub title: String,
    /// The extracted text.
    pub text: String,
}

/// What is in the index.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Documents that can be found.
    pub documents: i64,
    /// Their pieces.
    pub pieces: i64,
    /// Files that cannot be read, each with the reason.
    pub problems: Vec<(String, String)>,
}

/// A connection to a database.
pub trait Store: Send {
    /// Makes the tables, for vectors of `dim` values, if they are missing.
    fn create(&mut self, dim: usize) -> Result<()>;
    /// Removes the tables and all that is in them.
    fn clear(&mut self) -> Result<()>;
    /// What the index was made with, if there is one.
    fn settings(&mut self) -> Result<Option<String>>;
    /// Says what the index is made with.
    fn set_settings(&mut self, settings: &str) -> Result<()>;
    /// Every file of the index.
    fn files(&mut self) -> Result<HashMap<String, FileState>>;
    /// Writes documents, in place of those of the same path.
    fn write(&mut self, documents: &[NewDocument]) -> Result<()>;
    /// Files whose content is the same as before.
    fn touch(&mut self, files: &[(String, FileState)]) -> Result<()>;
    /// Removes documents.
    fn remove(&mut self, paths: &[String]) -> Result<()>;
    /// What is in the index.
    fn counts(&mut self) -> Result<Counts>;
    /// Up to `k` pieces by falling cosine with a unit vector.
    fn nearest(&mut self, vector: &[f32], k: usize) -> Result<Vec<(i64, f32)>>;
    /// Up to `k` pieces that have one of the terms, by falling BM25 (k1 1.2, b 0.75).
    fn matching(&mut self, terms: &[String], k: usize) -> Result<Vec<(i64, f32)>>;
    /// Pieces by id, in any order; those that are gone meanwhile are missing.
    fn passages(&mut self, ids: &[i64]) -> Result<Vec<Passage>>;
    /// A document by id.
    fn document(&mut self, id: i64) -> Result<Option<Document>>;
}

/// Opens a database: `postgres://…` (or `postgresql://…`), else a file of SQLite, which is made.
///
/// # Errors
/// Whatever the database says; [`Error::Settings`] for another kind of address.
pub fn open(database: &str) -> Result<Box<dyn Store>> {
    match database.split_once("://") {
        Some(("postgres" | "postgresql", _)) => Ok(Box::new(postgres::Postgres::open(database)?)),
        Some((scheme, _)) => Err(Error::Settings(format!(
            "--database {scheme}://… is not known: give the path of a file, for SQLite, or postgres://…"
        ))),
        None => Ok(Box::new(sqlite::Sqlite::open(Path::new(database))?)),
    }
}

/// A range of characters out of a database.
fn range(start: i64, stop: i64) -> Range<usize> {
    let position = |value| usize::try_from(value).unwrap_or(0);
    position(start)..position(stop)
}
