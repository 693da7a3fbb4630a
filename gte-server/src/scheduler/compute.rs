//! The compute thread takes the next batch, runs its forward pass, and sends the replies. One pass
//! at a time uses all threads of the pool. Between two layers, a pass can be preempted by a batch
//! that has less work. Models on a GPU have two such threads: while the GPU computes one batch, the
//! next one is on its way.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gte_core::{Outputs, Pause, SharedPrefix, TextOutput, Work};

use super::load::Speed;
use super::policy::Batch;
use super::queue::{Queue, Request};
use super::{Answer, Shared};
use crate::error::Error;
use crate::registry::Model;

/// Maximum depth of passes that preempt each other.
const DEPTH: usize = 4;

/// A batch and everything that is needed to compute it.
struct Pass {
    batch: Batch,
    model: Arc<Model>,
    outputs: Outputs,
    prefix: Option<Arc<SharedPrefix>>,
    /// Token ids that all texts begin with, if they are not computed yet; otherwise empty.
    begin: Vec<u32>,
    warms: bool,
}

impl Shared {
    /// Computes batches until the queue is closed and empty.
    pub(super) fn compute(&self) {
        loop {
            let mut queue = self.lock();
            let pass = loop {
                if let Some(pass) = self.next_pass(&mut queue, None) {
                    break pass;
                }
                if queue.closed && queue.waiting.is_empty() {
                    return;
                }
                queue = self.arrived.wait(queue).unwrap_or_else(std::sync::PoisonError::into_inner);
            };
            let start = Instant::now();
            queue.running.push(start);
            queue.loads[pass.batch.model].running += 1;
            queue.counted.get_or_insert(start);
            self.publish(&queue);
            drop(queue);

            let between = AtomicU64::new(0); // nanoseconds spent on passes that preempted this one
            let (result, elapsed) = self.run(&pass, None, 1, &between);
            let between = Duration::from_nanos(between.into_inner());

            let mut queue = self.lock();
            let end = (start + elapsed).max(queue.counted.unwrap_or(start));
            // Of two passes that run at once, each is counted from where the one before it ended.
            let begin = queue.counted.map_or(start, |counted| counted.max(start));
            let seconds = (end - begin).saturating_sub(between).as_secs_f64();
            if let Some(i) = queue.running.iter().position(|&running| running == start) {
                queue.running.swap_remove(i);
            }
            queue.loads[pass.batch.model].running -= 1;
            queue.passed = result.is_ok().then_some(end);
            let counted = queue.counted.unwrap_or(start);
            queue.busy.add(counted, end);
            queue.counted = (!queue.running.is_empty()).then_some(end);
            queue.charge(pass.batch.model, seconds);
            let load = &mut queue.loads[pass.batch.model];
            match pass.warms {
                true => load.speed = Speed::new(pass.batch.tokens as f64 / seconds.max(1e-6)),
                false => load.speed.add(pass.batch.tokens, seconds, pass.model.max_batch_tokens()),
            }
            self.deliver(&mut queue, pass.batch, result, end);
            self.publish(&queue);
            drop(queue);
            // The other compute thread, where there is one, may be waiting for a model's turn.
            self.arrived.notify_all();
        }
    }

    /// The next batch. First drops the requests that nobody waits for any more.
    fn next_pass(&self, queue: &mut Queue, within: Option<Duration>) -> Option<Pass> {
        let now = Instant::now();
        let gone = queue.waiting.iter().filter(|(_, r)| r.reply.is_closed() || r.deadline <= now);
        let gone: Vec<_> = gone.map(|(&key, _)| key).collect();
        for key in gone {
            if let Some(request) = queue.give_up(key) {
                let _ = request.reply.send(Err(Error::Deadline(self.limits.timeout.as_secs())));
            }
        }
        let batch = queue.next_batch(within, self.limits.timeout)?;
        let model = queue.loads[batch.model].model.clone();
        for part in batch.parts.iter().filter(|part| part.first) {
            let Some(Request { admitted, started, .. }) = queue.waiting.get(&part.key) else { continue };
            model.metrics.queue_seconds.observe((started.unwrap_or(now) - *admitted).as_secs_f64());
        }
        let leader = queue.waiting.get(&batch.parts.first()?.key)?;
        let begin = match leader.prefix {
            Some(_) => Vec::new(),
            None => batch.texts.first()?.ids[..leader.shared].to_vec(),
        };
        Some(Pass { model, outputs: leader.outputs, prefix: leader.prefix.clone(), warms: leader.warms, begin, batch })
    }

