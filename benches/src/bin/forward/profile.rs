//! Shares of the time, the speed of matrix multiplications relative to the peak that the same
//! threads reach on registers alone, and one short text relative to what binds it: reading all
//! weights from memory, or that peak.

use std::io::Write;
use std::time::Duration;

use gte_core::internals::{Profile, read_speed};
use gte_core::{Device, Precision};

use crate::model::Model;
use crate::workload::Workload;
use crate::{Options, Result, Workloads};

pub(crate) fn print(options: &Options, model: &Model, workloads: &Workloads, out: &mut impl Write) -> Result<()> {
    let one = Model::load(options, Device::Cpu, options.precision, 1)?;
    let (peak, threads) = (model.peak(options.threads)?.unwrap_or(0.0), options.threads);
    writeln!(out, "\n{}: peak of {threads} threads {:.1} G multiply-adds/s", model.precision(), peak / 1e9)?;
    let memory = [1, 2].map(read_speed);
    writeln!(out, "memory: {:.1} GB/s by 1 thread, {:.1} GB/s by 2 threads", memory[0] / 1e9, memory[1] / 1e9)?;
    let memory = match threads {
        1 => memory[0],
        2 => memory[1],
        _ => read_speed(threads),
    };
    writeln!(
        out,
        "{:<14}{:>10}{:>11}{:>8}{:>12}{:>10}{:>18}",
        "workload", "products", "attention", "rest", "G mul-add/s", "of peak", "threads over one"
    )?;
    for (name, workload) in workloads {
        let shares = Shares::measure(model, &one, workload, options.repeat)?;
        writeln!(
            out,
            "{name:<14}{:>9.1}%{:>10.1}%{:>7.1}%{:>12.1}{:>9.0}%{:>17.2}x",
            100.0 * shares.products,
            100.0 * shares.attention,
            100.0 * shares.rest,
            shares.speed / 1e9,
            100.0 * shares.speed / peak,
            shares.threads_over_one
        )?;
    }
    for (name, workload) in workloads {
        if let Workload::Tokens(texts) = workload
            && let [text] = &texts[..]
            && text.len() <= SHORT
        {
            let bound = Bound::measure(model, workload, options.repeat, (memory, peak))?;
            writeln!(out, "{name}: {bound}")?;
        }
    }
    Ok(())
}

/// Texts up to this length may be bound by memory.
const SHORT: usize = 32;

/// Passes over such a text, seconds in all: a busy neighbour of half a second once made 14 ms 17.
const PASSES: usize = 100;

/// The time of one text, and what it cannot be below.
struct Bound {
    seconds: f64,
    memory: f64,  // seconds for reading the weights of all linear layers
    compute: f64, // seconds for their multiply-adds
}

impl Bound {
    /// `memory` in bytes per second, `peak` in multiply-adds per second.
    fn measure(model: &Model, workload: &Workload, repeat: usize, (memory, peak): (f64, f64)) -> Result<Self> {
        let multiplications = |workload: &Workload| -> Result<u64> {
            let before = model.profile().multiplications;
            model.compute(workload)?;
            Ok(model.profile().multiplications - before)
        };
        // A text of one token uses each weight once.
        let weights = multiplications(&Workload::Tokens(vec![vec![101]]))? as f64;
        let bytes = match model.precision() {
            Precision::Int8 => 1.0,
            Precision::Bf16 => 2.0,
            _ => 4.0,
        };
        let compute = multiplications(workload)? as f64 / peak;
        let mut seconds =
            (0..repeat.max(PASSES)).map(|_| model.seconds(workload)).collect::<gte_core::Result<Vec<_>>>()?;
        seconds.sort_by(f64::total_cmp);
        Ok(Self { seconds: seconds[seconds.len() / 2], memory: weights * bytes / memory, compute })
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { seconds, memory, compute } = *self;
        let (bound, binds) = if memory >= compute { (memory, "memory") } else { (compute, "the multiply-adds") };
        let [seconds, memory, compute] = [seconds, memory, compute].map(|x| 1e3 * x);
        write!(
            f,
            "{seconds:.2} ms, at least {memory:.2} for reading the weights and {compute:.2} for the multiply-adds: \
             {:.0}% of the bound by {binds}",
            1e5 * bound / seconds
        )
    }
}

struct Shares {
    products: f64,
    attention: f64,
    rest: f64,
    speed: f64, // multiply-adds per second of matrix multiplication time
    threads_over_one: f64,
}

impl Shares {
    fn measure(all: &Model, one: &Model, workload: &Workload, repeat: usize) -> Result<Self> {
        one.compute(workload)?;
        let before = all.profile();
        let (mut ratios, mut spent) = (Vec::new(), 0.0);
        for _ in 0..repeat.max(1) {
            let seconds = all.seconds(workload)?;
            spent += seconds;
            ratios.push(one.seconds(workload)? / seconds);
        }
        ratios.sort_by(f64::total_cmp);
        let after = all.profile();
        let sum = |p: Profile| (p.products + p.attention + p.rest).as_secs_f64();
        // Shares of the sum over all operations, which may run side by side. Time lost between
        // them, waiting for the last thread, is not included.
        let share = |now: Duration, then: Duration| (now - then).as_secs_f64() / (sum(after) - sum(before));
        let products = share(after.products, before.products);
        Ok(Self {
            products,
            attention: share(after.attention, before.attention),
            rest: share(after.rest, before.rest),
            speed: (after.multiplications - before.multiplications) as f64 / (products * spent),
            threads_over_one: ratios[ratios.len() / 2],
        })
    }
}
