//! How many threads, and the one pool that models compute on.

use std::sync::Arc;

use crate::env::Env;
use crate::error::{Error, Result};

/// The pool that all parallel work of a model runs on: tokenizing, packing, the forward pass. A clone is the same pool,
/// which several models may share: [`Builder::share_threads`](crate::Builder::share_threads).
#[derive(Clone)]
pub struct Threads(Arc<rayon::ThreadPool>);

impl Threads {
    /// A pool of `count` threads. Default: `GTE_THREADS`, else what this process may use.
    ///
    /// What it may use is what `std::thread::available_parallelism` says: CPU affinity and, in a container, the cgroup's CPU
    /// quota, so that a pod with a limit of two CPUs on a machine of 64 gets two threads.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a count that makes no sense, or that the system does not start.
    pub fn new(count: Option<usize>) -> Result<Self> {
        let count = self::count(count, &Env::process())?;
        let places = places(count);
        rayon::ThreadPoolBuilder::new()
            .num_threads(count)
            .thread_name(|i| format!("gte-{i}"))
            .start_handler(move |i| stay_on(places.get(i).copied()))
            .build()
            .map(|pool| Self(Arc::new(pool)))
            .map_err(|e| Error::InvalidOption {
                option: "threads",
                value: count.to_string(),
                expected: format!("a number that the system can start: {e}"),
            })
    }

    /// One thread that gives way to all others of the system, for loading a model while another one serves (Linux;
    /// elsewhere a thread as any other).
    ///
    /// # Errors
    /// [`Error::InvalidOption`] where the system starts no thread.
    pub fn background() -> Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(1)
            .thread_name(|_| "gte-load".to_owned())
            .start_handler(|_| give_way())
            .build();
        pool.map(|pool| Self(Arc::new(pool))).map_err(|e| Error::InvalidOption {
            option: "threads",
            value: "1".into(),
            expected: format!("a number that the system can start: {e}"),
        })
    }

    /// Number of threads.
    pub fn count(&self) -> usize {
        self.0.current_num_threads()
    }

    /// Runs `f` on the pool, where rayon's parallel iterators use its threads and no others.
    pub(crate) fn run<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        self.0.install(f)
    }
}

/// The CPUs that `count` threads are kept on, one each: those that this process may run on, if they are as many; else none.
///
/// Threads that have slept are often woken on the CPU of the one that wakes them, and share it for milliseconds while another is idle: a
/// query after half a second of silence takes almost twice as long (a virtual machine of two CPUs). Fewer threads than CPUs are left to
/// the system, for a neighbour would be on the same few.
#[cfg(target_os = "linux")]
fn places(count: usize) -> Vec<usize> {
    let Ok(allowed) = rustix::thread::sched_getaffinity(None) else { return Vec::new() };
    let allowed = (0..rustix::thread::CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu));
    Some(allowed.collect::<Vec<_>>()).filter(|cpus| cpus.len() == count).unwrap_or_default()
}

/// Keeps this thread on `cpu`. Where the system refuses, it runs where it likes: slower at times, never wrong.
#[cfg(target_os = "linux")]
fn stay_on(cpu: Option<usize>) {
    let Some(cpu) = cpu else { return };
    let mut only = rustix::thread::CpuSet::new();
    only.set(cpu);
    if let Err(e) = rustix::thread::sched_setaffinity(None, &only) {
        tracing::debug!("a thread is not kept on CPU {cpu}: {e}");
    }
}

/// Makes this thread run when others have nothing to do. Linux counts niceness by thread (`sched(7)`).
#[cfg(target_os = "linux")]
fn give_way() {
    if let Err(e) = rustix::process::nice(19) {
        tracing::debug!("a thread does not give way to others: {e}");
    }
}

#[cfg(not(target_os = "linux"))]
fn give_way() {}

#[cfg(not(target_os = "linux"))]
fn places(_count: usize) -> Vec<usize> {
    Vec::new()
}

#[cfg(not(target_os = "linux"))]
fn stay_on(_cpu: Option<usize>) {}

/// The number of threads: those asked for, `GTE_THREADS`, what this process may use.
pub(crate) fn count(wanted: Option<usize>, env: &Env<'_>) -> Result<usize> {
    if let Some(count) = wanted {
        return checked("threads", count, count.to_string());
    }
    match env.text("GTE_THREADS")? {
        Some(value) => checked("GTE_THREADS", value.parse().unwrap_or(0), value),
        None => Ok(std::thread::available_parallelism().map_or(1, |n| n.get())),
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

    #[cfg(target_os = "linux")]
    #[test]
    #[allow(clippy::unwrap_used, reason = "a test")]
    fn threads_stay_on_a_cpu_of_their_own_where_they_are_as_many() {
        use rustix::thread::{CpuSet, sched_getaffinity};
        let cpus = |set: CpuSet| -> Vec<usize> { (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect() };
        let allowed = cpus(sched_getaffinity(None).unwrap());
        let of_threads = |count| {
            let threads = Threads::new(Some(count)).unwrap();
            threads.0.broadcast(|_| cpus(sched_getaffinity(None).unwrap()))
        };
        let own: Vec<Vec<usize>> = allowed.iter().map(|&cpu| vec![cpu]).collect();
        assert_eq!(of_threads(allowed.len()), own);
        assert_eq!(of_threads(allowed.len() + 1), vec![allowed.clone(); allowed.len() + 1]);
    }
}
