//! The pods, requests and metrics that the autoscaler controls.

use std::fmt;

use hdrhistogram::Histogram;

use crate::hpa::{Autoscaler, Spec, desired};

/// Seconds between scrapes, and between decisions of the autoscaler
/// (`--horizontal-pod-autoscaler-sync-period`).
const PERIOD: f64 = 15.0;

/// The metric that the autoscaler uses, with its target.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Metric {
    /// CPU time relative to the request, as metrics-server reports it: the mean between two
    /// scrapes.
    Cpu(f64),
    /// `gte_utilization_ratio`: share of the last ten seconds in which the compute thread was busy.
    Utilization(f64),
    /// `gte_queue_delay_seconds`: how long a request that arrives at the time of the scrape would
    /// wait.
    QueueDelay(f64),
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu(share) => write!(f, "CPU {:.0} %", 100.0 * share),
            Self::Utilization(share) => write!(f, "utilization {share}"),
            Self::QueueDelay(seconds) => write!(f, "queue delay {seconds} s"),
        }
    }
}

/// The pods, and how they are scaled.
pub(crate) struct Plant {
    /// Tokens per second of one pod.
    pub(crate) speed: f64,
    /// Lengths of the requests in tokens.
    pub(crate) lengths: Vec<f64>,
    /// Seconds until a pod is ready.
    pub(crate) start: f64,
    /// A request that would wait longer than this many seconds is refused.
    pub(crate) timeout: f64,
    pub(crate) seed: u64,
    pub(crate) spec: Spec,
}

/// The results of a day.
pub(crate) struct Day {
    latency: Histogram<u64>, // milliseconds
    pub(crate) refused: u64,
    pub(crate) pod_seconds: f64,
    work: f64,
    /// At the end of each minute.
    pub(crate) replicas: Vec<usize>,
    /// In seconds, over the requests that arrived in each minute.
    pub(crate) p99: Vec<f64>,
}

impl Day {
    pub(crate) fn quantile(&self, q: f64) -> f64 {
        self.latency.value_at_quantile(q) as f64 / 1e3
    }

    pub(crate) fn requests(&self) -> u64 {
        self.latency.len() + self.refused
    }

    pub(crate) fn most(&self) -> usize {
        self.replicas.iter().copied().max().unwrap_or(0)
    }

    /// Share of the pods' time that was spent computing.
    pub(crate) fn busy(&self) -> f64 {
        self.work / self.pod_seconds
    }

    /// Share of minutes whose 99th percentile was within `seconds`.
    pub(crate) fn within(&self, seconds: f64) -> f64 {
        self.p99.iter().filter(|&&p| p <= seconds).count() as f64 / self.p99.len().max(1) as f64
    }
}

/// A pod: first come, first served.
struct Pod {
    ready: f64,
    /// When the pod will have finished its requests.
    free: f64,
    /// Seconds of work of all its requests.
    given: f64,
    /// Work done at the last scrape, and ten seconds before it.
    scraped: Option<f64>,
    ten_before: f64,
    metrics: Option<[f64; 3]>,
}

impl Pod {
    fn new(ready: f64) -> Self {
        Self { ready, free: ready, given: 0.0, scraped: None, ten_before: 0.0, metrics: None }
    }

    /// Seconds of work done until `now`.
    fn done(&self, now: f64) -> f64 {
        self.given - (self.free - now).max(0.0)
    }

    fn scrape(&mut self, now: f64) {
        let done = self.done(now);
        if let Some(before) = self.scraped {
            let ten = (done - self.ten_before) / 10.0;
            self.metrics = Some([(done - before) / PERIOD, ten.min(1.0), (self.free - now).max(0.0)]);
        }
        self.scraped = Some(done);
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014), converted to numbers in 0..1.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn below(&mut self, n: usize) -> usize {
        ((self.next() * n as f64) as usize).min(n - 1)
    }
}

/// Simulates a day of `plant` under `curve`, the requests per second in each second, scaled by
/// `metrics`.
pub(crate) fn simulate(plant: &Plant, curve: &[f64], metrics: &[Metric]) -> Day {
    let histogram = || Histogram::<u64>::new_with_max(3_600_000, 3).expect("valid bounds");
    let mut chance = Chance(plant.seed);
    let mut pods: Vec<Pod> = (0..plant.spec.min).map(|_| Pod::new(0.0)).collect();
    let mut autoscaler = Autoscaler::default();
    let mut minute = histogram();
    let mut day =
        Day { latency: histogram(), refused: 0, pod_seconds: 0.0, work: 0.0, replicas: Vec::new(), p99: Vec::new() };
    let mut ready: Vec<usize> = Vec::new();
    for (second, &rate) in curve.iter().enumerate() {
        let (from, to) = (second as f64, second as f64 + 1.0);
        ready.clear();
        ready.extend((0..pods.len()).filter(|&i| pods[i].ready <= from));
        // A Poisson process has no memory, so it may start again with the rate of each second.
        let mut next = from - (1.0 - chance.next()).ln() / rate.max(1e-9);
        while next < to {
            let tokens = plant.lengths[chance.below(plant.lengths.len())];
            let service = tokens / plant.speed;
            match ready.len() {
                0 => day.refused += 1,
                n => {
                    let pod = &mut pods[ready[chance.below(n)]];
                    let wait = (pod.free - next).max(0.0);
                    if wait > plant.timeout {
                        day.refused += 1;
                    } else {
                        pod.free = next + wait + service;
                        pod.given += service;
                        day.work += service;
                        let ms = ((wait + service) * 1e3) as u64;
                        minute.saturating_record(ms);
                        day.latency.saturating_record(ms);
                    }
                }
            }
            next -= (1.0 - chance.next()).ln() / rate.max(1e-9);
        }
        day.pod_seconds += pods.len() as f64;
        let phase = (second + 1) as f64 % PERIOD;
        if phase == PERIOD - 10.0 {
            pods.iter_mut().for_each(|pod| pod.ten_before = pod.done(to));
        }
        if phase == 0.0 {
            pods.iter_mut().filter(|pod| pod.ready <= to).for_each(|pod| pod.scrape(to));
        }
        // The autoscaler has its own clock, half a period after the scrape.
        if phase == (PERIOD / 2.0).floor() {
            scale(plant, &mut pods, &mut autoscaler, metrics, to, &mut day);
        }
        if (second + 1) % 60 == 0 {
            day.replicas.push(pods.len());
            day.p99.push(if minute.is_empty() { 0.0 } else { minute.value_at_quantile(0.99) as f64 / 1e3 });
            minute.reset();
        }
    }
    day
}

fn scale(plant: &Plant, pods: &mut Vec<Pod>, autoscaler: &mut Autoscaler, metrics: &[Metric], now: f64, day: &mut Day) {
    let asked = metrics
        .iter()
        .map(|metric| {
            let (index, target) = match *metric {
                Metric::Cpu(target) => (0, target),
                Metric::Utilization(target) => (1, target),
                Metric::QueueDelay(target) => (2, target),
            };
            let values: Vec<f64> = pods.iter().filter_map(|pod| pod.metrics.map(|m| m[index])).collect();
            desired(pods.len(), &values, pods.len() - values.len(), target)
        })
        .max()
        .unwrap_or(pods.len());
    let count = autoscaler.decide(&plant.spec, now, pods.len(), asked);
    while pods.len() < count {
        pods.push(Pod::new(now + plant.start));
    }
    // The youngest pods are removed first. A removed pod finishes its requests, and its time still
    // costs.
    for gone in pods.drain(count..) {
        day.pod_seconds += (gone.free - now).max(0.0);
    }
}
