//! Where the time of forward passes goes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Time spent in forward passes since the model was loaded, by the verbs of the encoder, and what the linear layers computed in theirs. Parts of
/// a batch that are computed side by side add up: shares of the sum are meaningful, the sum is not the time that passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Profile {
    /// Linear layers, with the narrowing of their inputs, biases and GELU.
    pub products: Duration,
    /// Attention: scores, softmax, weighted values.
    pub attention: Duration,
    /// Embedding tables, LayerNorms with their residuals, pooling.
    pub rest: Duration,
    /// Multiply-adds of the linear layers.
    pub multiplications: u64,
}

/// A [`Profile`] in the making.
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
        timed(&self.attention, work)
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
