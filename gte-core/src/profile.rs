//! Where the time of forward passes is spent.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Time spent in forward passes since the model was loaded, by the encoder's operations, and the
/// work of the linear layers. Parts of a batch that are computed side by side are added: shares of
/// the sum are meaningful, but the sum is not the elapsed time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Profile {
    /// Linear layers, including quantization of their inputs, biases and GELU.
    pub products: Duration,
    /// Attention: scores, softmax, weighted values.
    pub attention: Duration,
    /// Embedding tables, norms with their residuals, pooling.
    pub rest: Duration,
    /// Number of multiply-adds in the linear layers.
    pub multiplications: u64,
}

/// How long a kernel, or all matrix products of one shape, took.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct KernelTime {
    /// The kernel's name; `product INPUTS → OUTPUTS` for a matrix product.
    pub name: String,
    /// How often it ran.
    pub calls: u64,
    /// Seconds on the device, of all calls.
    pub seconds: f64,
}

/// What ran between two points of a pass at which all threads meet: parts of the batch, side by
/// side; the operations of a part, one after the other; and the seconds of the pieces of an
/// operation, which any thread may run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stage {
    /// `[part][operation][piece]`
    pub parts: Vec<Vec<Vec<f64>>>,
}

/// The stages of the passes of one thread, which does the work of several. It alone runs every
/// piece, so that the time of each is its own.
struct Trace {
    threads: usize,
    stages: Vec<Stage>,
    since: Instant, // when the last operation ended
}

thread_local! {
    static TRACE: RefCell<Option<Trace>> = const { RefCell::new(None) };
}

/// Records what this thread computes from here on, split as for `threads` threads.
pub(crate) fn begin_trace(threads: usize) {
    TRACE.set(Some(Trace { threads, stages: vec![Stage::default()], since: Instant::now() }));
}

/// What was recorded since [`begin_trace`].
pub(crate) fn end_trace() -> Vec<Stage> {
    let mut stages = TRACE.take().map(|trace| trace.stages).unwrap_or_default();
    stages.retain(|stage| !stage.parts.is_empty());
    stages
}

/// The number of threads among which work is split.
pub(crate) fn threads() -> usize {
    TRACE.with_borrow(|trace| trace.as_ref().map(|trace| trace.threads)).unwrap_or_else(rayon::current_num_threads)
}

fn traced(f: impl FnOnce(&mut Trace)) {
    TRACE.with_borrow_mut(|trace| trace.as_mut().map(f));
}

/// Runs parts of a batch, each in a [`part`]. All threads wait until they are done.
pub(crate) fn stage<R>(parts: impl FnOnce() -> R) -> R {
    let next = || traced(|trace| trace.stages.push(Stage::default()));
    next();
    let result = parts();
    next();
    result
}

/// A part of a batch, which one thread begins and ends.
pub(crate) fn part<R>(work: impl FnOnce() -> R) -> R {
    traced(|trace| trace.stages.last_mut().expect("there is one from the beginning").parts.push(Vec::new()));
    work()
}

/// An operation, all of whose work is in a [`piece`].
pub(crate) fn operation<R>(pieces: impl FnOnce() -> R) -> R {
    traced(|trace| {
        // What its thread did alone before.
        let alone = trace.since.elapsed().as_secs_f64();
        let parts = &mut trace.stages.last_mut().expect("there is one from the beginning").parts;
        if parts.is_empty() {
            parts.push(Vec::new());
        }
        parts.last_mut().expect("pushed above").extend([vec![alone], Vec::new()]);
    });
    let result = pieces();
    traced(|trace| trace.since = Instant::now());
    result
}

/// A piece of an operation.
pub(crate) fn piece<R>(work: impl FnOnce() -> R) -> R {
    // The clock is read only while there is a trace: every product has pieces.
    let start = TRACE.with_borrow(Option::is_some).then(Instant::now);
    let result = work();
    if let Some(start) = start {
        traced(|trace| {
            let part = trace.stages.last_mut().and_then(|stage| stage.parts.last_mut());
            if let Some(operation) = part.and_then(|part| part.last_mut()) {
                operation.push(start.elapsed().as_secs_f64());
            }
        });
    }
    result
}

/// Collects a [`Profile`].
#[derive(Default)]
pub(crate) struct Clock {
    products: AtomicU64,
    attention: AtomicU64,
    rest: AtomicU64,
    multiplications: AtomicU64,
}

impl Clock {
    pub(crate) fn products<T>(&self, multiplications: usize, work: impl FnOnce() -> T) -> T {
        self.multiplications.fetch_add(multiplications as u64, Ordering::Relaxed);
        timed(&self.products, work)
    }

    pub(crate) fn attention<T>(&self, work: impl FnOnce() -> T) -> T {
        timed(&self.attention, || operation(work))
    }

    pub(crate) fn rest<T>(&self, work: impl FnOnce() -> T) -> T {
        timed(&self.rest, work)
    }

    pub(crate) fn profile(&self) -> Profile {
        let time = |sum: &AtomicU64| Duration::from_nanos(sum.load(Ordering::Relaxed));
        Profile {
            products: time(&self.products),
            attention: time(&self.attention),
            rest: time(&self.rest),
            multiplications: self.multiplications.load(Ordering::Relaxed),
        }
    }
}

fn timed<T>(sum: &AtomicU64, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    sum.fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
    result
}
