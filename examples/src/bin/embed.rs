//! How do I get the vectors of my texts?
//!
//!     cargo run --release -p examples --bin embed -- --model target/models/all-MiniLM-L6-v2 "今天天气真好" "a lovely day"
//!     cargo run --release -p examples --bin embed -- --model thenlper/gte-large-zh < texts.txt > vectors.jsonl
//!
//! Reads one text per line from standard input, or takes texts as arguments. Prints one JSON object
//! per line, in the same order: `{"text", "embedding", "tokens", "truncated"}`, or with `--output
//! sparse` `{"sparse": {"<token id>": weight}, …}`, with `--output colbert` `{"colbert": [[…], …],
//! …}`. A line is used exactly as it is, except for its newline: spaces stay, and so does the
//! carriage return of a file from Windows. Input is read as it arrives, and may be endless.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::ExitCode;

use clap::Parser;
use examples::Model;
use gte_core::{Embedder, Outputs, Prompt, TokenizeOptions, Tokens};

#[derive(Parser)]
#[command(about = "Embeds texts, one JSON object per line")]
struct Options {
    #[command(flatten)]
    model: Model,
    /// Name of the model's prompt to put before each text. Default: the model's default prompt.
    #[arg(long, value_name = "NAME", conflicts_with = "prompt")]
    prompt_name: Option<String>,
    /// Text to put before each text instead of a prompt of the model. Empty for none.
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// A vector per text, weights of token ids, or a vector per token.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    /// Texts to embed. Default: the lines of standard input.
    texts: Vec<String>,
}

/// The output for each text.
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum Output {
    /// A unit vector: `embedding`.
    #[default]
    Dense,
    /// Weights of token ids: `sparse`.
    Sparse,
    /// A unit vector per token: `colbert`.
    Colbert,
}

/// A line of output.
#[derive(serde::Serialize)]
struct Line<'a> {
    text: &'a str,
    #[serde(flatten)]
    vector: Vector<'a>,
    tokens: usize,
    truncated: bool,
}

#[derive(serde::Serialize)]
#[serde(rename_all = "lowercase")]
enum Vector<'a> {
    Embedding(&'a [f32]),
    Sparse(BTreeMap<u32, f32>),
    Colbert(Vec<&'a [f32]>),
}

/// Maximum number of texts that are computed together.
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
        return print(&embedder, options, &options.texts);
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
                    // The lines before it are complete and must not be lost.
                    print(&embedder, options, &texts)?;
                    return Err(format!("line {number} is not UTF-8 from byte {} on", e.utf8_error().valid_up_to()));
                }
            }
        }
        // A full piece, the end of the input, or no more input for now: someone may be typing, or
        // waiting for the result.
        if texts.len() == PIECE || read == 0 || input.buffer().is_empty() {
            print(&embedder, options, &texts)?;
            texts.clear();
        }
        if read == 0 {
            return Ok(());
        }
    }
}

fn print(embedder: &Embedder, options: &Options, texts: &[String]) -> Result<(), String> {
    let prompt = match (&options.prompt, &options.prompt_name) {
        (Some(text), _) => Prompt::Text(text),
        (None, Some(name)) => Prompt::Named(name),
        (None, None) => Prompt::Default,
    };
    let tokenize = TokenizeOptions::default().with_prompt(prompt);
    let tokens = embedder.tokenize_with(texts, &tokenize).map_err(|e| e.to_string())?;
    let mut out = std::io::stdout().lock();
    let mut write = |i: usize, vector: Vector<'_>| -> Result<(), String> {
        let (text, tokens): (&String, &Tokens) = (&texts[i], &tokens[i]);
        let line = Line { text, vector, tokens: tokens.len(), truncated: tokens.truncated() };
        let line = serde_json::to_string(&line).map_err(|e| e.to_string())?;
        writeln!(out, "{line}").map_err(|e| format!("standard output: {e}"))
    };
    let all = |outputs| embedder.embed_all(&tokens, outputs).map_err(|e| e.to_string());
    match options.output {
        Output::Dense => {
            let vectors = embedder.embed_tokens(&tokens).map_err(|e| e.to_string())?;
            vectors.rows().enumerate().try_for_each(|(i, row)| write(i, Vector::Embedding(row)))?;
        }
        Output::Sparse => {
            let sparse = all(Outputs::NONE.with_sparse(true))?.sparse.unwrap_or_default();
            for i in 0..sparse.len() {
                let (ids, weights) = sparse.get(i).unwrap_or_default();
                write(i, Vector::Sparse(ids.iter().copied().zip(weights.iter().copied()).collect()))?;
            }
        }
        Output::Colbert => {
            let all = all(Outputs::NONE.with_colbert(true))?;
            let vectors = all.colbert.ok_or("the model has no vector per token")?;
            for i in 0..vectors.len() {
                write(i, Vector::Colbert(vectors.get(i).unwrap_or_default().chunks_exact(vectors.dim).collect()))?;
            }
        }
    }
    out.flush().map_err(|e| format!("standard output: {e}"))
}
