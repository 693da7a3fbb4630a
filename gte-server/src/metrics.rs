//! Every metric with its name, help text and buckets. Units are base units, and the registry adds
//! the prefix `gte_`. Metrics of the process have the same names as in every Prometheus client.

use std::cell::RefCell;
use std::sync::atomic::AtomicU64;

use gte_core::DeviceState;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

/// A gauge with fractional values.
type FloatGauge = Gauge<f64, AtomicU64>;

/// Labels of a request.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct RequestLabels {
    /// The route's pattern, never the requested path.
    pub route: String,
    /// HTTP status.
    pub status: u16,
    /// The model that answered; empty for a request without a model.
    pub model: String,
}

/// Labels of a request's time.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct RouteLabels {
    /// The route's pattern.
    pub route: String,
    /// The model that answered; empty for a request without a model.
    pub model: String,
}

/// The label of metrics that exist for each model.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ModelLabel {
    model: String,
}

/// A model's properties, as labels.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ModelInfo {
    /// Its name in requests.
    pub model: String,
    /// The hub id, or the directory's name.
    pub name: String,
    /// embedder, reranker or classifier.
    pub task: String,
    /// Values per vector; labels of a reranker or classifier.
    pub dimensions: usize,
    /// Type of the matrix products.
    pub precision: String,
    /// Instruction set of the kernels.
    pub isa: String,
    /// The device that computes the model: cpu, cuda:0 …
    pub device: String,
}

/// The metrics of one model.
pub struct ModelMetrics {
    /// Tokenizing, per request.
    pub tokenize_seconds: Histogram,
    /// Waiting for the compute thread, per request.
    pub queue_seconds: Histogram,
    /// Duration of a forward pass.
    pub compute_seconds: Histogram,
    /// Tokens in a batch.
    pub tokens_per_batch: Histogram,
    /// Texts in a batch.
    pub texts_per_batch: Histogram,
    /// Requests that wait.
    pub queued_requests: Gauge,
    /// Texts that wait.
    pub queued_texts: Gauge,
    /// Tokens that wait.
    pub queued_tokens: Gauge,
    /// Tokens computed.
    pub tokens: Counter,
    /// Texts computed.
    pub texts: Counter,
    /// Texts that were cut.
    pub truncated_texts: Counter,
    /// Texts that equal another text of the same request.
    pub repeated_texts: Counter,
    /// Texts whose outputs were in the cache.
    pub cache_hits: Counter,
    /// Texts whose outputs were not in the cache.
    pub cache_misses: Counter,
    /// Texts of jobs whose vectors were stored.
    pub job_texts: Counter,
    /// Texts of jobs that failed.
    pub failed_job_texts: Counter,
    /// Speed of the forward pass, without padding.
    pub tokens_per_second: FloatGauge,
    /// Time to load the model.
    pub model_load: FloatGauge,
}

/// A GPU.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct DeviceLabels {
    device: String,
    name: String,
}

type ByModel<M> = Family<ModelLabel, M, fn() -> M>;

/// The metrics of a server.
pub struct Metrics {
    registry: Registry,
    /// Requests by route, status and model.
    pub requests: Family<RequestLabels, Counter>,
    /// Whole requests, from the first byte to the last, by route and model.
    pub request_seconds: Family<RouteLabels, Histogram>,
    /// Requests that are being processed.
    pub in_flight: Gauge,
    /// Open connections.
    pub connections: Gauge,
    /// Connections closed because `--max-connections` was reached.
    pub refused_connections: Counter,
    /// Share of the last ten seconds in which the compute thread was busy.
    pub utilization: FloatGauge,
    /// How long a request that arrives now will wait.
    pub queue_delay: FloatGauge,
    /// Memory of the cache's entries.
    pub cache_bytes: Gauge,
    device_memory: Family<DeviceLabels, Gauge>,
    device_memory_free: Family<DeviceLabels, Gauge>,
    device_utilization: Family<DeviceLabels, FloatGauge>,
    info: Family<ModelInfo, Gauge>,
    tokenize_seconds: ByModel<Histogram>,
    queue_seconds: ByModel<Histogram>,
    compute_seconds: ByModel<Histogram>,
    tokens_per_batch: ByModel<Histogram>,
    texts_per_batch: ByModel<Histogram>,
    queued_requests: ByModel<Gauge>,
    queued_texts: ByModel<Gauge>,
    queued_tokens: ByModel<Gauge>,
    tokens: ByModel<Counter>,
    texts: ByModel<Counter>,
    truncated_texts: ByModel<Counter>,
    repeated_texts: ByModel<Counter>,
    cache_hits: ByModel<Counter>,
    cache_misses: ByModel<Counter>,
    job_texts: ByModel<Counter>,
    failed_job_texts: ByModel<Counter>,
    tokens_per_second: ByModel<FloatGauge>,
    model_load: ByModel<FloatGauge>,
}

