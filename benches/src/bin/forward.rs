//! How fast is the forward pass? Prints the JSON lines that `peers/peers.py` prints, for workloads of the same lengths; the ids are its own.
//!
//!     cargo run --release -p benches --bin forward -- MODEL_DIR --threads 2 --precision f32 --workloads benches/workloads.json
//!
//! Answers are checked before anything is timed: against candle's CPU backend, an implementation that is not ours.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Instant;

use clap::Parser;
use gte_core::similarity::cosine;
use gte_core::{Budget, Device, Embedder, Isa, Precision};

#[derive(Parser)]
#[command(about = "Speed of the forward pass on the workloads of the peers' benchmark")]
struct Options {
    /// Directory of the model.
    model: String,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// f32, bf16, int8 or auto.
    #[arg(long, default_value_t)]
    precision: Precision,
    /// JSON: workload → lengths of its texts, in tokens.
    #[arg(long, default_value = "benches/workloads.json")]
    workloads: std::path::PathBuf,
    /// Workloads to run, by name; all if left out.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Timed runs of each workload; the median is printed.
    #[arg(long, default_value_t = 5)]
    repeat: usize,
    /// Tokens computed at once.
    #[arg(long)]
    batch_tokens: Option<usize>,
    /// Print where the time goes, how far the products are from the peak of the instructions, and one thread against all.
    #[arg(long)]
    profile: bool,
    /// Take the answers on trust: for a quick look, never for a record.
    #[arg(long)]
    unchecked: bool,
    /// After the check, run one workload for each of its names on standard input, and answer its seconds: for measuring in
    /// turn with others.
    #[arg(long)]
    in_turn: bool,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = Options::parse();
    let file: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&std::fs::read(&options.workloads)?)?;
    let workloads: BTreeMap<String, Vec<usize>> = file
        .into_iter()
        .filter(|(name, lengths)| lengths.is_array() && (options.only.is_empty() || options.only.contains(name)))
        .map(|(name, lengths)| Ok((name, serde_json::from_value(lengths)?)))
        .collect::<serde_json::Result<_>>()?;

    let load = |device, precision| {
        let mut builder = Embedder::builder(&options.model)
            .offline(true)
            .device(device)
            .precision(precision)
            .threads(options.threads);
        if let Some(tokens) = options.batch_tokens {
            builder = builder.budget(Budget::new(tokens)?);
        }
        builder.build()
    };
    let started = Instant::now();
    let embedder = load(Device::Cpu, options.precision)?;
    let load_seconds = started.elapsed().as_secs_f64();
    let oracle = if options.unchecked { None } else { Some(load(Device::CandleCpu, Precision::F32)?) };
    // The worst cosine of each workload's texts.
    let mut cosines: BTreeMap<&str, f32> = BTreeMap::new();
    if let Some(oracle) = oracle {
        for (name, lengths) in &workloads {
            let texts = token_ids(lengths, embedder.config().vocab);
            let (found, expected) = (embedder.embed_tokens(&texts)?, oracle.embed_tokens(&texts)?);
            let pairs = found.rows().zip(expected.rows()).map(|(a, b)| cosine(a, b));
            let worst = pairs.collect::<gte_core::Result<Vec<_>>>()?.into_iter().fold(1.0, f32::min);
            let least = match embedder.precision() {
                Precision::Int8 => 0.99,
                Precision::Bf16 => 0.999,
                _ => 0.999_99,
            };
            assert!(worst > least, "{name}: the answers are wrong, cosine {worst} against candle");
            cosines.insert(name, worst);
        }
    }

    let mut out = std::io::stdout().lock();
    if options.in_turn {
        // What is resident now, not the peak: that had the oracle's weights in it.
        let resident = || {
            let status = std::fs::read_to_string("/proc/self/status").ok()?;
            status.lines().find(|l| l.starts_with("VmRSS")).map(str::to_owned)
        };
        let worst = cosines.values().copied().fold(1.0, f32::min);
        let (precision, isa) = (embedder.precision(), embedder.isa());
        let ready = format!("ready {precision} {isa} loaded in {load_seconds:.2} s");
        if cosines.is_empty() {
            writeln!(out, "{ready}, unchecked")?
        } else {
            writeln!(out, "{ready}, worst cosine {worst}")?
        }
        for line in std::io::stdin().lines() {
            let line = line?;
            if line == "memory" {
                writeln!(out, "{}", resident().unwrap_or_default())?;
                continue;
            }
            let texts = token_ids(workloads.get(&line).ok_or("no such workload")?, embedder.config().vocab);
            let start = Instant::now();
            embedder.embed_tokens(&texts)?;
            writeln!(out, "{}", start.elapsed().as_secs_f64())?;
        }
        return Ok(());
    }
    for (name, lengths) in &workloads {
        let texts = token_ids(lengths, embedder.config().vocab);
        let mut line = serde_json::json!({ "engine": format!("gte-{}", embedder.precision()), "workload": name });
        if let Some(cosine) = cosines.get(name.as_str()) {
            line["cosine"] = (*cosine).into();
        }
        embedder.embed_tokens(&texts)?; // warm, whether checked or not
        let mut seconds: Vec<f64> = (0..options.repeat)
            .map(|_| {
                let start = Instant::now();
                embedder.embed_tokens(&texts).map(|_| start.elapsed().as_secs_f64())
            })
            .collect::<gte_core::Result<_>>()?;
        seconds.sort_by(f64::total_cmp);
        let median = seconds[seconds.len() / 2];
        let tokens: usize = lengths.iter().sum();
        line["tokens"] = tokens.into();
        line["seconds"] = ((median * 1e5).round() / 1e5).into();
        line["tokens_per_second"] = ((tokens as f64 / median * 10.0).round() / 10.0).into();
        line["isa"] = embedder.isa().name().into();
        line["threads"] = options.threads.into();
        writeln!(out, "{line}")?;
    }
    if options.profile {
        profile(&options, &embedder, &workloads, &mut out)?;
    }
    writeln!(
        std::io::stderr(),
        "loaded in {load_seconds:.2} s; instruction sets here: {:?}",
        Isa::available().collect::<Vec<_>>()
    )?;
    Ok(())
}

