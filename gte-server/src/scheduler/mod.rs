//! From requests to forward passes: bounded queue → policy → compute thread (two for a GPU) →
//! replies.
//!
//! A request is admitted as a whole or refused as a whole, and nothing waits for a batch to fill.
//! Requests for all models share one queue, and one thread computes them on one pool. A request is
//! not computed if its caller is gone or its time is up. After the scheduler is closed, everything
//! that was admitted is still computed.

mod compute;
mod load;
mod policy;
mod queue;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gte_core::{Outputs, TextOutput, Tokens};
use tokio::sync::oneshot;
use tracing::Span;

use crate::error::Error;
use crate::metrics::Metrics;
use crate::registry::Model;
use load::Speed;
use queue::{Load, Queue, Request};

/// How much may wait in the queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Requests.
    pub(crate) requests: usize,
    /// Texts.
    pub(crate) texts: usize,
    /// Tokens.
    pub(crate) tokens: usize,
    /// How long a request may take before it fails.
    pub(crate) timeout: Duration,
}

/// The answer to a request.
#[derive(Default)]
pub(crate) struct Answer {
    /// The output of each text, in order.
    pub(crate) made: Vec<Arc<TextOutput>>,
    /// Time from admission to the start of the first forward pass.
    pub(crate) queued: Duration,
    /// Time from the start of the first forward pass to the end of the last.
    pub(crate) computed: Duration,
}

/// The queue and its compute thread.
pub(crate) struct Scheduler {
    shared: Arc<Shared>,
    threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
}

/// Who made the request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Admission {
    /// A client; the limits apply.
    Request,
    /// The liveness probe: always admitted, and put at the front of the queue.
    Probe,
    /// A model that is being loaded: put at the end of the queue.
    Warm,
}

struct Shared {
    start: Instant,
    metrics: Arc<Metrics>,
    limits: Limits,
    queue: Mutex<Queue>,
    arrived: Condvar,
}

/// A delay in whole seconds, for the header `Retry-After`.
fn wait_s(delay: f64) -> u64 {
    delay.ceil().clamp(1.0, 600.0) as u64
}

/// The answer to the liveness probe while a forward pass does not end.
const STUCK: Error = Error::Unavailable("stuck: a forward pass takes too long");

