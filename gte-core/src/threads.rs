//! The number of threads, and the pool on which models compute.

#[cfg(target_os = "linux")]
use std::path::Path;
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
    /// 64 gets two threads. Of a CPU with cores of two kinds, only the performance cores count (on
    /// Linux, by `/sys/devices`): after each layer all threads wait for the slowest one.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for an invalid count, or if the system cannot start the threads.
    pub fn new(count: Option<usize>) -> Result<Self> {
        let count = self::count(count, &Env::process())?;
        let affinity = affinity(count);
        rayon::ThreadPoolBuilder::new()
            .num_threads(count)
            .thread_name(|i| format!("gte-{i}"))
            .start_handler(move |i| pin_to(affinity.get(i).map_or(&[], Vec::as_slice)))
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

/// The CPUs on which each of `count` threads may run; nothing if the system places them.
#[cfg(target_os = "linux")]
fn affinity(count: usize) -> Vec<Vec<usize>> {
    let allowed = allowed();
    let fast = performance_cpus(Path::new("/sys"), &allowed);
    places(count, &allowed, &fast)
}

/// The CPUs on which each of `count` threads may run, of the `allowed` ones, of which `fast` are of
/// performance cores; nothing if the system places them.
///
/// A thread that has slept is often woken on the CPU of the thread that wakes it, and shares that
/// CPU for milliseconds while another one is idle. A query after half a second of silence would
/// then take almost twice as long (on a virtual machine with two CPUs). So threads have a CPU each
/// if there are as many CPUs. If there are fewer threads, the system places them, because other
/// processes may be pinned to the same few CPUs; but not on slower cores, for which all others
/// would wait after every layer.
#[cfg(target_os = "linux")]
fn places(count: usize, allowed: &[usize], fast: &[usize]) -> Vec<Vec<usize>> {
    let one_each = |cpus: &[usize]| cpus.iter().map(|&cpu| vec![cpu]).collect();
    if count == fast.len() || count == allowed.len() {
        // The fast ones first.
        let slow = allowed.iter().filter(|cpu| !fast.contains(cpu));
        let all: Vec<usize> = fast.iter().chain(slow).copied().take(count).collect();
        return one_each(&all);
    }
    if count < fast.len() && fast.len() < allowed.len() {
        return vec![fast.to_vec(); count];
    }
    Vec::new()
}

/// The CPUs on which this process may run.
#[cfg(target_os = "linux")]
fn allowed() -> Vec<usize> {
    let Ok(set) = rustix::thread::sched_getaffinity(None) else { return Vec::new() };
    (0..rustix::thread::CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect()
}

/// Those of the CPUs `allowed` that are of performance cores, by what the system says in the folder
/// `sys`. All of them if it says nothing, or if all are of one kind.
///
/// Intel's hybrid CPUs have a list of these cores. On ARM each CPU has a capacity. Elsewhere the
/// highest clock tells. CPUs of one kind may differ a little in it, so that four fifths of the
/// highest count as the same kind.
#[cfg(target_os = "linux")]
fn performance_cpus(sys: &Path, allowed: &[usize]) -> Vec<usize> {
    let read = |file: &str| std::fs::read_to_string(sys.join("devices").join(file)).ok();
    let by = |file: &str| {
        let value = |&cpu: &usize| -> Option<(usize, u64)> {
            Some((cpu, read(&format!("system/cpu/cpu{cpu}/{file}"))?.trim().parse().ok()?))
        };
        let values: Vec<(usize, u64)> = allowed.iter().map(value).collect::<Option<_>>()?;
        let most = values.iter().map(|(_, value)| *value).max()?;
        Some(values.into_iter().filter(|(_, value)| 5 * value >= 4 * most).map(|(cpu, _)| cpu).collect())
    };
    let listed = || {
        let list = cpu_list(&read("cpu_core/cpus")?)?;
        Some(allowed.iter().copied().filter(|cpu| list.contains(cpu)).collect())
    };
    let found: Option<Vec<usize>> = listed().or_else(|| by("cpu_capacity")).or_else(|| by("cpufreq/cpuinfo_max_freq"));
    found.filter(|cpus| !cpus.is_empty()).unwrap_or_else(|| allowed.to_vec())
}

/// CPUs as the kernel lists them: `0-3,8`.
#[cfg(target_os = "linux")]
fn cpu_list(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for range in text.trim().split(',').filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        cpus.extend(first..=last.min(rustix::thread::CpuSet::MAX_CPU));
    }
    Some(cpus)
}

/// Lets this thread run on `cpus` only. If the system refuses, the thread runs anywhere, which is
/// sometimes slower and never wrong.
#[cfg(target_os = "linux")]
fn pin_to(cpus: &[usize]) {
    if cpus.is_empty() {
        return;
    }
    let mut only = rustix::thread::CpuSet::new();
    cpus.iter().for_each(|&cpu| only.set(cpu));
    if let Err(e) = rustix::thread::sched_setaffinity(None, &only) {
        tracing::debug!("cannot pin a thread to the CPUs {cpus:?}: {e}");
    }
}

/// As many as this process may use: of performance cores, if there are others too.
fn available() -> usize {
    let usable = std::thread::available_parallelism().map_or(1, |n| n.get());
    #[cfg(target_os = "linux")]
    let usable = match performance_cpus(Path::new("/sys"), &allowed()).len() {
        0 => usable,
        fast => usable.min(fast),
    };
    usable
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
fn affinity(_count: usize) -> Vec<Vec<usize>> {
    Vec::new()
}

#[cfg(not(target_os = "linux"))]
fn pin_to(_cpus: &[usize]) {}

/// The number of threads: as requested, or else `GTE_THREADS`, or else as many as this process may
/// use.
pub(crate) fn count(wanted: Option<usize>, env: &Env<'_>) -> Result<usize> {
    if let Some(count) = wanted {
        return checked("threads", count, count.to_string());
    }
    match env.text("GTE_THREADS")? {
        Some(value) => checked("GTE_THREADS", value.parse().unwrap_or(0), value),
        None => Ok(available()),
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
    fn performance_cores_are_those_that_the_system_names() {
        let of = |files: &[(&str, &str)], allowed: &[usize]| {
            let sys = tempfile::tempdir().unwrap();
            for (file, text) in files {
                let path = sys.path().join("devices").join(file);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            }
            performance_cpus(sys.path(), allowed)
        };
        let all: Vec<usize> = (0..6).collect();
        // Intel: four of performance cores, of which the affinity allows two, or none.
        let intel = [("cpu_core/cpus", "0-2,4\n"), ("cpu_atom/cpus", "3,5\n")];
        assert_eq!(of(&intel, &all), [0, 1, 2, 4]);
        assert_eq!(of(&intel, &[2, 3, 4]), [2, 4]);
        assert_eq!(of(&intel, &[3, 5]), [3, 5]);
        assert_eq!(of(&[("cpu_core/cpus", "what?")], &all), all);
        // By each CPU's own number: capacity before clock.
        let by = |file: &str, values: [&str; 6]| {
            let files: Vec<(String, &str)> =
                (0..6).zip(values).map(|(cpu, value)| (format!("system/cpu/cpu{cpu}/{file}"), value)).collect();
            of(&files.iter().map(|(file, value)| (file.as_str(), *value)).collect::<Vec<_>>(), &all)
        };
        assert_eq!(by("cpu_capacity", ["382\n", "382\n", "905\n", "905\n", "1024\n", "1024\n"]), [2, 3, 4, 5]);
        let clock = "cpufreq/cpuinfo_max_freq";
        assert_eq!(by(clock, ["5100000", "5000000", "3300000", "5100000", "3300000", "3300000"]), [0, 1, 3]);
        assert_eq!(by(clock, ["5800000", "5500000", "5500000", "5500000", "5500000", "5800000"]), all);
        // A system that says nothing, or nothing of some CPU.
        assert_eq!(of(&[], &all), all);
        assert_eq!(of(&[("system/cpu/cpu0/cpu_capacity", "1024")], &all), all);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn threads_run_on_performance_cores_first() {
        let (allowed, fast) = ([0, 1, 2, 3, 4, 5], [1, 3, 4]);
        assert_eq!(places(3, &allowed, &fast), [[1], [3], [4]], "one each");
        assert_eq!(places(2, &allowed, &fast), [fast, fast], "either of them");
        assert_eq!(places(6, &allowed, &fast), [[1], [3], [4], [0], [2], [5]]);
        assert!(places(4, &allowed, &fast).is_empty() && places(7, &allowed, &fast).is_empty());
        assert!(places(2, &allowed, &allowed).is_empty(), "of one kind: the system places them");
        assert_eq!(places(6, &allowed, &allowed), [[0], [1], [2], [3], [4], [5]]);
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
