//! From requests to forward passes: bounded queue → token budget → one compute thread → replies.
//!
//! A request is admitted whole or refused whole; nothing waits for a batch to fill. While little waits, what has least to do is computed
//! first, with others of like length, and gives way between two layers of the model to what has less: a query costs little
//! more than its own time (shortest remaining processing time, Schrage 1968). In a crowd it is throughput that shortens the waiting
//! for all: then texts go by deadline, as many as fit the token budget, also a part of a request's. Texts of requests whose callers are gone, or whose time is up, are not computed. When the batcher is closed, what
//! was admitted is still computed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gte_core::{Embedder, PackedBatch, Pause, Tokens};
use tokio::sync::oneshot;
use tracing::Span;

use crate::error::Error;
use crate::metrics::Metrics;

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Requests.
    pub requests: usize,
    /// Texts.
    pub texts: usize,
    /// Tokens.
    pub tokens: usize,
    /// How long a request may take before it is given up.
    pub timeout: Duration,
}

/// The answer to a request.
pub struct Answer {
    /// One pooled vector a text, not of unit length: `Embedder::normalize` makes it so.
    pub pooled: Vec<f32>,
    /// From admission to the first forward pass.
    pub queued: Duration,
    /// From the first forward pass to the last.
    pub computed: Duration,
}

/// The queue and its compute thread.
pub struct Batcher {
    shared: Arc<Shared>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Admission {
    /// A client, within the limits.
    Request,
    /// The liveness probe: admitted whatever waits, and in front of it.
    Probe,
}

struct Shared {
    start: Instant,
    embedder: Arc<Embedder>,
    metrics: Arc<Metrics>,
    limits: Limits,
    queue: Mutex<Queue>,
    arrived: Condvar,
}

#[derive(Default)]
struct Queue {
    /// By (soft deadline, arrival).
    waiting: BTreeMap<(Instant, u64), Request>,
    arrivals: u64,
    texts: usize,
    tokens: usize,
    closed: bool,
    /// When the forward pass that runs now began.
    running: Option<Instant>,
    /// When the last forward pass ended, if it succeeded.
    passed: Option<Instant>,
    /// Measured.
    tokens_per_second: f64,
    /// That of full batches alone: what much text is computed with, however short the last ones
    /// were.
    full_tokens_per_second: f64,
    busy: Window,
}

struct Request {
    waiting: VecDeque<Tokens>, // of the texts that are not yet computed or being computed: the last ones
    texts: usize,              // all of them
    values: Vec<f32>,
    reply: oneshot::Sender<Result<Answer, Error>>,
    admitted: Instant,
    started: Option<Instant>,
    deadline: Instant,
    /// The request's, for the spans below.
    parent: Span,
    /// `queue`, then `compute`: a span ends when it is dropped.
    span: Span,
}

impl Request {
    /// Texts that are computed or being computed.
    fn taken(&self) -> usize {
        self.texts - self.waiting.len()
    }

    /// Tokens that are still to be computed.
    fn left(&self) -> usize {
        self.waiting.iter().map(Tokens::len).sum()
    }
}

impl Queue {
    /// How long what waits will take, in seconds.
    fn delay(&self) -> f64 {
        self.tokens as f64 / self.tokens_per_second
    }
}

/// Whole seconds for `Retry-After`.
fn wait_s(delay: f64) -> u64 {
    delay.ceil().clamp(1.0, 600.0) as u64
}

/// Batches that wait, from which on it is a crowd.
const CROWD: usize = 6;

/// Tokens that are computed in about the time of one: so many go together, however short the shortest is.
const FEW: usize = 32;

/// Token vectors in one answer, at most: a hundred megabytes of JSON at 1024 dimensions.
const MAX_STATES: usize = 8192;

/// Passes within passes, at most.
const DEPTH: usize = 4;

/// Texts of one request in a batch.
struct Part {
    key: (Instant, u64),
    texts: std::ops::Range<usize>,
}

impl Batcher {
    /// Starts the compute thread. `tokens_per_second` is a first measurement of the engine's speed.
    ///
    /// # Errors
    /// Where the system starts no thread.
    pub fn start(
        embedder: Arc<Embedder>,
        metrics: Arc<Metrics>,
        limits: Limits,
        tokens_per_second: f64,
    ) -> std::io::Result<Self> {
        let queue = Queue { tokens_per_second, full_tokens_per_second: tokens_per_second, ..Queue::default() };
        let shared = Arc::new(Shared {
            start: Instant::now(),
            embedder,
            metrics,
            limits,
            queue: Mutex::new(queue),
            arrived: Condvar::new(),
        });
        let own = shared.clone();
        let thread = std::thread::Builder::new().name("gte-compute".into()).spawn(move || own.compute())?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Admits a request and waits for its vectors. A caller that is dropped takes its request along.
    ///
    /// # Errors
    /// [`Error::TooMuch`] where there would never be room or time for it, [`Error::Overloaded`]
    /// where there is no room for all of it now or its deadline would pass first,
    /// [`Error::Deadline`], [`Error::Unavailable`] while closing, [`Error::Engine`].
    pub async fn embed(&self, tokens: Vec<Tokens>) -> Result<Answer, Error> {
        let answer = self.shared.admit(tokens, Admission::Request)?;
        let timeout = self.shared.limits.timeout;
        match tokio::time::timeout(timeout, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Error::Unavailable("shutting down")),
            Err(_) => Err(Error::Deadline(timeout.as_secs())),
        }
    }

