//! How do I get the vectors of my texts?
//!
//!     cargo run --release -p examples --bin embed -- --model target/models/all-MiniLM-L6-v2 "今天天气真好" "a lovely day"
//!     cargo run --release -p examples --bin embed -- --model thenlper/gte-large-zh < texts.txt > vectors.jsonl
//!
//! One text a line on standard input, or texts as arguments; one JSON object a line on standard output, in the same order:
//! `{"text", "embedding", "tokens", "truncated"}`. A line is taken byte for byte, without its newline alone: spaces stay, and
//! so does the carriage return of a file from Windows. Input is read as it comes and may be endless.

use std::io::{BufRead, BufReader, Write};
use std::process::ExitCode;

use clap::Parser;
use examples::Model;
use gte_core::Embedder;

#[derive(Parser)]
#[command(about = "Texts to vectors, one JSON object a line")]
struct Options {
    #[command(flatten)]
    model: Model,
    /// Texts; standard input, one a line, if there are none.
    texts: Vec<String>,
}

/// A line of output.
#[derive(serde::Serialize)]
struct Line<'a> {
    text: &'a str,
    embedding: &'a [f32],
    tokens: usize,
    truncated: bool,
}

/// Texts that are computed together, at most.
const PIECE: usize = 256;

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            let _ = writeln!(std::io::stderr(), "embed: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), String> {
    let embedder = options.model.load().map_err(|e| e.to_string())?;
    if !options.texts.is_empty() {
        return print(&embedder, &options.texts);
    }
    let mut input = BufReader::new(std::io::stdin());
    let mut number = 0;
    let mut texts = Vec::new();
    loop {
        let mut line = Vec::new();
        let read = input.read_until(b'\n', &mut line).map_err(|e| format!("standard input: {e}"))?;
        if read > 0 {
            number += 1;
            if line.last() == Some(&b'\n') {
                line.pop();
            }
            match String::from_utf8(line) {
                Ok(text) => texts.push(text),
                Err(e) => {
                    // What came before it is whole and is not lost.
                    print(&embedder, &texts)?;
                    return Err(format!("line {number} is not UTF-8 from byte {} on", e.utf8_error().valid_up_to()));
                }
            }
        }
        // A full piece, the end, or nothing more to read for now: someone may be typing, or waiting for the answer.
        if texts.len() == PIECE || read == 0 || input.buffer().is_empty() {
            print(&embedder, &texts)?;
            texts.clear();
        }
        if read == 0 {
            return Ok(());
        }
    }
}

fn print(embedder: &Embedder, texts: &[String]) -> Result<(), String> {
    let tokens = embedder.tokenize(texts).map_err(|e| e.to_string())?;
    let vectors = embedder.embed_tokens(&tokens).map_err(|e| e.to_string())?;
    let mut out = std::io::stdout().lock();
    for ((text, tokens), embedding) in texts.iter().zip(&tokens).zip(vectors.rows()) {
        let line = Line { text, embedding, tokens: tokens.len(), truncated: tokens.truncated() };
        let line = serde_json::to_string(&line).map_err(|e| e.to_string())?;
        writeln!(out, "{line}").map_err(|e| format!("standard output: {e}"))?;
    }
    out.flush().map_err(|e| format!("standard output: {e}"))
}
