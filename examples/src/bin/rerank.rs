//! How do I order documents by how well they answer a query?
//!
//! ```sh
//! echo '{"query": "怎么退货？", "documents": ["七天内可以退货。", "今天天气真好。"]}' |
//!   cargo run --release -p examples --bin rerank -- --model BAAI/bge-reranker-v2-m3
//! ```
//!
//! Reads one JSON object per line from standard input: `{"query", "documents"}`, and for a language
//! model optionally an `"instruction"`, which replaces the model's own. Prints one line for each,
//! in the same order: `{"scores": […], "ranking": […], "truncated": […]}`. Scores are in the order
//! of the documents, from 0 to 1 by the sigmoid; with `--raw` they are the model's logits. The
//! ranking has the indices of the documents, best first.

use std::io::{BufRead, BufReader, Write};
use std::process::ExitCode;

use clap::Parser;
use examples::Model;
use gte_core::{PairOptions, Reranker};

#[derive(Parser)]
#[command(about = "Scores documents for queries, one JSON object per line")]
struct Options {
    #[command(flatten)]
    model: Model,
    /// Print the model's logits instead of scores from 0 to 1.
    #[arg(long)]
    raw: bool,
    /// Tells a language model what counts as an answer, for lines without an instruction.
    #[arg(long, value_name = "TEXT")]
    instruction: Option<String>,
}

/// A line of input.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    query: String,
    documents: Vec<String>,
    instruction: Option<String>,
}

/// A line of output.
#[derive(serde::Serialize)]
struct Answer {
    scores: Vec<f32>,
    ranking: Vec<usize>,
    truncated: Vec<bool>,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            let _ = writeln!(std::io::stderr(), "rerank: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), String> {
    let reranker: Reranker = options.model.open().map_err(|e| e.to_string())?;
    let mut out = std::io::stdout().lock();
    for (i, line) in BufReader::new(std::io::stdin()).split(b'\n').enumerate() {
        let line = line.map_err(|e| format!("standard input: {e}"))?;
        if line.trim_ascii().is_empty() {
            continue;
        }
        let failed = |e: &dyn std::fmt::Display| format!("line {}: {e}", i + 1);
        let question: Question = serde_json::from_slice(&line).map_err(|e| failed(&e))?;
        let answer = answer(&reranker, options, &question).map_err(|e| failed(&e))?;
        let answer = serde_json::to_string(&answer).map_err(|e| failed(&e))?;
        writeln!(out, "{answer}").and_then(|()| out.flush()).map_err(|e| format!("standard output: {e}"))?;
    }
    Ok(())
}

fn answer(reranker: &Reranker, options: &Options, question: &Question) -> gte_core::Result<Answer> {
    let instruction = question.instruction.as_deref().or(options.instruction.as_deref());
    let pairs = PairOptions::default().with_instruction(instruction);
    let tokens = reranker.tokenize(&question.query, &question.documents, &pairs)?;
    let logits = reranker.logits(&tokens)?;
    let scores = reranker.scores_from(&logits)?;
    // Logits have the same order as their sigmoids, and still differ when the sigmoids round to 1.
    let mut ranking: Vec<usize> = (0..logits.len()).collect();
    ranking.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    let truncated = tokens.iter().map(|tokens| tokens.truncated()).collect();
    Ok(Answer { scores: if options.raw { logits } else { scores }, ranking, truncated })
}