    /// The hidden states of each text's tokens: (texts)(tokens)(dim). Computed beside the queue, on a thread for blocking work:
    /// the engine takes one batch at a time, so it waits for at most the one that runs.
    ///
    /// # Errors
    /// [`Error::TooMuch`] for more tokens than an answer holds, [`Error::Engine`].
    pub async fn hidden_states(&self, tokens: Vec<Tokens>) -> Result<Vec<Vec<Vec<f32>>>, Error> {
        let embedder = self.shared.embedder.clone();
        let count = tokens.iter().map(Tokens::len).sum::<usize>();
        if count > MAX_STATES {
            return Err(Error::too_much(format_args!("{count} tokens"), "token vectors per answer", MAX_STATES));
        }
        let work = move || -> gte_core::Result<_> {
            let mut states = Vec::with_capacity(tokens.len());
            for texts in embedder.batches(&tokens)? {
                let batch = PackedBatch::new(tokens[texts].iter().map(AsRef::as_ref))?;
                let rows = embedder.hidden_states(&batch)?;
                let text = |range: std::ops::Range<usize>| range.map(|i| rows.row(i).to_vec()).collect();
                states.extend(batch.ranges().map(text));
            }
            Ok(states)
        };
        Ok(tokio::task::spawn_blocking(work).await.map_err(|e| Error::Engine(e.to_string()))??)
    }

    /// Whether forward passes succeed. While they run, the last one tells, and the one that runs has `limit`; an idle compute
    /// thread is asked for one, of a tiny text.
    ///
    /// So the answer takes no longer than that pass, whatever waits: a pass of its own behind a large batch would take seconds,
    /// and a probe that gives up then would kill a server for being busy.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where a pass failed or takes too long.
    pub async fn alive(&self, limit: Duration) -> Result<(), Error> {
        const STUCK: Error = Error::Unavailable("stuck: a forward pass takes too long");
        // Also between two batches a server is busy.
        const RECENT: Duration = Duration::from_secs(1);
        let (running, passed) = {
            let queue = self.shared.lock();
            (queue.running, queue.passed)
        };
        if running.is_some_and(|start| start.elapsed() > limit) {
            return Err(STUCK);
        }
        // After a failure only a success counts, so the probe waits for its turn.
        if passed.is_some_and(|end| running.is_some() || end.elapsed() < RECENT) {
            return Ok(());
        }
        let tokens = vec![self.shared.embedder.tokenizer().encode_one("")?];
        let answer = self.shared.admit(tokens, Admission::Probe)?;
        match tokio::time::timeout(limit, answer).await {
            Ok(Ok(answer)) => answer.map(|_| ()),
            _ => Err(STUCK),
        }
    }

    /// Admits nothing more, computes what was admitted, and ends the compute thread.
    pub fn close(&self) {
        self.shared.lock().closed = true;
        self.shared.arrived.notify_all();
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = thread.join();
        }
    }

