//! What a pass would take on more threads than this machine has. One thread computes the same parts
//! and pieces as the threads of a larger pool would, and the time of each is recorded. Then the
//! pieces are laid out in time as the pool would run them: a thread begins the next part of the
//! batch; without one, it helps with the pieces of another part; all wait for the last part of a
//! layer.
//!
//! Neither the time for waking threads nor the memory's and caches' share per thread is part of it.

use std::collections::VecDeque;
use std::io::Write;

use gte_core::internals::{Stage, plan};
use gte_core::{Device, MaxBatchTokens};

use crate::model::Model;
use crate::workload::Workload;
use crate::{Options, Result, Workloads};

pub(crate) fn print(options: &Options, workloads: &Workloads, out: &mut impl Write) -> Result<()> {
    let most = options.split.iter().copied().max().unwrap_or(1);
    let max_batch_tokens = MaxBatchTokens::for_threads(most).tokens();
    let one = Options { max_batch_tokens: Some(max_batch_tokens), ..options.clone() };
    let model = Model::load(&one, Device::Cpu, options.precision, 1)?;
    writeln!(out, "\n{}: reckoned from the times of pieces on one thread, not measured on so many", model.precision())?;
    writeln!(
        out,
        "{:<14}{:>8}{:>11}{:>11}{:>8}{:>26}{:>11}{:>11}{:>14}",
        "workload", "threads", "at once", "parts", "stages", "busy per stage, ms", "waiting", "seconds", "efficiency"
    )?;
    for (name, workload) in workloads {
        let Workload::Tokens(texts) = workload else { continue };
        for &threads in &options.split {
            let tokens = options.max_batch_tokens.unwrap_or(MaxBatchTokens::for_threads(threads).tokens());
            // The median of a few passes, by its time.
            let mut runs = (0..options.repeat.max(1))
                .map(|_| Ok(laid_out(&trace(&model, texts, threads, tokens)?, threads)))
                .collect::<Result<Vec<_>>>()?;
            runs.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
            let run = &runs[runs.len() / 2];
            let sum: f64 = run.busy.iter().sum();
            let per_stage = |seconds: f64| 1e3 * seconds / run.stages.max(1) as f64;
            let (least, most) = run.busy.iter().fold((f64::MAX, 0.0f64), |(a, b), &x| (a.min(x), b.max(x)));
            writeln!(
                out,
                "{name:<14}{threads:>8}{tokens:>11}{:>11.1}{:>8}{:>26}{:>10.1}%{:>11.4}{:>13.1}%",
                run.parts as f64 / run.stages.max(1) as f64,
                run.stages,
                format!("{:.3} to {:.3}", per_stage(least), per_stage(most)),
                100.0 * (1.0 - sum / (threads as f64 * run.seconds)),
                run.seconds,
                100.0 * sum / (threads as f64 * run.seconds),
            )?;
        }
    }
    Ok(())
}

/// The stages of a pass over `texts`, batch after batch.
fn trace(model: &Model, texts: &[Vec<u32>], threads: usize, max_batch_tokens: usize) -> Result<Vec<Stage>> {
    let lengths: Vec<usize> = texts.iter().map(Vec::len).collect();
    let batches: Vec<_> = plan(&lengths, MaxBatchTokens::new(max_batch_tokens)?)
        .map(|batch| Workload::Tokens(texts[batch].to_vec()))
        .collect();
    let (computed, stages) =
        model.engine().trace(threads, || batches.iter().try_for_each(|batch| model.compute(batch).map(drop)));
    computed?;
    Ok(stages)
}

/// How `threads` threads run stages.
struct Layout {
    stages: usize,
    parts: usize,
    /// Seconds of each thread in pieces.
    busy: Vec<f64>,
    /// Until the last thread is done.
    seconds: f64,
}

fn laid_out(stages: &[Stage], threads: usize) -> Layout {
    let mut layout = Layout { stages: stages.len(), parts: 0, busy: vec![0.0; threads], seconds: 0.0 };
    for stage in stages {
        layout.parts += stage.parts.len();
        layout.seconds += of_stage(stage, &mut layout.busy);
    }
    layout
}

/// A part that has begun: what is left of it.
struct Begun<'a> {
    operations: &'a [Vec<f64>],
    waiting: VecDeque<f64>, // pieces of its operation that no thread has begun
    running: usize,         // pieces of its operation that threads compute
}

/// Lays out one stage, adds to what each thread computes, and returns the seconds until its end.
fn of_stage(stage: &Stage, busy: &mut [f64]) -> f64 {
    let mut parts: Vec<Begun<'_>> = Vec::new();
    let mut queue = stage.parts.iter();
    let mut own: Vec<Option<usize>> = vec![None; busy.len()]; // the part of a thread
    let mut runs: Vec<Option<(f64, usize)>> = vec![None; busy.len()]; // when its piece ends, and of which part
    let mut now = 0.0;
    loop {
        for thread in 0..busy.len() {
            while runs[thread].is_none() {
                // Its own part: the next operation, if all pieces of the last one are done.
                if let Some(i) = own[thread] {
                    let part = &mut parts[i];
                    if part.waiting.is_empty() && part.running == 0 {
                        match part.operations.split_first() {
                            Some((next, rest)) => {
                                (part.waiting, part.operations) = (next.iter().copied().collect(), rest)
                            }
                            None => own[thread] = None,
                        }
                        continue;
                    }
                } else if let Some(operations) = queue.next() {
                    own[thread] = Some(parts.len());
                    parts.push(Begun { operations, waiting: VecDeque::new(), running: 0 });
                    continue;
                }
                // A piece of its own part, or of any other.
                let helped = own[thread].into_iter().chain(0..parts.len()).find(|&i| !parts[i].waiting.is_empty());
                let Some(i) = helped else { break };
                let part = &mut parts[i];
                let piece = part.waiting.pop_front().unwrap_or(0.0);
                part.running += 1;
                busy[thread] += piece;
                runs[thread] = Some((now + piece, i));
            }
        }
        // The next piece that ends.
        let next = runs.iter().enumerate().filter_map(|(thread, run)| run.map(|(end, part)| (end, part, thread)));
        let Some((end, part, thread)) = next.min_by(|a, b| a.0.total_cmp(&b.0)) else { return now };
        now = end;
        parts[part].running -= 1;
        runs[thread] = None;
    }
}
