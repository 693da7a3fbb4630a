//! What does `embed` do? The four steps, called one by one.
//!
//!     cargo run --release -p examples --bin by_hand -- --model target/models/all-MiniLM-L6-v2 "今天天气真好" "a lovely day"

use std::io::Write;

use clap::Parser;
use examples::Model;
use gte_core::{Embeddings, Outputs, Pooling};

#[derive(Parser)]
#[command(about = "Texts to vectors, step by step")]
struct Options {
    #[command(flatten)]
    model: Model,
    /// Texts to embed.
    #[arg(required = true)]
    texts: Vec<String>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = Options::parse();
    let mut out = std::io::stdout().lock();
    let embedder = options.model.load()?;

    // 1. From text to token ids, truncated to the model's length.
    let tokens = embedder.tokenize(&options.texts)?;
    for (text, tokens) in options.texts.iter().zip(&tokens) {
        writeln!(out, "tokens   {text:?} → {:?}", tokens.ids)?;
    }

    // 2. The encoder: all texts end to end, without padding, and one hidden state per token.
    let all = embedder.embed_all(&tokens, Outputs::NONE.with_states(true))?;
    let hidden = all.states.ok_or("an embedder gives hidden states")?;
    writeln!(out, "hidden   texts start at {:?}, {} dimensions per token", hidden.indptr, hidden.dim)?;

    // 3. Pooling: one row per text.
    let pooling = embedder.config().pooling;
    writeln!(out, "pooling  {pooling}, from {}", embedder.config().pooling_source)?;
    let mut rows = Vec::new();
    for (text, tokens) in tokens.iter().enumerate() {
        let states = hidden.get(text).unwrap_or_default();
        let states = ndarray::ArrayView2::from_shape((tokens.len(), hidden.dim), states)?;
        rows.push(match pooling {
            Pooling::Cls => states.row(0).to_owned(),
            Pooling::LastToken => states.row(states.nrows() - 1).to_owned(),
            _ => states.mean_axis(ndarray::Axis(0)).ok_or("a text without tokens")?,
        });
    }

    // 4. Scaling to unit length.
    let mut values = Vec::new();
    for row in rows {
        let length = row.dot(&row).sqrt();
        values.extend(row / length);
    }
    let by_hand = Embeddings::from_unit_rows(values, embedder.dim())?;
    for (text, row) in options.texts.iter().zip(by_hand.rows()) {
        writeln!(out, "vector   {text:?} → [{:.4}, {:.4}, … {} values]", row[0], row[1], row.len())?;
    }

    // `embed` gives the same result.
    let embedded = embedder.embed(&options.texts)?;
    let worst = embedded.as_slice().iter().zip(by_hand.as_slice()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-6, "by hand and by `embed` differ by {worst}");
    writeln!(out, "embed    same result, largest difference {worst:.0e}")?;
    Ok(())
}
