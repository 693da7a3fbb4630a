//! Every metric: name, help, buckets. Base units; the prefix `gte_` is the registry's. Those of the process have the names that every
//! Prometheus client gives them.

use std::sync::atomic::AtomicU64;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

/// A gauge of fractions and seconds.
type FloatGauge = Gauge<f64, AtomicU64>;

/// Labels of a request.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct RequestLabels {
    /// The route's pattern, never the path that was asked for.
    pub route: String,
    /// HTTP status.
    pub status: u16,
}

/// The metrics of a server.
pub struct Metrics {
    registry: Registry,
    /// Requests by route and status.
    pub requests: Family<RequestLabels, Counter>,
    /// Whole requests, from the first byte to the last, by route.
    pub request_seconds: Family<[(&'static str, String); 1], Histogram>,
    /// Tokenizing, per request.
    pub tokenize_seconds: Histogram,
    /// Waiting for the compute thread, per request.
    pub queue_seconds: Histogram,
    /// Forward passes.
    pub compute_seconds: Histogram,
    /// Tokens in a batch.
    pub batch_tokens: Histogram,
    /// Texts in a batch.
    pub batch_texts: Histogram,
    /// Requests that wait.
    pub queued_requests: Gauge,
    /// Texts that wait.
    pub queued_texts: Gauge,
    /// Tokens that wait.
    pub queued_tokens: Gauge,
    /// Requests that are being answered.
    pub in_flight: Gauge,
    /// Connections that are open.
    pub connections: Gauge,
    /// Connections that were closed for want of room.
    pub refused_connections: Counter,
    /// Tokens computed.
    pub tokens: Counter,
    /// Texts computed.
    pub texts: Counter,
    /// Texts that were cut.
    pub truncated_texts: Counter,
    /// Texts of jobs whose vectors were stored.
    pub job_texts: Counter,
    /// Texts of jobs that were given up.
    pub failed_job_texts: Counter,
    /// Share of the last window in which the compute thread was busy.
    pub utilization: FloatGauge,
    /// How long a request that arrives now will wait.
    pub queue_delay: FloatGauge,
    /// Speed of the forward pass, without padding.
    pub tokens_per_second: FloatGauge,
    /// Time to load the model.
    pub model_load: FloatGauge,
}

impl Metrics {
    /// Registers all of them; `model` describes what is served.
    pub fn new(model: Vec<(&'static str, String)>) -> Self {
        let seconds: fn() -> Histogram = || Histogram::new(exponential_buckets(0.001, 1.6, 25)); // 1 ms to 79 s
        let tokens = || Histogram::new(exponential_buckets(1.0, 2.0, 15)); // 1 to 16384
        let mut metrics = Self {
            registry: Registry::default(),
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(seconds),
            tokenize_seconds: Histogram::new(exponential_buckets(0.000_01, 2.0, 20)), // 10 µs to 5 s
            queue_seconds: seconds(),
            compute_seconds: seconds(),
            batch_tokens: tokens(),
            batch_texts: tokens(),
            queued_requests: Gauge::default(),
            queued_texts: Gauge::default(),
            queued_tokens: Gauge::default(),
            in_flight: Gauge::default(),
            connections: Gauge::default(),
            refused_connections: Counter::default(),
            tokens: Counter::default(),
            texts: Counter::default(),
            truncated_texts: Counter::default(),
            job_texts: Counter::default(),
            failed_job_texts: Counter::default(),
            utilization: Gauge::default(),
            queue_delay: Gauge::default(),
            tokens_per_second: Gauge::default(),
            model_load: Gauge::default(),
        };
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Process));
        let r = registry.sub_registry_with_prefix("gte");
        r.register("requests", "Requests by route and status", metrics.requests.clone());
        r.register_with_unit(
            "request",
            "Time from a request's arrival to its answer, by route",
            Unit::Seconds,
            metrics.request_seconds.clone(),
        );
        r.register_with_unit(
            "tokenize",
            "Time to tokenize a request's texts",
            Unit::Seconds,
            metrics.tokenize_seconds.clone(),
        );
        r.register_with_unit(
            "queue",
            "Time that a request waited for the compute thread",
            Unit::Seconds,
            metrics.queue_seconds.clone(),
        );
        r.register_with_unit("compute", "Time of a forward pass", Unit::Seconds, metrics.compute_seconds.clone());
        r.register("batch_tokens", "Tokens computed together", metrics.batch_tokens.clone());
        r.register("batch_texts", "Texts computed together", metrics.batch_texts.clone());
        r.register("queued_requests", "Requests that wait", metrics.queued_requests.clone());
        r.register("queued_texts", "Texts that wait", metrics.queued_texts.clone());
        r.register("queued_tokens", "Tokens that wait", metrics.queued_tokens.clone());
        r.register("in_flight_requests", "Requests that are being answered", metrics.in_flight.clone());
        r.register("connections", "Connections that are open", metrics.connections.clone());
        r.register(
            "refused_connections",
            "Connections closed because --max-connections were open",
            metrics.refused_connections.clone(),
        );
        r.register("tokens", "Tokens computed", metrics.tokens.clone());
        r.register("texts", "Texts computed", metrics.texts.clone());
        r.register(
            "truncated_texts",
            "Texts that were longer than the limit and were cut",
            metrics.truncated_texts.clone(),
        );
        r.register("job_texts", "Texts of jobs whose vectors were stored", metrics.job_texts.clone());
        r.register("failed_job_texts", "Texts of jobs that were given up", metrics.failed_job_texts.clone());
        r.register(
            "utilization_ratio",
            "Share of the last window in which the compute thread was busy",
            metrics.utilization.clone(),
        );
        r.register_with_unit(
            "queue_delay",
            "Predicted wait of a request that arrives now",
            Unit::Seconds,
            metrics.queue_delay.clone(),
        );
        r.register(
            "tokens_per_second",
            "Measured speed of the forward pass; nothing is padded",
            metrics.tokens_per_second.clone(),
        );
        r.register_with_unit(
            "model_load",
            "Time that it took to load the model",
            Unit::Seconds,
            metrics.model_load.clone(),
        );
        r.register("model", "The model that is served", Info::new(model));
        r.register("build", "The server's build", Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]));
        metrics.registry = registry;
        metrics
    }

    /// All metrics in the text format of Prometheus.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}

/// What the system says of this process, asked when the metrics are read.
#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        // Where there is no /proc there are no such metrics.
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
            gauge("process_start_time", "Start, in seconds since 1970", Some(&Unit::Seconds), start)?;
        }
        Ok(())
    }
}
