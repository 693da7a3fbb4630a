//! How fast is a tokenizer, and how fast does it start? Compared with the crate `tokenizers`, on
//! one thread. Token ids are compared first.
//!
//!     cargo run --release -p benches --bin tokens -- --model DIR TEXTS_FILE

use std::io::Write;
use std::time::Instant;

use clap::Parser;
use gte_core::{HubOptions, ModelFiles, Tokenizer};

#[derive(Parser)]
#[command(about = "Speed of a tokenizer, and of its start")]
struct Options {
    /// One text per line.
    texts: std::path::PathBuf,
    /// Directory, hub id or `bundled`.
    #[arg(long, default_value = "bundled")]
    model: String,
    /// Timed runs; the median is printed.
    #[arg(long, default_value_t = 5)]
    repeat: usize,
}

const ENDLESS: usize = 1 << 30;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = Options::parse();
    let content = std::fs::read_to_string(&options.texts)?;
    let texts: Vec<&str> = content.lines().collect();
    let files = ModelFiles::open(&options.model, &HubOptions::from_env()?)?;
    let json = files.read("tokenizer.json")?.ok_or("the model has no tokenizer.json")?;
    let load_ours = || Tokenizer::open(&files, ENDLESS, ENDLESS);
    let load_theirs = || tokenizers::Tokenizer::from_bytes(&json).map_err(|e| e.to_string());
    let (ours, mut theirs) = (load_ours()?, load_theirs()?);
    theirs.with_truncation(None).map_err(|e| e.to_string())?;
    theirs.with_padding(None);
    let mut tokens = 0;
    for &text in &texts {
        let (found, expected) = (ours.encode_one(text)?, theirs.encode_fast(text, true).map_err(|e| e.to_string())?);
        assert!(found.ids == expected.get_ids(), "the token ids differ: {text:?}");
        tokens += found.ids.len();
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "{} texts, {tokens} tokens, the same ids as the crate", texts.len())?;
    let median = |run: &dyn Fn() -> Result<(), Box<dyn std::error::Error>>| -> Result<f64, Box<dyn std::error::Error>> {
        let mut seconds = Vec::new();
        for _ in 0..options.repeat {
            let start = Instant::now();
            run()?;
            seconds.push(start.elapsed().as_secs_f64());
        }
        seconds.sort_by(f64::total_cmp);
        Ok(seconds[seconds.len() / 2])
    };
    let characters = content.chars().count() as f64;
    for (name, load, encode) in [
        (
            "ours",
            median(&|| {
                load_ours()?;
                Ok(())
            })?,
            median(&|| {
                texts.iter().try_for_each(|text| ours.encode_one(text).map(drop))?;
                Ok(())
            })?,
        ),
        (
            "crate",
            median(&|| {
                load_theirs()?;
                Ok(())
            })?,
            median(&|| {
                let run = |text: &&str| theirs.encode_fast(*text, true).map(drop);
                texts.iter().try_for_each(run).map_err(|e| e.to_string())?;
                Ok(())
            })?,
        ),
    ] {
        writeln!(
            out,
            "{name}: loaded in {:.0} ms, {:.2} million characters/s",
            1000.0 * load,
            characters / encode / 1e6
        )?;
    }
    Ok(())
}