/// Shares of the time, and the products against the peak that the same threads have in registers alone.
fn profile(
    options: &Options,
    embedder: &Embedder,
    workloads: &BTreeMap<String, Vec<usize>>,
    out: &mut impl Write,
) -> Result<(), Box<dyn std::error::Error>> {
    let one = Embedder::builder(&options.model).offline(true).precision(options.precision).threads(1).build()?;
    // All threads at once: a CPU that is busy everywhere may be slower.
    let peaks: Option<Vec<f64>> = std::thread::scope(|scope| {
        let probes: Vec<_> = (0..options.threads).map(|_| scope.spawn(|| embedder.peak())).collect();
        probes.into_iter().map(|probe| probe.join().ok().flatten()).collect()
    });
    let peak: f64 = peaks.unwrap_or_default().iter().sum();
    writeln!(
        out,
        "\n{}: peak of {} threads {:.1} G multiply-adds/s",
        embedder.precision(),
        options.threads,
        peak / 1e9
    )?;
    writeln!(
        out,
        "{:<14}{:>10}{:>11}{:>8}{:>12}{:>10}{:>18}",
        "workload", "products", "attention", "rest", "G mul-add/s", "of peak", "threads over one"
    )?;
    for (name, lengths) in workloads {
        let texts = token_ids(lengths, embedder.config().vocab);
        let time = |embedder: &Embedder| -> gte_core::Result<f64> {
            let start = Instant::now();
            embedder.embed_tokens(&texts).map(|_| start.elapsed().as_secs_f64())
        };
        one.embed_tokens(&texts)?;
        let before = embedder.profile();
        let (mut ratios, mut spent) = (Vec::new(), 0.0);
        for _ in 0..options.repeat {
            let all = time(embedder)?;
            spent += all;
            ratios.push(time(&one)? / all);
        }
        ratios.sort_by(f64::total_cmp);
        let after = embedder.profile();
        let sum = |p: gte_core::Profile| (p.products + p.attention + p.rest).as_secs_f64();
        // Of the sum over what was computed side by side: what is lost between the verbs, waiting for the last thread, is in no share.
        let share = |now: std::time::Duration, then: std::time::Duration| {
            (now - then).as_secs_f64() / (sum(after) - sum(before))
        };
        let products = share(after.products, before.products);
        let speed = (after.multiplications - before.multiplications) as f64 / (products * spent);
        writeln!(
            out,
            "{name:<14}{:>9.1}%{:>10.1}%{:>7.1}%{:>12.1}{:>9.0}%{:>17.2}x",
            100.0 * products,
            100.0 * share(after.attention, before.attention),
            100.0 * share(after.rest, before.rest),
            speed / 1e9,
            100.0 * speed / peak,
            ratios[ratios.len() / 2]
        )?;
    }
    Ok(())
}

/// Token ids of the given lengths: `[CLS]`, seeded values of the vocabulary's middle, `[SEP]`.
fn token_ids(lengths: &[usize], vocab: usize) -> Vec<Vec<u32>> {
    let mut state = 11u64;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (670 + (state >> 33) % (vocab as u64 - 870)) as u32
    };
    lengths
        .iter()
        .map(|&n| {
            let mut ids: Vec<u32> = (0..n).map(|_| next()).collect();
            ids[0] = 101;
            ids[n - 1] = 102;
            ids
        })
        .collect()
}
