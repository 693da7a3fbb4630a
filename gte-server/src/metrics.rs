//! Every metric: name, help, buckets. Base units; the prefix `gte_` is the registry's.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
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
    pub route: &'static str,
    /// HTTP status.
    pub status: u16,
}

/// The metrics of a server.
pub struct Metrics {
    registry: Registry,
    /// Requests by route and status.
    pub requests: Family<RequestLabels, Counter>,
    /// Whole requests, from the first byte to the last.
    pub request_seconds: Histogram,
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
    /// Tokens computed.
    pub tokens: Counter,
    /// Texts computed.
    pub texts: Counter,
    /// Texts that were cut.
    pub truncated_texts: Counter,
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
        let seconds = || Histogram::new(exponential_buckets(0.001, 1.6, 24)); // 1 ms to 49 s
        let tokens = || Histogram::new(exponential_buckets(1.0, 2.0, 15)); // 1 to 16384
        let mut metrics = Self {
            registry: Registry::default(),
            requests: Family::default(),
            request_seconds: seconds(),
            tokenize_seconds: Histogram::new(exponential_buckets(0.000_01, 2.0, 20)), // 10 µs to 5 s
            queue_seconds: seconds(),
            compute_seconds: seconds(),
            batch_tokens: tokens(),
            batch_texts: tokens(),
            queued_requests: Gauge::default(),
            queued_texts: Gauge::default(),
            queued_tokens: Gauge::default(),
            in_flight: Gauge::default(),
            tokens: Counter::default(),
            texts: Counter::default(),
            truncated_texts: Counter::default(),
            utilization: Gauge::default(),
            queue_delay: Gauge::default(),
            tokens_per_second: Gauge::default(),
            model_load: Gauge::default(),
        };
        let r = &mut Registry::with_prefix("gte");
        r.register("requests", "Requests by route and status", metrics.requests.clone());
        r.register_with_unit(
            "request",
            "Time from a request's arrival to its answer",
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
        r.register("tokens", "Tokens computed", metrics.tokens.clone());
        r.register("texts", "Texts computed", metrics.texts.clone());
        r.register(
            "truncated_texts",
            "Texts that were longer than the limit and were cut",
            metrics.truncated_texts.clone(),
        );
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
        metrics.registry = std::mem::take(r);
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