/// Buckets from 1 ms to 79 s.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 1.6, 25))
}

/// Buckets from 10 µs to 5 s.
fn short_seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.000_01, 2.0, 20))
}

/// Buckets from 1 to 16384.
fn counts() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 2.0, 15))
}

fn by_model<M>(new: fn() -> M) -> ByModel<M> {
    Family::new_with_constructor(new)
}

impl Metrics {
    /// Creates and registers all metrics.
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(seconds),
            in_flight: Gauge::default(),
            connections: Gauge::default(),
            refused_connections: Counter::default(),
            utilization: Gauge::default(),
            queue_delay: Gauge::default(),
            cache_bytes: Gauge::default(),
            device_memory: Family::default(),
            device_memory_free: Family::default(),
            device_utilization: Family::default(),
            info: Family::default(),
            tokenize_seconds: by_model(short_seconds),
            queue_seconds: by_model(seconds),
            compute_seconds: by_model(seconds),
            tokens_per_batch: by_model(counts),
            texts_per_batch: by_model(counts),
            queued_requests: by_model(Gauge::default),
            queued_texts: by_model(Gauge::default),
            queued_tokens: by_model(Gauge::default),
            tokens: by_model(Counter::default),
            texts: by_model(Counter::default),
            truncated_texts: by_model(Counter::default),
            repeated_texts: by_model(Counter::default),
            cache_hits: by_model(Counter::default),
            cache_misses: by_model(Counter::default),
            job_texts: by_model(Counter::default),
            failed_job_texts: by_model(Counter::default),
            tokens_per_second: by_model(FloatGauge::default),
            model_load: by_model(FloatGauge::default),
        };
        metrics.registry = metrics.registered();
        metrics
    }

    fn registered(&self) -> Registry {
        let mut registry = Registry::default();
        #[cfg(target_os = "linux")]
        registry.register_collector(Box::new(process::Process));
        let r = registry.sub_registry_with_prefix("gte");
        r.register("requests", "Requests by route, status and model", self.requests.clone());
        let mut time = |name, help, metric: &ByModel<Histogram>| {
            r.register_with_unit(name, help, Unit::Seconds, metric.clone());
        };
        time("tokenize", "Time to tokenize a request's texts", &self.tokenize_seconds);
        time("queue", "Time a request waited for the compute thread", &self.queue_seconds);
        time("compute", "Time of a forward pass", &self.compute_seconds);
        let request = "Time from a request's arrival to its answer, by route and model";
        r.register_with_unit("request", request, Unit::Seconds, self.request_seconds.clone());
        r.register("batch_tokens", "Tokens computed together", self.tokens_per_batch.clone());
        r.register("batch_texts", "Texts computed together", self.texts_per_batch.clone());
        r.register("queued_requests", "Waiting requests", self.queued_requests.clone());
        r.register("queued_texts", "Waiting texts", self.queued_texts.clone());
        r.register("queued_tokens", "Waiting tokens", self.queued_tokens.clone());
        r.register("in_flight_requests", "Requests being processed", self.in_flight.clone());
        r.register("connections", "Open connections", self.connections.clone());
        let refused = "Connections closed because --max-connections was reached";
        r.register("refused_connections", refused, self.refused_connections.clone());
        r.register("tokens", "Tokens computed", self.tokens.clone());
        r.register("texts", "Texts computed", self.texts.clone());
        let truncated = "Texts that were longer than the limit and were cut";
        r.register("truncated_texts", truncated, self.truncated_texts.clone());
        let repeated = "Texts equal to another text of the same request, which are computed once";
        r.register("repeated_texts", repeated, self.repeated_texts.clone());
        r.register("cache_hits", "Texts whose outputs were in the cache", self.cache_hits.clone());
        r.register("cache_misses", "Texts whose outputs were not in the cache", self.cache_misses.clone());
        r.register_with_unit("cache", "Memory of the cache's entries", Unit::Bytes, self.cache_bytes.clone());
        r.register("job_texts", "Texts of jobs whose vectors were stored", self.job_texts.clone());
        r.register("failed_job_texts", "Texts of jobs that failed", self.failed_job_texts.clone());
        let utilization = "Share of the last ten seconds in which the compute thread was busy";
        r.register("utilization_ratio", utilization, self.utilization.clone());
        let delay = "Predicted wait of a request that arrives now";
        r.register_with_unit("queue_delay", delay, Unit::Seconds, self.queue_delay.clone());
        let speed = "Measured speed of forward passes, which have no padding";
        r.register("tokens_per_second", speed, self.tokens_per_second.clone());
        r.register_with_unit("device_memory", "Memory of a GPU", Unit::Bytes, self.device_memory.clone());
        let free = "Memory of a GPU that no process has";
        r.register_with_unit("device_memory_free", free, Unit::Bytes, self.device_memory_free.clone());
        let computing = "Share of the last moments in which a GPU computed, where NVIDIA's management library tells";
        r.register("device_utilization_ratio", computing, self.device_utilization.clone());
        let load = "Time taken to load the model";
        r.register_with_unit("model_load", load, Unit::Seconds, self.model_load.clone());
        r.register("model_info", "Properties of each model; the value is always 1", self.info.clone());
        r.register("build", "The server's build", Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]));
        registry
    }

    /// Creates the metrics of a model, which are exported from now on.
    pub fn of_model(&self, info: ModelInfo) -> ModelMetrics {
        let label = ModelLabel { model: info.model.clone() };
        self.info.get_or_create(&info).set(1);
        ModelMetrics {
            tokenize_seconds: self.tokenize_seconds.get_or_create_owned(&label),
            queue_seconds: self.queue_seconds.get_or_create_owned(&label),
            compute_seconds: self.compute_seconds.get_or_create_owned(&label),
            tokens_per_batch: self.tokens_per_batch.get_or_create_owned(&label),
            texts_per_batch: self.texts_per_batch.get_or_create_owned(&label),
            queued_requests: self.queued_requests.get_or_create_owned(&label),
            queued_texts: self.queued_texts.get_or_create_owned(&label),
            queued_tokens: self.queued_tokens.get_or_create_owned(&label),
            tokens: self.tokens.get_or_create_owned(&label),
            texts: self.texts.get_or_create_owned(&label),
            truncated_texts: self.truncated_texts.get_or_create_owned(&label),
            repeated_texts: self.repeated_texts.get_or_create_owned(&label),
            cache_hits: self.cache_hits.get_or_create_owned(&label),
            cache_misses: self.cache_misses.get_or_create_owned(&label),
            job_texts: self.job_texts.get_or_create_owned(&label),
            failed_job_texts: self.failed_job_texts.get_or_create_owned(&label),
            tokens_per_second: self.tokens_per_second.get_or_create_owned(&label),
            model_load: self.model_load.get_or_create_owned(&label),
        }
    }

    /// Notes what a GPU says of itself.
    pub fn note_device(&self, device: String, state: &DeviceState) {
        let labels = DeviceLabels { device, name: state.name.clone() };
        self.device_memory.get_or_create(&labels).set(state.memory as i64);
        self.device_memory_free.get_or_create(&labels).set(state.free as i64);
        if let Some(utilization) = state.utilization {
            self.device_utilization.get_or_create(&labels).set(utilization.into());
        }
    }

    /// All metrics in the text format of Prometheus.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

