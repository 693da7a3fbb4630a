//! SQLite in one file: vectors in `sqlite-vec`, words in FTS5. Searching goes on while another
//! process or thread writes (WAL).

use std::collections::HashMap;
use std::path::Path;
use std::sync::Once;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::{Counts, Document, FileState, NewDocument, Passage, Store, range};
use crate::error::Result;

/// A connection.
pub(super) struct Sqlite {
    connection: Connection,
}

/// FTS5 keeps no copy of the terms (`content=''`): a piece's text is in its document.
const TABLES: &str = "
CREATE TABLE IF NOT EXISTS settings (one INTEGER PRIMARY KEY CHECK (one = 1), settings TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS documents (
    id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, modified INTEGER NOT NULL, size INTEGER NOT NULL,
    hash TEXT NOT NULL, kind TEXT NOT NULL, title TEXT NOT NULL, text TEXT NOT NULL, problem TEXT);
CREATE TABLE IF NOT EXISTS pieces (
    id INTEGER PRIMARY KEY, document INTEGER NOT NULL REFERENCES documents (id),
    start INTEGER NOT NULL, stop INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS pieces_of_document ON pieces (document);
CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5(
    terms, content='', contentless_delete=1, tokenize='unicode61 remove_diacritics 0');
";

/// `sqlite-vec` becomes a part of every connection that is opened from here on.
#[allow(unsafe_code, reason = "an extension of SQLite is registered by its C entry point")]
fn register_sqlite_vec() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        type EntryPoint = unsafe extern "C" fn(
            *mut rusqlite::ffi::sqlite3,
            *mut *mut std::ffi::c_char,
            *const rusqlite::ffi::sqlite3_api_routines,
        ) -> std::ffi::c_int;
        // SAFETY: `sqlite3_vec_init` is compiled from C with this signature, that of every
        // extension; the crate declares it without its arguments. It may be registered at any time.
        unsafe {
            let init: EntryPoint = std::mem::transmute(sqlite_vec::sqlite3_vec_init as *const ());
            rusqlite::ffi::sqlite3_auto_extension(Some(init));
        }
    });
}

impl Sqlite {
    pub(super) fn open(path: &Path) -> Result<Self> {
        register_sqlite_vec();
        let connection = Connection::open(path)?;
        connection.busy_timeout(Duration::from_secs(30))?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        // A power cut may lose the last transactions, never the file: the next run makes them
        // again.
        connection.pragma_update(None, "synchronous", "normal")?;
        Ok(Self { connection })
    }

    /// Takes the lock for writing at once, so that two writers wait for each other.
    fn transaction(&mut self) -> Result<Transaction<'_>> {
        Ok(self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?)
    }

    fn has_tables(&self) -> Result<bool> {
        let found = "SELECT count(*) FROM sqlite_schema WHERE name = 'settings'";
        Ok(self.connection.query_row(found, [], |row| row.get::<_, i64>(0))? == 1)
    }
}

fn delete(transaction: &Transaction<'_>, path: &str) -> Result<()> {
    for table in ["vectors", "words"] {
        let of_path = format!(
            "DELETE FROM {table} WHERE rowid IN
             (SELECT pieces.id FROM pieces JOIN documents ON document = documents.id WHERE path = ?)"
        );
        transaction.prepare_cached(&of_path)?.execute([path])?;
    }
    let pieces = "DELETE FROM pieces WHERE document IN (SELECT id FROM documents WHERE path = ?)";
    transaction.prepare_cached(pieces)?.execute([path])?;
    transaction.prepare_cached("DELETE FROM documents WHERE path = ?")?.execute([path])?;
    Ok(())
}

/// The little-endian values that `sqlite-vec` reads.
fn blob(vector: &[f32]) -> Vec<u8> {
    vector.iter().flat_map(|value| value.to_le_bytes()).collect()
}

impl Store for Sqlite {
    fn create(&mut self, dim: usize) -> Result<()> {
        let vectors = format!(
            "CREATE VIRTUAL TABLE IF NOT EXISTS vectors USING vec0(embedding float[{dim}] distance_metric=cosine);"
        );
        let transaction = self.transaction()?;
        transaction.execute_batch(TABLES)?;
        transaction.execute_batch(&vectors)?;
        Ok(transaction.commit()?)
    }

    fn clear(&mut self) -> Result<()> {
        let transaction = self.transaction()?;
        for table in ["words", "vectors", "pieces", "documents", "settings"] {
            transaction.execute_batch(&format!("DROP TABLE IF EXISTS {table}"))?;
        }
        Ok(transaction.commit()?)
    }

    fn settings(&mut self) -> Result<Option<String>> {
        if !self.has_tables()? {
            return Ok(None);
        }
        Ok(self.connection.query_row("SELECT settings FROM settings", [], |row| row.get(0)).optional()?)
    }

    fn set_settings(&mut self, settings: &str) -> Result<()> {
        self.connection.execute("INSERT OR REPLACE INTO settings VALUES (1, ?)", [settings])?;
        Ok(())
    }