    /// Brings the gauges that change with time alone up to date.
    pub fn refresh_metrics(&self) {
        let mut queue = self.shared.lock();
        queue.busy.advance(Instant::now());
        self.shared.publish(&queue);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admit(
        &self,
        tokens: Vec<Tokens>,
        admission: Admission,
    ) -> Result<oneshot::Receiver<Result<Answer, Error>>, Error> {
        let (texts, count) = (tokens.len(), tokens.iter().map(Tokens::len).sum::<usize>());
        let mut queue = self.lock();
        if queue.closed {
            return Err(Error::Unavailable("shutting down"));
        }
        let probe = admission == Admission::Probe;
        let full = [
            ("--queue-requests", queue.waiting.len(), 1, self.limits.requests),
            ("--queue-texts", queue.texts, texts, self.limits.texts),
            ("--queue-tokens", queue.tokens, count, self.limits.tokens),
        ];
        for (what, waiting, more, limit) in full {
            if probe {
                break;
            }
            if more > limit {
                let unit = if what == "--queue-tokens" { "tokens" } else { "texts" };
                return Err(Error::too_much(format_args!("{more} {unit}"), what, limit));
            }
            if waiting + more > limit {
                return Err(Error::Overloaded { what, retry_after_s: wait_s(queue.delay()) });
            }
        }
        // What would be late even if nothing else waited is late here always; in parts it is not.
        let (own, timeout) = (count as f64 / queue.full_tokens_per_second, self.limits.timeout.as_secs_f64());
        if own > timeout && !probe {
            let fits = (timeout * queue.full_tokens_per_second) as usize;
            let limit = format_args!("{fits} that are computed in {timeout} s");
            return Err(Error::too_much(format_args!("{count} tokens"), "--request-timeout", limit));
        }
        // Who would wait in vain is told at once, and may ask another server.
        let late = queue.delay() + own - timeout;
        if late > 0.0 && !probe {
            return Err(Error::Overloaded { what: "--request-timeout", retry_after_s: wait_s(late) });
        }
        let now = Instant::now();
        // Soft deadlines grow with a request's own work: a query overtakes a corpus that came just before it, but never one that
        // has waited for its share.
        let own = Duration::from_secs_f64(count as f64 / queue.tokens_per_second);
        let key = if probe { (self.start, queue.arrivals) } else { (now + 4 * own, queue.arrivals) };
        let (reply, answer) = oneshot::channel();
        let request = Request {
            values: Vec::with_capacity(texts * self.embedder.dim()),
            waiting: tokens.into(),
            texts,
            reply,
            admitted: now,
            started: None,
            span: tracing::info_span!("queue"),
            parent: Span::current(),
            deadline: now + self.limits.timeout,
        };
        queue.arrivals += 1;
        queue.texts += texts;
        queue.tokens += count;
        queue.waiting.insert(key, request);
        self.publish(&queue);
        drop(queue);
        self.arrived.notify_one();
        Ok(answer)
    }

    /// The compute thread.
    fn compute(&self) {
        loop {
            let mut queue = self.lock();
            let (parts, texts) = loop {
                let (parts, texts) = self.next_batch(&mut queue, None);
                if !parts.is_empty() {
                    break (parts, texts);
                }
                if queue.closed && queue.waiting.is_empty() {
                    return;
                }
                queue = self.arrived.wait(queue).unwrap_or_else(PoisonError::into_inner);
            };
            let start = Instant::now();
            queue.running = Some(start);
            self.publish(&queue);
            drop(queue);

            let tokens: usize = texts.iter().map(Tokens::len).sum();
            let between = AtomicU64::new(0); // nanoseconds for others
            let work = || self.embedder.pool_tokens_pausing(&texts, &|pause| self.give_way(pause, tokens, 1, &between));
            let (result, elapsed) = self.pass(&texts, work);
            let end = start + elapsed;
            let seconds = elapsed.saturating_sub(Duration::from_nanos(between.into_inner())).as_secs_f64();

            let mut queue = self.lock();
            queue.running = None;
            queue.passed = result.is_ok().then_some(end);
            queue.busy.add(start, end);
            // The last few batches decide; a small one says little of the speed of a full one.
            let (full, speed) =
                (tokens as f64 / self.embedder.budget().tokens() as f64, tokens as f64 / seconds.max(1e-6));
            queue.tokens_per_second += 0.3 * full.clamp(0.05, 1.0) * (speed - queue.tokens_per_second);
            if full > 0.5 {
                queue.full_tokens_per_second += 0.3 * (speed - queue.full_tokens_per_second);
            }
            self.deliver(&mut queue, parts, result, end);
            self.publish(&queue);
        }
    }

    /// Runs a forward pass over `texts`, and counts it.
    fn pass(
        &self,
        texts: &[Tokens],
        work: impl FnOnce() -> gte_core::Result<Vec<f32>>,
    ) -> (Result<Vec<f32>, Error>, Duration) {
        let start = Instant::now();
        // A panic in the engine must not silence the server: the batch fails, the thread goes on.
        let result = match std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
            // NaN and infinity come from a device that is broken: no vector is better than such a one.
            Ok(Ok(values)) if values.iter().all(|v| v.is_finite()) => Ok(values),
            Ok(Ok(_)) => Err(Error::Engine("it gave values that are not numbers".into())),
            Ok(Err(e)) => Err(Error::from(e)),
            Err(_) => Err(Error::Engine("it panicked".into())),
        };
        let elapsed = start.elapsed();
        let tokens: usize = texts.iter().map(Tokens::len).sum();
        self.metrics.compute_seconds.observe(elapsed.as_secs_f64());
        self.metrics.batch_tokens.observe(tokens as f64);
        self.metrics.batch_texts.observe(texts.len() as f64);
        if result.is_ok() {
            self.metrics.tokens.inc_by(tokens as u64);
            self.metrics.texts.inc_by(texts.len() as u64);
        }
        (result, elapsed)
    }

