//! How do I search by meaning and by words at once?
//!
//!     cargo run --release -p examples --bin hybrid -- --model BAAI/bge-m3 examples/data/help.zh.txt "坏了的水壶可以退吗？"
//!
//! One forward pass gives a vector and the weights of a text's tokens. The two rankings are fused
//! by rank (reciprocal rank fusion: Cormack et al. 2009,
//! <https://doi.org/10.1145/1571941.1572114>).

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use examples::Model;
use gte_core::{AllEmbeddings, Embedder, Outputs};

#[derive(Parser)]
#[command(about = "Finds the lines of a text file that are closest to a query in meaning and in words")]
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

/// The constant of reciprocal rank fusion, as its authors chose it.
const RANK_CONSTANT: f32 = 60.0;

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            let _ = writeln!(std::io::stderr(), "hybrid: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), String> {
    let content = std::fs::read_to_string(&options.file).map_err(|e| format!("{}: {e}", options.file.display()))?;
    let lines: Vec<&str> = content.lines().filter(|line| !line.trim().is_empty()).collect();
    let embedder: Embedder = options.model.load().map_err(|e| e.to_string())?;
    // The query is the last text, so that all weights are rows of one matrix.
    let texts: Vec<&str> = lines.iter().copied().chain([options.query.as_str()]).collect();
    let all = embed(&embedder, &texts).map_err(|e| e.to_string())?;
    let (Some(dense), Some(sparse)) = (&all.dense, &all.sparse) else {
        return Err("both outputs were requested".into());
    };
    let query = lines.len();
    let cosine = |i: usize| {
        let (a, b) = (dense.get(i).unwrap_or_default(), dense.get(query).unwrap_or_default());
        a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>()
    };
    let by_meaning: Vec<f32> = (0..lines.len()).map(cosine).collect();
    let by_words: Vec<f32> = (0..lines.len()).map(|i| sparse.dot(query, i)).collect();
    let mut fused = vec![0.0; lines.len()];
    for scores in [&by_meaning, &by_words] {
        for (rank, i) in ranking(scores).into_iter().enumerate() {
            fused[i] += 1.0 / (RANK_CONSTANT + rank as f32 + 1.0);
        }
    }
    let mut out = std::io::stdout().lock();
    for i in ranking(&fused).into_iter().take(options.k) {
        writeln!(out, "{:.4}  {:.4}  {:.4}  {}", fused[i], by_meaning[i], by_words[i], lines[i])
            .map_err(|e| format!("standard output: {e}"))?;
    }
    Ok(())
}

fn embed(embedder: &Embedder, texts: &[&str]) -> gte_core::Result<AllEmbeddings> {
    let tokens = embedder.tokenize(texts)?;
    embedder.embed_all(&tokens, Outputs::DENSE.with_sparse(true))
}

/// Indices by descending score. Equal scores keep their order.
fn ranking(scores: &[f32]) -> Vec<usize> {
    let mut places: Vec<usize> = (0..scores.len()).collect();
    places.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    places
}