impl Scheduler {
    /// Starts the compute thread.
    ///
    /// # Errors
    /// If the system cannot start a thread.
    pub(crate) fn start(metrics: Arc<Metrics>, limits: Limits) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            start: Instant::now(),
            metrics,
            limits,
            queue: Mutex::default(),
            arrived: Condvar::new(),
        });
        let scheduler = Self { shared, threads: Mutex::default() };
        scheduler.start_thread(&mut scheduler.threads())?;
        Ok(scheduler)
    }

    fn threads(&self) -> MutexGuard<'_, Vec<std::thread::JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start_thread(&self, threads: &mut Vec<std::thread::JoinHandle<()>>) -> std::io::Result<()> {
        let own = self.shared.clone();
        threads.push(std::thread::Builder::new().name("gte-compute".into()).spawn(move || own.compute())?);
        Ok(())
    }

    /// Accepts requests for a model from now on. Models must be added in the order of their
    /// numbers.
    pub(crate) fn add(&self, model: Arc<Model>) {
        let mut threads = self.threads();
        while threads.len() < model.engine().batches_at_once() {
            if let Err(error) = self.start_thread(&mut threads) {
                tracing::warn!(%error, "no second compute thread: the GPU waits between two batches");
                break;
            }
        }
        // A first guess until a batch is measured. It is far above the speed of any CPU with any
        // model, so no request is refused because of it.
        const GUESS: f64 = 1000.0;
        let mut queue = self.shared.lock();
        debug_assert_eq!(model.number, queue.loads.len(), "models come in the order of their numbers");
        queue.loads.push(Load { model, speed: Speed::new(GUESS), texts: 0, tokens: 0, owed: 0.0, running: 0 });
    }

    /// Computes `texts`, which must be a full batch, after everything that waits. Returns the speed
    /// in tokens per second, which becomes the model's speed. These texts do not appear in the
    /// metrics.
    ///
    /// # Errors
    /// [`Error::Engine`] if they cannot be computed, [`Error::Unavailable`] during shutdown.
    pub(crate) fn warm(&self, model: usize, texts: &[Arc<Tokens>]) -> Result<f64, Error> {
        let answer = self.shared.admit(model, Outputs::DENSE, texts.to_vec(), Admission::Warm)?;
        // On a thread of its own, because the caller may be on an async runtime's thread, which
        // must not block.
        let answer = std::thread::spawn(move || answer.blocking_recv()).join();
        answer.ok().and_then(Result::ok).unwrap_or(Err(Error::Unavailable("shutting down")))?;
        Ok(self.shared.lock().loads[model].speed.full_tokens_per_second)
    }

    /// Admits a request and waits for its outputs. If the caller drops the future, the request is
    /// dropped too.
    ///
    /// # Errors
    /// [`Error::TooMuch`] if the server can never have room or time for it, [`Error::Overloaded`]
    /// if there is no room for all of it now or its deadline would pass first, [`Error::Deadline`],
    /// [`Error::Unavailable`] during shutdown, [`Error::Engine`].
    pub(crate) async fn compute(
        &self,
        model: usize,
        outputs: Outputs,
        texts: Vec<Arc<Tokens>>,
    ) -> Result<Answer, Error> {
        let answer = self.shared.admit(model, outputs, texts, Admission::Request)?;
        let timeout = self.shared.limits.timeout;
        match tokio::time::timeout(timeout, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Error::Unavailable("shutting down")),
            Err(_) => Err(Error::Deadline(timeout.as_secs())),
        }
    }

    /// Checks that forward passes succeed. While the server computes, the result of the last pass
    /// counts, and the current pass may take at most `limit`. If the compute thread is idle, it
    /// computes one tiny text with the first model.
    ///
    /// The answer therefore takes no longer than the current pass, however much is waiting. A pass
    /// of its own behind a large batch would take seconds, and a probe that times out meanwhile
    /// would kill a server for being busy.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if a pass failed or takes too long.
    pub(crate) async fn alive(&self, limit: Duration) -> Result<(), Error> {
        // A server is also busy in the short pause between two batches.
        const RECENT: Duration = Duration::from_secs(1);
        let (running, passed, models) = {
            let queue = self.shared.lock();
            (queue.running.iter().min().copied(), queue.passed, queue.loads.len())
        };
        if running.is_some_and(|start| start.elapsed() > limit) {
            return Err(STUCK);
        }
        // After a failure only a success counts, so the probe waits for its turn.
        if passed.is_some_and(|end| running.is_some() || end.elapsed() < RECENT) {
            return Ok(());
        }
        if models == 0 {
            return Ok(());
        }
        // Every vocabulary has a token 0.
        let tokens = vec![Arc::new(Tokens::from_ids(vec![0], 1))];
        let answer = self.shared.admit(0, Outputs::DENSE, tokens, Admission::Probe)?;
        match tokio::time::timeout(limit, answer).await {
            Ok(Ok(answer)) => answer.map(|_| ()),
            _ => Err(STUCK),
        }
    }

    /// Stops admitting requests, computes those that were admitted, and ends the compute thread.
    pub(crate) fn close(&self) {
        self.shared.lock().closed = true;
        self.shared.arrived.notify_all();
        let threads = std::mem::take(&mut *self.threads());
        for thread in threads {
            let _ = thread.join();
        }
    }

    /// Updates the gauges that change as time passes.
    pub(crate) fn refresh_metrics(&self) {
        let mut queue = self.shared.lock();
        queue.busy.advance(Instant::now());
        self.shared.publish(&queue);
        let models: Vec<_> = queue.loads.iter().map(|load| load.model.clone()).collect();
        drop(queue);
        for model in models {
            if let Some(state) = model.engine().device_state() {
                self.shared.metrics.note_device(model.engine().device().to_string(), &state);
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admit(
        &self,
        model: usize,
        outputs: Outputs,
        texts: Vec<Arc<Tokens>>,
        admission: Admission,
    ) -> Result<oneshot::Receiver<Result<Answer, Error>>, Error> {
        // Only dense vectors share a prefix: the other outputs need the hidden states of all
        // tokens. The texts are compared before the queue is locked, because the compute thread
        // locks it between two layers.
        let shared = match outputs.dense_alone() && admission == Admission::Request {
            true => {
                let model = self.lock().loads[model].model.clone();
                model.engine().common_prefix(&texts)
            }
            false => 0,
        };
        let mut queue = self.lock();
        if queue.closed {
            return Err(Error::Unavailable("shutting down"));
        }
        let now = Instant::now();
        let (reply, answer) = oneshot::channel();
        let request = Request {
            model,
            outputs,
            warms: admission == Admission::Warm,
            shared,
            prefix: None,
            made: vec![None; texts.len()],
            texts: texts.len(),
            waiting: texts.into(),
            reply,
            admitted: now,
            started: None,
            span: if admission == Admission::Warm { Span::none() } else { tracing::info_span!("queue") },
            parent: Span::current(),
            deadline: now + self.limits.timeout,
        };
        let place = match admission {
            Admission::Probe => self.start,
            Admission::Warm => request.deadline,
            // A soft deadline grows with the request's own work: a query overtakes a large request
            // that came just before it, but not a request that has already waited for its share of
            // time.
            Admission::Request => now + 4 * self.check(&queue, &request)?,
        };
        let key = (place, queue.arrivals);
        queue.push(key, request);
        self.publish(&queue);
        drop(queue);
        self.arrived.notify_one();
        Ok(answer)
    }

    /// How long a request will take. Fails if there is no room or time for it.
    fn check(&self, queue: &Queue, request: &Request) -> Result<Duration, Error> {
        let (texts, tokens) = (request.texts, request.left());
        let full = [
            ("--queue-requests", queue.waiting.len(), 1, self.limits.requests),
            ("--queue-texts", queue.texts(), texts, self.limits.texts),
            ("--queue-tokens", queue.tokens(), tokens, self.limits.tokens),
        ];
        for (what, waiting, more, limit) in full {
            if more > limit {
                let unit = if what == "--queue-tokens" { "tokens" } else { "texts" };
                return Err(Error::too_much(format_args!("{more} {unit}"), what, limit));
            }
            if waiting + more > limit {
                return Err(Error::Overloaded { what, retry_after_s: wait_s(queue.delay()) });
            }
        }
        // A request that would be late on an idle server will always be late; split into several
        // requests it would not be.
        let full = queue.loads[request.model].speed.full_tokens_per_second;
        let (own, timeout) = (tokens as f64 / full, self.limits.timeout.as_secs_f64());
        if own > timeout {
            let fits = (timeout * full) as usize;
            let limit = format_args!("{fits} that are computed in {timeout} s");
            return Err(Error::too_much(format_args!("{tokens} tokens"), "--request-timeout", limit));
        }
        // A client that would wait in vain is told at once, so that it can ask another server.
        let late = queue.delay() + own - timeout;
        if late > 0.0 {
            return Err(Error::Overloaded { what: "--request-timeout", retry_after_s: wait_s(late) });
        }
        Ok(queue.time(request.model, tokens))
    }

    fn publish(&self, queue: &Queue) {
        for (number, load) in queue.loads.iter().enumerate() {
            let metrics = &load.model.metrics;
            let waits = |request: &&Request| request.model == number && request.started.is_none();
            metrics.queued_requests.set(queue.waiting.values().filter(waits).count() as i64);
            metrics.queued_texts.set(load.texts as i64);
            metrics.queued_tokens.set(load.tokens as i64);
            metrics.tokens_per_second.set(load.speed.tokens_per_second);
        }
        self.metrics.queue_delay.set(queue.delay());
        self.metrics.utilization.set(queue.busy.share());
    }
}