    /// Between two layers of a pass over `tokens`: computes what has less to do than the rest of it, for as long as there is such.
    fn give_way(&self, pause: &Pause<'_>, tokens: usize, depth: usize, between: &AtomicU64) {
        if depth > DEPTH {
            return;
        }
        let left = (pause.left() * tokens as f64) as usize;
        loop {
            let (parts, texts) = {
                let mut queue = self.lock();
                if queue.tokens == 0 || self.crowded(&queue) {
                    return;
                }
                let taken = self.next_batch(&mut queue, Some(left));
                if taken.0.is_empty() {
                    return;
                }
                self.publish(&queue);
                taken
            };
            let inside: usize = texts.iter().map(Tokens::len).sum();
            let deeper = AtomicU64::new(0);
            let work = || pause.pool_tokens_pausing(&texts, &|pause| self.give_way(pause, inside, depth + 1, &deeper));
            let (result, elapsed) = self.pass(&texts, work);
            between.fetch_add(elapsed.as_nanos() as u64, Ordering::Relaxed);
            let mut queue = self.lock();
            self.deliver(&mut queue, parts, result, Instant::now());
            self.publish(&queue);
        }
    }

    /// Whether texts go by deadline: where much waits, and where someone, also in a pass that has paused, has waited for half of the time that
    /// a request has: who comes later with less to do must not keep him until it is over.
    fn crowded(&self, queue: &Queue) -> bool {
        queue.tokens > CROWD * self.embedder.budget().tokens()
            || queue.waiting.values().any(|request| request.admitted.elapsed() > self.limits.timeout / 2)
    }

    /// Takes texts to compute together. `within` a pass with so many tokens to go, only requests that have less to do, and whole: of one that
    /// has begun, a part may be in that pass, and its vectors come in order.
    fn next_batch(&self, queue: &mut Queue, within: Option<usize>) -> (Vec<Part>, Vec<Tokens>) {
        let now = Instant::now();
        let gone: Vec<_> = queue
            .waiting
            .iter()
            .filter(|(_, r)| r.reply.is_closed() || r.deadline <= now)
            .map(|(&key, _)| key)
            .collect();
        for key in gone {
            if let Some(request) = self.give_up(queue, key) {
                let _ = request.reply.send(Err(Error::Deadline(self.limits.timeout.as_secs())));
            }
        }
        let budget = self.embedder.budget().tokens();
        let candidates = queue.waiting.iter().filter(|(_, r)| within.is_none() || r.taken() == 0);
        let mut order: Vec<_> = candidates.map(|(&key, r)| (r.left(), key)).filter(|&(left, _)| left > 0).collect();
        let crowded = self.crowded(queue);
        // By least to do, those of one length in their order; in a crowd by deadline, as the queue is.
        if !crowded {
            order.sort();
        }
        let Some(&(least, _)) = order.first().filter(|&&(least, _)| within.is_none_or(|left| least < left)) else {
            return (Vec::new(), Vec::new());
        };
        let limit = match crowded {
            true => budget,
            // Like lengths together: whoever is much longer would keep the shortest waiting.
            false => (2 * least).max(FEW).min(budget).min(within.unwrap_or(budget).max(least)),
        };
        let (mut parts, mut texts, mut used) = (Vec::new(), Vec::new(), 0);
        for (left, key) in order {
            if within.is_some() && used + left > limit {
                break;
            }
            let Some(request) = queue.waiting.get_mut(&key) else { continue };
            let first = request.taken();
            while request.waiting.front().is_some_and(|tokens| used == 0 || used + tokens.len() <= limit)
                && let Some(tokens) = request.waiting.pop_front()
            {
                used += tokens.len();
                texts.push(tokens);
            }
            let taken = first..request.taken();
            if !taken.is_empty() {
                if request.started.is_none() {
                    request.started = Some(now);
                    self.metrics.queue_seconds.observe((now - request.admitted).as_secs_f64());
                    request.span = tracing::info_span!(parent: &request.parent, "compute");
                }
                parts.push(Part { key, texts: taken });
            }
            if used >= limit {
                break;
            }
        }
        queue.texts -= texts.len();
        queue.tokens -= used;
        (parts, texts)
    }

