//! How many threads, and the one pool that an embedder computes on.

use std::sync::Arc;

use crate::{Error, Result};

/// The pool that all parallel work of one embedder runs on: tokenizing, packing, the forward pass.
#[derive(Clone)]
pub(crate) struct Threads(Arc<rayon::ThreadPool>);

impl Threads {
    /// A pool of `count` threads; `None`: `GTE_THREADS`, else what this process may use.
    ///
    /// What it may use is what `std::thread::available_parallelism` says: CPU affinity and, in a container, the cgroup's CPU
    /// quota, so that a pod with a limit of two CPUs on a machine of 64 gets two threads.
    pub(crate) fn new(count: Option<usize>) -> Result<Self> {
        let count = match count {
            Some(count) => checked("threads", count, count.to_string())?,
            None => match std::env::var("GTE_THREADS") {
                Ok(value) => checked("GTE_THREADS", value.trim().parse().unwrap_or(0), value)?,
                Err(_) => std::thread::available_parallelism().map_or(1, |n| n.get()),
            },
        };
        rayon::ThreadPoolBuilder::new()
            .num_threads(count)
            .thread_name(|i| format!("gte-{i}"))
            .build()
            .map(|pool| Self(Arc::new(pool)))
            .map_err(|e| Error::InvalidOption {
                option: "threads",
                value: count.to_string(),
                expected: format!("a number that the system can start: {e}"),
            })
    }

    /// Number of threads.
    pub(crate) fn count(&self) -> usize {
        self.0.current_num_threads()
    }

    /// Runs `f` on the pool, where rayon's parallel iterators use its threads and no others.
    pub(crate) fn run<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        self.0.install(f)
    }
}

/// A thread count that makes sense: more than a few hundred is a typing error, not a machine.
fn checked(option: &'static str, count: usize, value: String) -> Result<usize> {
    if (1..=1024).contains(&count) {
        Ok(count)
    } else {
        Err(Error::InvalidOption { option, value, expected: "a number from 1 to 1024".into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_that_make_no_sense_are_refused() {
        assert!(matches!(Threads::new(Some(0)), Err(Error::InvalidOption { option: "threads", .. })));
        assert!(Threads::new(Some(1_000_000)).is_err());
        assert_eq!(Threads::new(Some(3)).map(|t| t.count()).unwrap_or(0), 3);
    }
}
