//! A folder of documents, searched by meaning and by words.
//!
//! The way of the data: `extract.rs` reads a file to text, `pieces.rs` cuts the text, `models.rs`
//! makes a vector per piece, `terms.rs` its words, `store/` keeps all of it in SQLite or
//! PostgreSQL. `index.rs` drives that for the files that changed. `search.rs` asks the store both
//! ways and fuses the rankings; `serve.rs` puts it on a page, and `evaluate.rs` counts how often it
//! is right.

pub mod error;
pub mod evaluate;
pub mod extract;
pub mod index;
pub mod models;
pub mod pieces;
mod radicals;
pub mod search;
pub mod serve;
pub mod store;
pub mod terms;