    fn files(&mut self) -> Result<HashMap<String, FileState>> {
        let mut statement = self.connection.prepare("SELECT path, modified, size, hash FROM documents")?;
        let files = statement.query_map([], |row| {
            Ok((row.get(0)?, FileState { modified: row.get(1)?, size: row.get(2)?, hash: row.get(3)? }))
        })?;
        Ok(files.collect::<rusqlite::Result<_>>()?)
    }

    fn write(&mut self, documents: &[NewDocument]) -> Result<()> {
        let transaction = self.transaction()?;
        for document in documents {
            delete(&transaction, &document.path)?;
            let NewDocument { path, state, kind, title, text, problem, pieces } = document;
            let insert = "INSERT INTO documents (path, modified, size, hash, kind, title, text, problem)
                          VALUES (?, ?, ?, ?, ?, ?, ?, ?)";
            let values = params![path, state.modified, state.size, state.hash, kind, title, text, problem];
            let id = transaction.prepare_cached(insert)?.insert(values)?;
            for piece in pieces {
                let (start, stop) = (piece.characters.start as i64, piece.characters.end as i64);
                let id = transaction
                    .prepare_cached("INSERT INTO pieces (document, start, stop) VALUES (?, ?, ?)")?
                    .insert(params![id, start, stop])?;
                transaction
                    .prepare_cached("INSERT INTO vectors (rowid, embedding) VALUES (?, ?)")?
                    .execute(params![id, blob(&piece.vector)])?;
                transaction
                    .prepare_cached("INSERT INTO words (rowid, terms) VALUES (?, ?)")?
                    .execute(params![id, piece.terms.join(" ")])?;
            }
        }
        Ok(transaction.commit()?)
    }

    fn touch(&mut self, files: &[(String, FileState)]) -> Result<()> {
        let transaction = self.transaction()?;
        for (path, state) in files {
            transaction
                .prepare_cached("UPDATE documents SET modified = ?, size = ? WHERE path = ? AND hash = ?")?
                .execute(params![state.modified, state.size, path, state.hash])?;
        }
        Ok(transaction.commit()?)
    }

    fn remove(&mut self, paths: &[String]) -> Result<()> {
        let transaction = self.transaction()?;
        paths.iter().try_for_each(|path| delete(&transaction, path))?;
        Ok(transaction.commit()?)
    }

    fn counts(&mut self) -> Result<Counts> {
        let count = |sql| self.connection.query_row(sql, [], |row| row.get(0));
        let documents = count("SELECT count(*) FROM documents WHERE problem IS NULL")?;
        let pieces = count("SELECT count(*) FROM pieces")?;
        let problems = "SELECT path, problem FROM documents WHERE problem IS NOT NULL ORDER BY path";
        let mut statement = self.connection.prepare(problems)?;
        let problems = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(Counts { documents, pieces, problems: problems.collect::<rusqlite::Result<_>>()? })
    }

    fn nearest(&mut self, vector: &[f32], k: usize) -> Result<Vec<(i64, f32)>> {
        let sql = "SELECT rowid, 1 - distance FROM vectors WHERE embedding MATCH ? AND k = ? ORDER BY distance";
        let mut statement = self.connection.prepare_cached(sql)?;
        let found = statement.query_map(params![blob(vector), k as i64], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(found.collect::<rusqlite::Result<_>>()?)
    }

    fn matching(&mut self, terms: &[String], k: usize) -> Result<Vec<(i64, f32)>> {
        if terms.is_empty() {
            return Ok(Vec::new());
        }
        // Terms are letters and digits, so the quotes need no escape.
        let query: Vec<String> = terms.iter().map(|term| format!("\"{term}\"")).collect();
        let sql = "SELECT rowid, -bm25(words) FROM words WHERE words MATCH ? ORDER BY bm25(words), rowid LIMIT ?";
        let mut statement = self.connection.prepare_cached(sql)?;
        let found = statement.query_map(params![query.join(" OR "), k as i64], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(found.collect::<rusqlite::Result<_>>()?)
    }

    fn passages(&mut self, ids: &[i64]) -> Result<Vec<Passage>> {
        let sql = "SELECT document, path, title, start, stop, substr(text, start + 1, stop - start)
                   FROM pieces JOIN documents ON document = documents.id WHERE pieces.id = ?";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut passages = Vec::with_capacity(ids.len());
        for &id in ids {
            let passage = statement.query_row([id], |row| {
                Ok(Passage {
                    id,
                    document: row.get(0)?,
                    path: row.get(1)?,
                    title: row.get(2)?,
                    characters: range(row.get(3)?, row.get(4)?),
                    text: row.get(5)?,
                })
            });
            passages.extend(passage.optional()?);
        }
        Ok(passages)
    }

    fn document(&mut self, id: i64) -> Result<Option<Document>> {
        let sql = "SELECT path, kind, title, text FROM documents WHERE id = ? AND problem IS NULL";
        let mut statement = self.connection.prepare_cached(sql)?;
        let document = statement.query_row([id], |row| {
            Ok(Document { path: row.get(0)?, kind: row.get(1)?, title: row.get(2)?, text: row.get(3)? })
        });
        Ok(document.optional()?)
    }
}