tokio::task_local! {
    /// The model of the request that this task answers, once it is known.
    pub(crate) static MODEL: RefCell<String>;
}

/// Sets the model by which the current request is counted.
pub(crate) fn note_model(name: &str) {
    // There is no request when a worker computes a job.
    let _ = MODEL.try_with(|model| name.clone_into(&mut model.borrow_mut()));
}

/// What `/proc` says, which only Linux has: on other systems these metrics do not exist.
#[cfg(target_os = "linux")]
mod process {
    use std::sync::atomic::AtomicU64;

    use prometheus_client::collector::Collector;
    use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::registry::Unit;

    use super::FloatGauge;

    /// Metrics of the process, read from the system whenever the metrics are requested.
    #[derive(Debug)]
    pub(super) struct Process;

    impl Collector for Process {
        fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
            // Without /proc these metrics do not exist.
            let Ok(stat) =
                procfs::process::Process::myself().and_then(|process| process.stat().map(|stat| (process, stat)))
            else {
                return Ok(());
            };
            let (process, stat) = stat;
            let ticks = procfs::ticks_per_second() as f64;
            let cpu = Counter::<f64, AtomicU64>::default();
            cpu.inc_by((stat.utime + stat.stime) as f64 / ticks);
            let name = "process_cpu";
            cpu.encode(encoder.encode_descriptor(
                name,
                "CPU time of this process",
                Some(&Unit::Seconds),
                cpu.metric_type(),
            )?)?;
            let mut gauge = |name, help, unit: Option<&Unit>, value: f64| {
                let gauge = FloatGauge::default();
                gauge.set(value);
                gauge.encode(encoder.encode_descriptor(name, help, unit, gauge.metric_type())?)
            };
            let resident = stat.rss * procfs::page_size();
            gauge("process_resident_memory", "Resident memory", Some(&Unit::Bytes), resident as f64)?;
            gauge("process_virtual_memory", "Virtual memory", Some(&Unit::Bytes), stat.vsize as f64)?;
            if let Ok(count) = process.fd_count() {
                gauge("process_open_fds", "Open files and sockets", None, count as f64)?;
            }
            gauge("process_threads", "Threads", None, stat.num_threads as f64)?;
            if let Ok(boot) = procfs::boot_time_secs() {
                let start = boot as f64 + stat.starttime as f64 / ticks;
                gauge("process_start_time", "Start time in seconds since 1970", Some(&Unit::Seconds), start)?;
            }
            Ok(())
        }
    }
}
