//! How do I find the lines of a file that match the meaning of a question?
//!
//!     cargo run --release -p examples --bin search -- --model target/models/all-MiniLM-L6-v2 examples/data/help.txt "how do I get my money back?"

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use examples::Model;
use gte_core::similarity::top_k;
use indicatif::{ProgressBar, ProgressStyle};

#[derive(Parser)]
#[command(about = "Finds the lines of a text file that are closest in meaning to a query")]
struct Options {
    #[command(flatten)]
    model: Model,
    /// Text file, one document per line. Empty lines are ignored.
    file: std::path::PathBuf,
    /// Text to search for.
    query: String,
    /// Number of lines to print.
    #[arg(short, default_value_t = 5)]
    k: usize,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            let _ = writeln!(std::io::stderr(), "search: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), String> {
    let content = std::fs::read_to_string(&options.file).map_err(|e| format!("{}: {e}", options.file.display()))?;
    let lines: Vec<&str> = content.lines().filter(|line| !line.trim().is_empty()).collect();
    let embedder = options.model.load().map_err(|e| e.to_string())?;

    let style =
        ProgressStyle::with_template("embedding {pos}/{len} {wide_bar} {per_sec} {eta}").map_err(|e| e.to_string())?;
    let bar = ProgressBar::new(lines.len() as u64).with_style(style);
    let mut corpus = Vec::with_capacity(lines.len() * embedder.dim());
    for vectors in embedder.embed_iter(&lines) {
        let vectors = vectors.map_err(|e| e.to_string())?;
        bar.inc(vectors.len() as u64);
        corpus.extend(vectors.into_vec());
    }
    bar.finish_and_clear();
    let corpus = gte_core::Embeddings::from_unit_rows(corpus, embedder.dim()).map_err(|e| e.to_string())?;

    let query = embedder.embed(&[&options.query]).map_err(|e| e.to_string())?;
    let hits = top_k(query.view(), corpus.view(), options.k).map_err(|e| e.to_string())?;
    let mut out = std::io::stdout().lock();
    for hit in hits.into_iter().flatten() {
        writeln!(out, "{:.4}  {}", hit.score, lines[hit.index]).map_err(|e| format!("standard output: {e}"))?;
    }
    Ok(())
}
