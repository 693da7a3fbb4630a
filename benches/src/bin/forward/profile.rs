//! Shares of the time, and the speed of matrix multiplications relative to the peak that the same
//! threads reach on registers alone.

use std::io::Write;
use std::time::Duration;

use gte_core::Device;
use gte_core::internals::Profile;

use crate::model::Model;
use crate::workload::Workload;
use crate::{Options, Result, Workloads};

pub(crate) fn print(options: &Options, model: &Model, workloads: &Workloads, out: &mut impl Write) -> Result<()> {
    let one = Model::load(options, Device::Cpu, options.precision, 1)?;
    let (peak, threads) = (model.peak(options.threads)?.unwrap_or(0.0), options.threads);
    writeln!(out, "\n{}: peak of {threads} threads {:.1} G multiply-adds/s", model.precision(), peak / 1e9)?;
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
    Ok(())
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
