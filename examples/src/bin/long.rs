//! How do I embed texts that are longer than the model's limit?
//!
//!     cargo run --release -p examples --bin long -- --chunk 256 --overlap 32 < texts.txt > vectors.jsonl
//!
//! A text is split into overlapping windows of tokens. Its vector is the mean of their vectors, or
//! the maximum of each value, scaled to unit length. Reads one text per line from standard input,
//! and prints one JSON object per line, in the same order: `{"text", "embedding", "tokens",
//! "windows"}`.

use std::io::{BufRead, BufReader, Write};
use std::process::ExitCode;

use clap::Parser;
use examples::Model;
use gte_core::{Combine, Windows};

#[derive(Parser)]
#[command(about = "Embeds long texts window by window")]
struct Options {
    #[command(flatten)]
    model: Model,
    /// Number of tokens per window, including special tokens. Default: the model's limit.
    #[arg(long, value_name = "TOKENS")]
    chunk: Option<usize>,
    /// Number of tokens that a window shares with the one before it.
    #[arg(long, value_name = "TOKENS", default_value_t = 0)]
    overlap: usize,
    /// mean or max, over the windows.
    #[arg(long, default_value_t)]
    combine: Combine,
}

/// A line of output.
#[derive(serde::Serialize)]
struct Line<'a> {
    text: &'a str,
    embedding: &'a [f32],
    tokens: usize,
    windows: usize,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            let _ = writeln!(std::io::stderr(), "long: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), String> {
    let embedder = options.model.load().map_err(|e| e.to_string())?;
    let tokens = options.chunk.unwrap_or(embedder.max_length());
    let windows = Windows::new(tokens).with_overlap(options.overlap).with_combine(options.combine);
    let mut out = std::io::stdout().lock();
    for (i, line) in BufReader::new(std::io::stdin()).lines().enumerate() {
        let text = line.map_err(|e| format!("line {}: {e}", i + 1))?;
        let vector = embedder.embed_windows(&text, &windows).map_err(|e| format!("line {}: {e}", i + 1))?;
        let (embedding, tokens, windows) = (&vector.embedding[..], vector.tokens, vector.windows);
        let line = Line { text: &text, embedding, tokens, windows };
        let line = serde_json::to_string(&line).map_err(|e| e.to_string())?;
        writeln!(out, "{line}").and_then(|()| out.flush()).map_err(|e| format!("standard output: {e}"))?;
    }
    Ok(())
}
