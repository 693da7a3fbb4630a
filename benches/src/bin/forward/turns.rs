//! Reads names from standard input and prints results, so that this program can be measured in turn
//! with others.

use std::io::Write;

use crate::model::Model;
use crate::workload::Workload;
use crate::{Options, Result, Workloads};

pub(crate) fn serve(options: &Options, model: &Model, workloads: &Workloads, out: &mut impl Write) -> Result<()> {
    for line in std::io::stdin().lines() {
        let line = line?;
        let workload = |name: &str| workloads.get(name).ok_or_else(|| format!("no workload {name:?}"));
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("memory", "") => writeln!(out, "{}", memory().unwrap_or_default())?,
            ("peak", "") => writeln!(out, "{}", model.peak(options.threads)?.unwrap_or(0.0))?,
            ("device", "") => writeln!(out, "{}", device(model))?,
            ("kernels", name) => writeln!(out, "{}", kernels(model, workload(name)?)?)?,
            ("plain", name) => {
                // As it is computed where no pass is repeated by a graph.
                model.engine().record_passes(false);
                let seconds = model.seconds(workload(name)?);
                model.engine().record_passes(true);
                writeln!(out, "{}", seconds?)?;
            }
            ("profile", "") => writeln!(out, "{}", profile(model))?,
            ("answers", name) => writeln!(out, "{}", model.compute(workload(name)?)?.to_json())?,
            (name, _) => writeln!(out, "{}", model.seconds(workload(name)?)?)?,
        }
        out.flush()?;
    }
    Ok(())
}

/// Where it is computed, and the tokens that are computed at once.
fn device(model: &Model) -> serde_json::Value {
    let engine = model.engine();
    let name = engine.device_state().map(|state| state.name);
    serde_json::json!({"device": engine.device().to_string(), "name": name, "max_batch_tokens": engine.max_batch_tokens().tokens()})
}

/// Seconds and calls of each kernel of a GPU for a workload.
fn kernels(model: &Model, workload: &Workload) -> gte_core::Result<serde_json::Value> {
    model.engine().time_kernels(true);
    let computed = model.compute(workload);
    let times = model.engine().kernel_times();
    model.engine().time_kernels(false);
    computed?;
    Ok(times.iter().map(|time| serde_json::json!([time.name, time.calls, time.seconds])).collect())
}

/// Resident memory now, and its maximum.
fn memory() -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let field = |name: &str| Some(status.lines().find(|line| line.starts_with(name))?.replace('\t', " "));
    Some(format!("{}, {}", field("VmRSS")?, field("VmHWM")?))
}

/// Seconds per operation of the encoder, summed over operations that run side by side, and
/// multiply-adds of the linear layers.
fn profile(model: &Model) -> serde_json::Value {
    let profile = model.profile();
    serde_json::json!({
        "products": profile.products.as_secs_f64(),
        "attention": profile.attention.as_secs_f64(),
        "rest": profile.rest.as_secs_f64(),
        "multiplications": profile.multiplications,
    })
}
