//! Where the time of forward passes is spent.

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
