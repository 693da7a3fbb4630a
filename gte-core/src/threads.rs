//! The number of threads, and the pool on which models compute.

use std::sync::Arc;

use crate::env::Env;
use crate::error::{Error, Result};

/// The pool on which all parallel work of a model runs: tokenizing, packing, the forward pass. A
/// clone is the same pool, which several models may share:
/// [`Builder::share_threads`](crate::Builder::share_threads).
///
/// ```
/// use gte_core::{Embedder, ModelFiles, Threads};
///
/// let threads = Threads::new(Some(2))?;
/// let open = || Embedder::from_files(ModelFiles::bundled()).share_threads(&threads).build();
/// let (first, second) = (open()?, open()?);
/// assert_eq!((first.threads(), second.threads()), (2, 2));
/// # Ok::<(), gte_core::Error>(())
/// ```
#[derive(Clone)]
pub struct Threads(Arc<rayon::ThreadPool>);

impl std::fmt::Debug for Threads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Threads({})", self.count())
    }
}

impl Threads {
    /// A pool with `count` threads. Default: `GTE_THREADS`, or else as many as this process may
    /// use.
    ///
    /// That number is `std::thread::available_parallelism`: it follows the CPU affinity and, in a
    /// container, the cgroup's CPU quota, so that a pod with a limit of two CPUs on a machine with
    /// 64 gets two threads.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for an invalid count, or if the system cannot start the threads.
    pub fn new(count: Option<usize>) -> Result<Self> {
        let count = self::count(count, &Env::process())?;
        let affinity = affinity(count);
        rayon::ThreadPoolBuilder::new()
            .num_threads(count)
            .thread_name(|i| format!("gte-{i}"))
            .start_handler(move |i| pin_to(affinity.get(i).copied()))
            .build()
            .map(|pool| Self(Arc::new(pool)))
            .map_err(|e| Error::InvalidOption {
                option: "threads",
                value: count.to_string(),
                expected: format!("a number that the system can start: {e}"),
            })
    }

    /// One thread with the lowest priority, for loading a model while another one serves requests
    /// (on Linux; elsewhere it is an ordinary thread).
    ///
    /// # Errors
    /// [`Error::InvalidOption`] if the system cannot start a thread.
    pub fn background() -> Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(1)
            .thread_name(|_| "gte-load".to_owned())
            .start_handler(|_| lower_priority())
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

    /// Runs `f` on the pool, so that rayon's parallel iterators use its threads and no others.
    pub(crate) fn run<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        self.0.install(f)
    }
}

/// The CPUs to which `count` threads are pinned, one each: those on which this process may run, if
/// there are exactly `count` of them; otherwise none.
///
/// A thread that has slept is often woken on the CPU of the thread that wakes it, and shares that
/// CPU for milliseconds while another one is idle. A query after half a second of silence would
/// then take almost twice as long (on a virtual machine with two CPUs). If there are fewer threads
/// than CPUs, the system affinity them, because other processes may be pinned to the same few CPUs.
#[cfg(target_os = "linux")]
fn affinity(count: usize) -> Vec<usize> {
    let Ok(allowed) = rustix::thread::sched_getaffinity(None) else { return Vec::new() };
    let allowed = (0..rustix::thread::CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu));
    Some(allowed.collect::<Vec<_>>()).filter(|cpus| cpus.len() == count).unwrap_or_default()
}

/// Pins this thread to `cpu`. If the system refuses, the thread runs anywhere, which is sometimes
/// slower and never wrong.
#[cfg(target_os = "linux")]
fn pin_to(cpu: Option<usize>) {
    let Some(cpu) = cpu else { return };
    let mut only = rustix::thread::CpuSet::new();
    only.set(cpu);
    if let Err(e) = rustix::thread::sched_setaffinity(None, &only) {
        tracing::debug!("cannot pin a thread to CPU {cpu}: {e}");
    }
}

/// Gives this thread the lowest priority. On Linux, niceness belongs to a thread (`sched(7)`).
#[cfg(target_os = "linux")]
fn lower_priority() {
    if let Err(e) = rustix::process::nice(19) {
        tracing::debug!("cannot lower the priority of a thread: {e}");
    }
}

#[cfg(not(target_os = "linux"))]
fn lower_priority() {}

#[cfg(not(target_os = "linux"))]
fn affinity(_count: usize) -> Vec<usize> {
    Vec::new()
}

#[cfg(not(target_os = "linux"))]
fn pin_to(_cpu: Option<usize>) {}

/// The number of threads: as requested, or else `GTE_THREADS`, or else as many as this process may
/// use.
pub(crate) fn count(wanted: Option<usize>, env: &Env<'_>) -> Result<usize> {
    if let Some(count) = wanted {
        return checked("threads", count, count.to_string());
    }
    match env.text("GTE_THREADS")? {
        Some(value) => checked("GTE_THREADS", value.parse().unwrap_or(0), value),
        None => Ok(std::thread::available_parallelism().map_or(1, |n| n.get())),
    }
}

/// Checks a thread count: more than a few hundred is a typing error rather than a machine.
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
    fn threads_are_pinned_if_there_are_as_many_as_cpus() {
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
