//! How fast are texts turned into vectors, and how fast is the tokenizer alone?
//!
//!     cargo run --release -p benches --bin texts -- --model bundled TEXTS_FILE
//!
//! With `--in-turn` it reads names of tasks from standard input, runs each and prints its seconds,
//! so that it can be measured in turn with other programs.
//!
//! Tasks: `embed` all texts; `tokenize` them on one thread; `crate`: the same with the crate
//! `tokenizers`, for comparison. Token ids are compared with those of the crate before anything is
//! timed.

use std::io::Write;
use std::time::Instant;

use clap::Parser;
use gte_core::{Embedder, HubOptions, ModelFiles, Precision};

#[derive(Parser)]
#[command(about = "Speed of embedding texts, and of the tokenizer")]
struct Options {
    /// Text file, one text per line.
    texts: std::path::PathBuf,
    /// Directory, hub id or `bundled`.
    #[arg(long, default_value = "bundled")]
    model: String,
    /// Number of threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// f32, bf16, int8 or auto.
    #[arg(long, default_value_t)]
    precision: Precision,
    /// Timed runs; the median is printed.
    #[arg(long, default_value_t = 5)]
    repeat: usize,
    /// Read tasks from standard input.
    #[arg(long)]
    in_turn: bool,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = Options::parse();
    let content = std::fs::read_to_string(&options.texts)?;
    let texts: Vec<&str> = content.lines().collect();
    let start = Instant::now();
    let builder = Embedder::builder(&options.model).offline(true).precision(options.precision).threads(options.threads);
    let embedder = builder.build()?;
    let load_seconds = start.elapsed().as_secs_f64();
    let json = ModelFiles::open(&options.model, &HubOptions::from_env()?)?.read("tokenizer.json")?;
    let mut peer =
        tokenizers::Tokenizer::from_bytes(json.ok_or("the model has no tokenizer.json")?).map_err(|e| e.to_string())?;
    peer.with_truncation(None).map_err(|e| e.to_string())?;
    peer.with_padding(None);
    let mut tokens = 0;
    for &text in &texts {
        let ours = embedder.tokenizer().encode_one(text)?;
        let theirs = peer.encode_fast(text, true).map_err(|e| e.to_string())?;
        let kept = ours.ids.len() - 1; // truncation keeps the last one
        assert!(
            ours.full_len == theirs.len() && ours.ids[..kept] == theirs.get_ids()[..kept],
            "the token ids differ: {text:?}"
        );
        tokens += ours.ids.len();
    }
    let run = |task: &str| -> Result<f64, Box<dyn std::error::Error>> {
        let start = Instant::now();
        match task {
            "embed" => drop(embedder.embed(&texts)?),
            "tokenize" => texts.iter().try_for_each(|text| embedder.tokenizer().encode_one(text).map(drop))?,
            "crate" => {
                texts.iter().try_for_each(|text| peer.encode_fast(*text, true).map(drop)).map_err(|e| e.to_string())?
            }
            _ => return Err(format!("no task `{task}`").into()),
        }
        Ok(start.elapsed().as_secs_f64())
    };
    let mut out = std::io::stdout().lock();
    run("embed")?; // warm
    if options.in_turn {
        writeln!(out, "ready {} {} {} texts {tokens} tokens", embedder.precision(), embedder.isa(), texts.len())?;
        for line in std::io::stdin().lines() {
            writeln!(out, "{}", run(&line?)?)?;
        }
        return Ok(());
    }
    let characters = content.chars().count() as f64;
    writeln!(out, "{embedder:?}, loaded in {:.0} ms, {} texts, {tokens} tokens", 1000.0 * load_seconds, texts.len())?;
    for task in ["embed", "tokenize", "crate"] {
        let mut seconds = (0..options.repeat).map(|_| run(task)).collect::<Result<Vec<_>, _>>()?;
        seconds.sort_by(f64::total_cmp);
        let median = seconds[seconds.len() / 2];
        writeln!(
            out,
            "{task}: {:.0} texts/s, {:.2} million characters/s",
            texts.len() as f64 / median,
            characters / median / 1e6
        )?;
    }
    Ok(())
}
