//! PostgreSQL with pgvector, for those who outgrow one machine: several servers read one index.
//! Vectors lie in an HNSW index, words in a `tsvector` with a GIN index. PostgreSQL's own ranks
//! know nothing of how rare a word is, so BM25 is computed in SQL, by FTS5's formula.

use std::collections::HashMap;

use postgres::{Client, Config, Transaction};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{Counts, Document, FileState, NewDocument, Passage, Store, range};
use crate::error::{Error, Result};

/// A connection.
pub(super) struct Postgres {
    client: Client,
}

/// A schema of its own, so that it may live in a database that has other tables.
const TABLES: &str = "
CREATE EXTENSION IF NOT EXISTS vector;
CREATE SCHEMA IF NOT EXISTS document_search;
CREATE TABLE IF NOT EXISTS settings (one int PRIMARY KEY CHECK (one = 1), settings text NOT NULL);
CREATE TABLE IF NOT EXISTS documents (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, path text NOT NULL UNIQUE, modified bigint NOT NULL,
    size bigint NOT NULL, hash text NOT NULL, kind text NOT NULL, title text NOT NULL, text text NOT NULL, problem text);
";
const SEARCH_PATH: &str = "SET search_path = document_search, public";

/// HNSW takes vectors of up to 2,000 values; longer ones are compared one by one.
const HNSW_DIM: usize = 2000;

/// Any number that stands for this application among the advisory locks of the database.
const LOCK: &str = "SELECT pg_advisory_xact_lock(7143202)";

/// k1 = 1.2, b = 0.75, and the floor of a common word's weight, are FTS5's.
const BM25: &str = "
WITH total AS (SELECT count(*)::float8 AS pieces, greatest(avg(length), 1)::float8 AS mean FROM pieces),
found AS (
    SELECT id, length, lexeme, cardinality(positions)::float8 AS times
    FROM pieces CROSS JOIN LATERAL unnest(terms) WHERE terms @@ $1::text::tsquery AND lexeme = ANY ($2)),
weights AS (
    SELECT lexeme, greatest(ln((pieces - count(*) + 0.5) / (count(*) + 0.5)), 1e-6) AS weight
    FROM found CROSS JOIN total GROUP BY lexeme, pieces)
SELECT id, sum(weight * times * 2.2 / (times + 1.2 * (0.25 + 0.75 * length / mean)))::float4 AS score
FROM found JOIN weights USING (lexeme) CROSS JOIN total GROUP BY id ORDER BY score DESC, id LIMIT $3";

impl Postgres {
    pub(super) fn open(database: &str) -> Result<Self> {
        let config: Config = database.parse()?;
        let mut roots = rustls::RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| Error::Settings(format!("TLS: {e}")))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut client = config.connect(MakeRustlsConnect::new(tls))?;
        client.batch_execute(SEARCH_PATH)?;
        Ok(Self { client })
    }

    /// One writer at a time: two would insert the same document.
    fn transaction(&mut self) -> Result<Transaction<'_>> {
        let mut transaction = self.client.transaction()?;
        transaction.batch_execute(LOCK)?;
        Ok(transaction)
    }
}

/// pgvector's text form.
fn vector_text(vector: &[f32]) -> String {
    let values: Vec<String> = vector.iter().map(f32::to_string).collect();
    format!("[{}]", values.join(","))
}

/// The text form of a `tsvector`, which keeps how often a term comes: 'term':1,5. Terms are letters
/// and digits, so the quotes need no escape. Positions end at 16,383, beyond what a piece has.
fn tsvector_text(terms: &[String]) -> String {
    let terms: Vec<String> =
        terms.iter().enumerate().map(|(i, term)| format!("'{term}':{}", (i + 1).min(16_383))).collect();
    terms.join(" ")
}