    /// Runs a forward pass and counts it: on its own, or `inside` a pass that has paused.
    fn run(
        &self,
        pass: &Pass,
        inside: Option<&Pause<'_>>,
        depth: usize,
        between: &AtomicU64,
    ) -> (Result<Vec<TextOutput>, Error>, Duration) {
        let (start, engine, texts) = (Instant::now(), pass.model.engine(), &pass.batch.texts);
        let work = || {
            let mut prefix = pass.prefix.clone();
            if !pass.begin.is_empty() {
                let computed = Arc::new(engine.prefix(&pass.begin, inside)?);
                // Kept for the request's later batches.
                self.keep_prefix(&pass.batch, &computed);
                prefix = Some(computed);
            }
            let pause = |pause: &Pause<'_>| self.preempt(pause, pass, depth, between);
            let work = Work::DENSE.with_outputs(pass.outputs).with_prefix(prefix.as_deref());
            engine.compute(texts, &work.inside(inside).with_pause(&pause))
        };
        // A panic in the engine must not silence the server: the batch fails, and the thread goes
        // on.
        let result = match catch_unwind(AssertUnwindSafe(work)) {
            // NaN and infinity come from broken hardware. No answer is better than such a vector.
            Ok(Ok(made)) if made.iter().all(is_finite) => Ok(made),
            Ok(Ok(_)) => Err(Error::Engine("the model returned NaN or infinity".into())),
            Ok(Err(e)) => Err(Error::from(e)),
            Err(_) => Err(Error::Engine("the forward pass panicked".into())),
        };
        let (elapsed, metrics) = (start.elapsed(), &pass.model.metrics);
        if pass.warms {
            return (result, elapsed);
        }
        metrics.compute_seconds.observe(elapsed.as_secs_f64());
        metrics.tokens_per_batch.observe(pass.batch.tokens as f64);
        metrics.texts_per_batch.observe(texts.len() as f64);
        if result.is_ok() {
            metrics.tokens.inc_by((pass.batch.tokens + pass.begin.len()) as u64);
            metrics.texts.inc_by(texts.len() as u64);
        }
        (result, elapsed)
    }

    fn keep_prefix(&self, batch: &Batch, prefix: &Arc<SharedPrefix>) {
        let mut queue = self.lock();
        for part in &batch.parts {
            if let Some(request) = queue.waiting.get_mut(&part.key) {
                request.prefix = Some(prefix.clone());
            }
        }
    }

    /// Called between two layers of `pass`: computes batches that have less work than the rest of
    /// `pass`, as long as there are any.
    fn preempt(&self, pause: &Pause<'_>, pass: &Pass, depth: usize, between: &AtomicU64) {
        // On a GPU launches run ahead of what they start: a pass that comes between has a stream of
        // its own.
        if depth > DEPTH || pass.model.engine().batches_at_once() > 1 {
            return;
        }
        loop {
            let short = {
                let mut queue = self.lock();
                if queue.tokens() == 0 {
                    return;
                }
                let left = queue.time(pass.batch.model, pass.batch.tokens).mul_f64(pause.left());
                let Some(short) = self.next_pass(&mut queue, Some(left)) else { return };
                self.publish(&queue);
                short
            };
            let (result, elapsed) = self.run(&short, Some(pause), depth + 1, &AtomicU64::new(0));
            between.fetch_add(elapsed.as_nanos() as u64, Ordering::Relaxed);
            let mut queue = self.lock();
            queue.charge(short.batch.model, elapsed.as_secs_f64());
            self.deliver(&mut queue, short.batch, result, Instant::now());
            self.publish(&queue);
        }
    }

    /// Hands the outputs of a batch to their requests, and replies to the requests that are
    /// complete.
    fn deliver(&self, queue: &mut Queue, batch: Batch, result: Result<Vec<TextOutput>, Error>, now: Instant) {
        let made: Result<Vec<Arc<TextOutput>>, Error> = result.map(|made| made.into_iter().map(Arc::new).collect());
        for part in batch.parts {
            let Some(request) = queue.waiting.get_mut(&part.key) else { continue };
            match &made {
                Ok(made) => {
                    for (i, &index) in part.indices.iter().enumerate() {
                        request.made[part.from + i] = Some(made[index].clone());
                    }
                    if request.made.iter().any(Option::is_none) {
                        continue;
                    }
                    if let Some(request) = queue.waiting.remove(&part.key) {
                        let started = request.started.unwrap_or(request.admitted);
                        let (queued, computed) = (started - request.admitted, now - started);
                        let made = request.made.into_iter().flatten().collect();
                        let _ = request.reply.send(Ok(Answer { made, queued, computed }));
                    }
                }
                Err(error) => {
                    if let Some(request) = queue.give_up(part.key) {
                        let _ = request.reply.send(Err(error.clone()));
                    }
                }
            }
        }
    }
}

fn is_finite(made: &TextOutput) -> bool {
    let weights = made.sparse.iter().map(|(_, weight)| weight);
    made.dense.iter().chain(&made.colbert).chain(&made.states).chain(weights).all(|value| value.is_finite())
}