    /// Removes a request; what of it was not taken leaves the counts.
    fn give_up(&self, queue: &mut Queue, key: (Instant, u64)) -> Option<Request> {
        let request = queue.waiting.remove(&key)?;
        queue.texts -= request.waiting.len();
        queue.tokens -= request.left();
        Some(request)
    }

    /// Hands the vectors of a batch to their requests, and replies to those that are complete.
    fn deliver(&self, queue: &mut Queue, parts: Vec<Part>, result: Result<Vec<f32>, Error>, now: Instant) {
        let (dim, mut row) = (self.embedder.dim(), 0);
        for Part { key, texts } in parts {
            let first = row;
            row += texts.len();
            let Some(request) = queue.waiting.get_mut(&key) else { continue };
            match &result {
                Ok(vectors) => {
                    request.values.extend_from_slice(&vectors[first * dim..row * dim]);
                    if texts.end == request.texts
                        && let Some(request) = queue.waiting.remove(&key)
                    {
                        let started = request.started.unwrap_or(request.admitted);
                        let (queued, computed) = (started - request.admitted, now - started);
                        let _ = request.reply.send(Ok(Answer { pooled: request.values, queued, computed }));
                    }
                }
                Err(error) => {
                    let error = error.clone();
                    if let Some(request) = self.give_up(queue, key) {
                        let _ = request.reply.send(Err(error));
                    }
                }
            }
        }
    }

    fn publish(&self, queue: &Queue) {
        let metrics = &self.metrics;
        metrics.queued_requests.set(queue.waiting.values().filter(|r| r.started.is_none()).count() as i64);
        metrics.queued_texts.set(queue.texts as i64);
        metrics.queued_tokens.set(queue.tokens as i64);
        metrics.queue_delay.set(queue.delay());
        metrics.tokens_per_second.set(queue.tokens_per_second);
        metrics.utilization.set(queue.busy.share());
    }
}

/// How busy the compute thread was in the last ten seconds, or since the start.
struct Window {
    start: Instant,
    end: Instant,
    busy: Duration,
    last: f64, // share of the window before
}

/// Length of the window.
const WINDOW: Duration = Duration::from_secs(10);

impl Default for Window {
    fn default() -> Self {
        let now = Instant::now();
        Self { start: now, end: now, busy: Duration::ZERO, last: 0.0 }
    }
}

impl Window {
    fn add(&mut self, start: Instant, end: Instant) {
        self.busy += end - start;
        self.advance(end);
    }

    fn advance(&mut self, now: Instant) {
        self.end = now;
        let length = now - self.start;
        if length >= WINDOW {
            self.last = (self.busy.as_secs_f64() / length.as_secs_f64()).min(1.0);
            (self.start, self.busy) = (now, Duration::ZERO);
        }
    }

    /// The window before and the running one, weighted by how much of the last ten seconds each covers.
    fn share(&self) -> f64 {
        let length = (self.end - self.start).as_secs_f64();
        let rest = (WINDOW.as_secs_f64() - length).max(0.0);
        (self.busy.as_secs_f64() + self.last * rest) / (length + rest)
    }
}
