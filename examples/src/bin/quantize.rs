//! How do I make a model's files smaller, and load it without quantizing it each time?
//!
//!     cargo run --release -p examples --bin quantize -- thenlper/gte-large-zh models/gte-large-zh-int8
//!     cargo run --release -p examples --bin embed -- --model models/gte-large-zh-int8 --precision int8 "今天天气真好"

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use gte_core::{HubOptions, ModelFiles, quantize_to_int8};

#[derive(Parser)]
#[command(about = "Writes a model with 8-bit weights")]
struct Options {
    /// Directory or hub id of the model.
    model: String,
    /// Directory to write, which must be new or empty.
    out: PathBuf,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let quantize = || quantize_to_int8(&ModelFiles::open(&options.model, &HubOptions::from_env()?)?, &options.out);
    match quantize() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let _ = writeln!(std::io::stderr(), "quantize: {e}");
            ExitCode::FAILURE
        }
    }
}
