//! How fast is the forward pass? Prints one JSON line per workload.
//!
//!     cargo run --release -p benches --bin forward -- MODEL_DIR --threads 2 --precision f32
//!
//! The results are checked before anything is timed: against candle's CPU backend, an independent
//! implementation. With `--in-turn` it reads names of workloads from standard input, which is how
//! `peers/compare.py` measures this engine in turn with others; that script compares the results
//! with PyTorch's.

mod model;
mod profile;
mod split;
mod turns;
mod workload;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Parser;
use gte_core::{Device, Isa, Precision};

use crate::model::Model;
use crate::workload::Workload;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;
pub(crate) type Workloads = BTreeMap<String, Workload>;

#[derive(Clone, Parser)]
#[command(about = "Speed of the forward pass on the workloads of the peers' benchmark")]
pub(crate) struct Options {
    /// Directory of the model.
    model: String,
    /// Open the model as a reranker: its results are one score per text.
    #[arg(long)]
    rerank: bool,
    /// Number of threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// cpu, cuda:0 … or auto.
    #[arg(long, default_value_t)]
    device: Device,
    /// The kernels' shared library: `cuda:0` is a GPU that the CPU emulates, for trying the
    /// benchmark (feature `emulated-gpu`).
    #[arg(long)]
    emulator: Option<PathBuf>,
    /// f32, f16, bf16, int8 or auto.
    #[arg(long, default_value_t)]
    precision: Precision,
    /// JSON file: workload → lengths of its texts in tokens, or their token ids, or a query with
    /// its documents.
    #[arg(long, default_value = "benches/workloads.json")]
    workloads: PathBuf,
    /// Names of the workloads to run. Default: all.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Timed runs of each workload; the median is printed.
    #[arg(long, default_value_t = 5)]
    repeat: usize,
    /// Maximum number of tokens computed together.
    #[arg(long)]
    max_batch_tokens: Option<usize>,
    /// Print where the time goes, how far matrix multiplications are from the peak of the
    /// instructions, and one thread compared with all.
    #[arg(long)]
    profile: bool,
    /// Reckon how evenly the work is split among these numbers of threads, more than this machine
    /// has, from the time of each piece on one thread.
    #[arg(long, value_delimiter = ',')]
    split: Vec<usize>,
    /// Do not check the results: for a quick look, or if the caller checks them.
    #[arg(long)]
    unchecked: bool,
    /// After the check, run one workload for each name on standard input, and print its seconds.
    /// `answers NAME`, `plain NAME` (without graphs), `kernels NAME`, `device`, `profile`, `peak`
    /// and `memory` are commands too.
    #[arg(long)]
    in_turn: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let started = Instant::now();
    if let Some(library) = &options.emulator {
        emulate(library)?;
    }
    let model = Model::load(&options, options.device, options.precision, options.threads)?;
    let load_seconds = started.elapsed().as_secs_f64();
    let workloads = read(&options.workloads, &options.only, model.vocab())?;
    let agreement = if options.unchecked { BTreeMap::new() } else { check(&options, &model, &workloads)? };

    let mut out = std::io::stdout().lock();
    if options.in_turn {
        let ready = format!("ready {} {} loaded in {load_seconds:.2} s", model.precision(), model.isa());
        let worst = agreement.values().copied().reduce(f32::min);
        let checked = worst.map_or("unchecked".to_owned(), |worst| format!("worst agreement {worst}"));
        writeln!(out, "{ready}, {checked}")?;
        return turns::serve(&options, &model, &workloads, &mut out);
    }
    for (name, workload) in &workloads {
        writeln!(out, "{}", measured(&options, &model, name, workload, agreement.get(name))?)?;
    }
    if options.profile {
        profile::print(&options, &model, &workloads, &mut out)?;
    }
    if !options.split.is_empty() {
        split::print(&options, &workloads, &mut out)?;
    }
    let sets: Vec<_> = Isa::available().collect();
    writeln!(std::io::stderr(), "loaded in {load_seconds:.2} s; instruction sets here: {sets:?}")?;
    Ok(())
}

#[cfg(feature = "emulated-gpu")]
fn emulate(library: &Path) -> Result<()> {
    let settings = gte_core::cuda_emulator::Emulation { memory: 8 << 30, ..Default::default() };
    Ok(gte_core::cuda_emulator::install(library, settings).map(|_| ())?)
}

#[cfg(not(feature = "emulated-gpu"))]
fn emulate(_: &Path) -> Result<()> {
    Err("--emulator: this build has none: it is there with the cargo feature `emulated-gpu`".into())
}

/// Reads the requested workloads from the file. Values that are neither a list nor an object are
/// comments.
fn read(file: &Path, only: &[String], vocab: usize) -> Result<Workloads> {
    let values: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&std::fs::read(file)?)?;
    if let Some(missing) = only.iter().find(|name| !values.contains_key(*name)) {
        return Err(format!("{} has no workload {missing:?}", file.display()).into());
    }
    values
        .into_iter()
        .filter(|(name, value)| !value.is_string() && (only.is_empty() || only.contains(name)))
        .map(|(name, value)| Ok((name, Workload::read(value, vocab)?)))
        .collect()
}

/// The worst agreement of each workload's results with candle's. Fails if they are wrong.
fn check(options: &Options, model: &Model, workloads: &Workloads) -> Result<BTreeMap<String, f32>> {
    let oracle = Model::load(options, Device::CandleCpu, Precision::F32, options.threads)?;
    let least = match model.precision() {
        Precision::Int8 | Precision::Fp8 => 0.99,
        Precision::Bf16 => 0.999,
        _ => 0.999_99,
    };
    let mut agreement = BTreeMap::new();
    for (name, workload) in workloads {
        let worst = model.compute(workload)?.agreement(&oracle.compute(workload)?)?;
        if worst.is_nan() || worst <= least {
            return Err(format!("{name}: the results are wrong, agreement with candle {worst}").into());
        }
        agreement.insert(name.clone(), worst);
    }
    Ok(agreement)
}

/// The output line of one workload.
fn measured(
    options: &Options,
    model: &Model,
    name: &str,
    workload: &Workload,
    agreement: Option<&f32>,
) -> Result<serde_json::Value> {
    model.compute(workload)?; // warm-up, also without the check
    let timed = || model.seconds(workload);
    let mut seconds = (0..options.repeat.max(1)).map(|_| timed()).collect::<gte_core::Result<Vec<_>>>()?;
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    let tokens = workload.tokens(model)?;
    let mut line = serde_json::json!({
        "engine": format!("gte-{}", model.precision()),
        "workload": name,
        "tokens": tokens,
        "seconds": (median * 1e5).round() / 1e5,
        "tokens_per_second": (tokens as f64 / median * 10.0).round() / 10.0,
        "isa": model.isa().name(),
        "threads": options.threads,
    });
    if let Some(worst) = agreement {
        line["cosine"] = (*worst).into();
    }
    Ok(line)
}