impl Store for Postgres {
    fn create(&mut self, dim: usize) -> Result<()> {
        let pieces = format!(
            "CREATE TABLE IF NOT EXISTS pieces (
                id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
                document bigint NOT NULL REFERENCES documents ON DELETE CASCADE,
                start int NOT NULL, stop int NOT NULL, length int NOT NULL, terms tsvector NOT NULL,
                embedding vector({dim}) NOT NULL);
             CREATE INDEX IF NOT EXISTS pieces_of_document ON pieces (document);
             CREATE INDEX IF NOT EXISTS pieces_of_term ON pieces USING gin (terms);"
        );
        let nearest = "CREATE INDEX IF NOT EXISTS pieces_by_vector ON pieces USING hnsw (embedding vector_cosine_ops);";
        let mut transaction = self.transaction()?;
        transaction.batch_execute(TABLES)?;
        transaction.batch_execute(&pieces)?;
        if dim <= HNSW_DIM {
            transaction.batch_execute(nearest)?;
        }
        Ok(transaction.commit()?)
    }

    fn clear(&mut self) -> Result<()> {
        let mut transaction = self.transaction()?;
        transaction.batch_execute(
            "DROP TABLE IF EXISTS document_search.pieces, document_search.documents, document_search.settings",
        )?;
        Ok(transaction.commit()?)
    }

    fn settings(&mut self) -> Result<Option<String>> {
        let table: Option<String> =
            self.client.query_one("SELECT to_regclass('document_search.settings')::text", &[])?.get(0);
        if table.is_none() {
            return Ok(None);
        }
        Ok(self.client.query_opt("SELECT settings FROM settings", &[])?.map(|row| row.get(0)))
    }

    fn set_settings(&mut self, settings: &str) -> Result<()> {
        let sql = "INSERT INTO settings VALUES (1, $1) ON CONFLICT (one) DO UPDATE SET settings = excluded.settings";
        self.client.execute(sql, &[&settings])?;
        Ok(())
    }

    fn files(&mut self) -> Result<HashMap<String, FileState>> {
        let rows = self.client.query("SELECT path, modified, size, hash FROM documents", &[])?;
        let state = |row: &postgres::Row| FileState { modified: row.get(1), size: row.get(2), hash: row.get(3) };
        Ok(rows.iter().map(|row| (row.get(0), state(row))).collect())
    }

    fn write(&mut self, documents: &[NewDocument]) -> Result<()> {
        let mut transaction = self.transaction()?;
        let piece_sql = transaction.prepare(
            "INSERT INTO pieces (document, start, stop, length, terms, embedding)
             VALUES ($1, $2, $3, $4, $5::text::tsvector, $6::text::vector)",
        )?;
        for document in documents {
            let NewDocument { path, state, kind, title, text, problem, pieces } = document;
            transaction.execute("DELETE FROM documents WHERE path = $1", &[path])?;
            let sql = "INSERT INTO documents (path, modified, size, hash, kind, title, text, problem)
                       VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING id";
            let id: i64 = transaction
                .query_one(sql, &[path, &state.modified, &state.size, &state.hash, kind, title, text, problem])?
                .get(0);
            for piece in pieces {
                let (start, stop) = (piece.characters.start as i32, piece.characters.end as i32);
                let (terms, vector) = (tsvector_text(&piece.terms), vector_text(&piece.vector));
                let length = piece.terms.len() as i32;
                transaction.execute(&piece_sql, &[&id, &start, &stop, &length, &terms, &vector])?;
            }
        }
        Ok(transaction.commit()?)
    }

    fn touch(&mut self, files: &[(String, FileState)]) -> Result<()> {
        let mut transaction = self.transaction()?;
        for (path, state) in files {
            let sql = "UPDATE documents SET modified = $1, size = $2 WHERE path = $3 AND hash = $4";
            transaction.execute(sql, &[&state.modified, &state.size, path, &state.hash])?;
        }
        Ok(transaction.commit()?)
    }

    fn remove(&mut self, paths: &[String]) -> Result<()> {
        let mut transaction = self.transaction()?;
        transaction.execute("DELETE FROM documents WHERE path = ANY ($1)", &[&paths])?;
        Ok(transaction.commit()?)
    }

    fn counts(&mut self) -> Result<Counts> {
        let documents = "SELECT count(*) FROM documents WHERE problem IS NULL";
        let problems = "SELECT path, problem FROM documents WHERE problem IS NOT NULL ORDER BY path COLLATE \"C\"";
        Ok(Counts {
            documents: self.client.query_one(documents, &[])?.get(0),
            pieces: self.client.query_one("SELECT count(*) FROM pieces", &[])?.get(0),
            problems: self.client.query(problems, &[])?.iter().map(|row| (row.get(0), row.get(1))).collect(),
        })
    }

    fn nearest(&mut self, vector: &[f32], k: usize) -> Result<Vec<(i64, f32)>> {
        let vector = vector_text(vector);
        let sql = "SELECT id, (1 - (embedding <=> $1::text::vector))::float4 FROM pieces
                   ORDER BY embedding <=> $1::text::vector LIMIT $2";
        let mut transaction = self.client.transaction()?;
        // As many candidates as an exact search would need for k results, and some more.
        transaction.batch_execute(&format!("SET LOCAL hnsw.ef_search = {}", (2 * k).clamp(40, 1000)))?;
        let rows = transaction.query(sql, &[&vector, &(k as i64)])?;
        transaction.commit()?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    fn matching(&mut self, terms: &[String], k: usize) -> Result<Vec<(i64, f32)>> {
        if terms.is_empty() {
            return Ok(Vec::new());
        }
        let query: Vec<String> = terms.iter().map(|term| format!("'{term}'")).collect();
        let rows = self.client.query(BM25, &[&query.join(" | "), &terms, &(k as i64)])?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    fn passages(&mut self, ids: &[i64]) -> Result<Vec<Passage>> {
        let sql = "SELECT pieces.id, document, path, title, start, stop, substr(text, start + 1, stop - start)
                   FROM pieces JOIN documents ON document = documents.id WHERE pieces.id = ANY ($1)";
        let passage = |row: &postgres::Row| Passage {
            id: row.get(0),
            document: row.get(1),
            path: row.get(2),
            title: row.get(3),
            characters: range(i64::from(row.get::<_, i32>(4)), i64::from(row.get::<_, i32>(5))),
            text: row.get(6),
        };
        Ok(self.client.query(sql, &[&ids])?.iter().map(passage).collect())
    }

    fn document(&mut self, id: i64) -> Result<Option<Document>> {
        let sql = "SELECT path, kind, title, text FROM documents WHERE id = $1 AND problem IS NULL";
        let row = self.client.query_opt(sql, &[&id])?;
        Ok(row.map(|row| Document { path: row.get(0), kind: row.get(1), title: row.get(2), text: row.get(3) }))
    }
}
