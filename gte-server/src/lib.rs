//! `serve`: not ready → drain → exit. The caller owns the socket and the stop signal.

pub mod api;
mod body;
mod cache;
pub mod config;
mod connections;
pub mod environment;
pub mod error;
mod guard;
pub mod jobs;
mod json;
pub mod metrics;
mod pages;
mod reading;
mod refusal;
mod registry;
pub mod routes;
mod scheduler;
mod service;
pub mod telemetry;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum_server::Handle;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use gte_core::{ModelFiles, ModelTask, Threads, Tokens};

use crate::cache::Cache;
use crate::config::{Config, ModelSettings};
use crate::connections::Room;
use crate::error::Error;
use crate::jobs::Jobs;
use crate::metrics::Metrics;
use crate::registry::{Model, Registry};
use crate::scheduler::{Limits, Scheduler};
use crate::service::{Service, promised_texts};

/// Fetches the files of the models where they are missing, and verifies them.
///
/// # Errors
/// One line that says what is wrong.
pub fn download(config: &Config) -> Result<(), String> {
    for settings in config.models()? {
        let options = registry::hub(&settings, config).map_err(|e| e.to_string())?;
        let files = ModelFiles::open(&settings.id, &options).map_err(|e| e.to_string())?;
        // What cannot be read as a model is found here, not when a pod starts.
        ModelTask::of(&files, settings.pooling).map_err(|e| e.to_string())?;
        tracing::info!(model = files.name(), "the model is complete");
    }
    Ok(())
}

/// Loads the first model and starts the queue; `jobs` is the broker of `--nats` or `--worker`, if there is one. The
/// others are loaded by [`load_others`].
///
/// # Errors
/// One line that says what is wrong.
pub fn load(config: Config, jobs: Option<Jobs>) -> Result<Arc<Service>, String> {
    config.check()?;
    let keys = config.keys()?;
    let metrics = Arc::new(Metrics::new());
    let limits = Limits {
        requests: config.queue_requests,
        texts: config.queue_texts,
        tokens: config.queue_tokens,
        timeout: config.timeout(),
    };
    let scheduler = Scheduler::start(metrics.clone(), limits).map_err(|e| format!("no compute thread: {e}"))?;
    let service = Arc::new(Service {
        jobs,
        registry: Registry::new(config.models()?),
        scheduler,
        cache: Cache::new(config.cache_mb),
        metrics,
        keys: keys.into(),
        draining: AtomicBool::new(false),
        threads: Threads::new(config.threads).map_err(|e| e.to_string())?,
        config,
    });
    if let Some(first) = service.registry.settings().next() {
        add(&service, 0, first, None)?;
    }
    Ok(service)
}

/// Loads the models behind the first one, while that one serves: on a thread that gives way to all others.
///
/// # Errors
/// One line that says what is wrong.
pub fn load_others(service: &Service) -> Result<(), String> {
    for (number, settings) in service.registry.settings().enumerate().skip(1) {
        let loading = Threads::background().map_err(|e| e.to_string())?;
        add(service, number, settings, Some(&loading))?;
    }
    Ok(())
}

/// Loads a model, warms it, and takes requests for it.
fn add(service: &Service, number: usize, settings: &ModelSettings, loading: Option<&Threads>) -> Result<(), String> {
    let (config, threads) = (&service.config, &service.threads);
    let model = Model::load(number, settings, config, &service.metrics, threads, loading)?;
    let model = Arc::new(model);
    let speed = warm(service, &model).map_err(|e| format!("{}: {e}", model.name))?;
    let max_length = model.engine().tokenizer().max_length();
    let _ = model.promised_texts.set(promised_texts(config, max_length, speed));
    let engine = model.engine();
    tracing::info!(
        model = model.name, task = model.task().name(), dimensions = model.dimensions(), max_length,
        precision = %engine.precision(), asked = %config.precision, "model ready{}",
        model.note.map(|note| format!(": {note}")).unwrap_or_default()
    );
    service.registry.insert(model)
}

/// Tokens of a text that a model is warmed with, at most: its longest may take half a minute.
const WARM: usize = 512;

/// Computes full batches, so that memory does not grow with the first requests. Returns the speed of the second, in
/// tokens per second, by which requests are refused that take too long. Where another model serves already, they wait
/// for their turn among its requests.
fn warm(service: &Service, model: &Arc<Model>) -> Result<f64, Error> {
    let longest = model.engine().tokenizer().max_length().min(WARM);
    let tokens = model.budget().max(longest);
    let text = |first: usize| Arc::new(Tokens::from_ids(vec![0; longest.min(tokens - first)], longest));
    let batch: Vec<_> = (0..tokens).step_by(longest).map(text).collect();
    service.scheduler.add(model.clone());
    service.scheduler.warm(model.number, &batch)?;
    service.scheduler.warm(model.number, &batch)
}

/// Answers requests on `listener` until `shutdown`. Then `/readyz` says so, the listener stays open for `--drain-delay`, and what
/// was admitted is finished within `--drain-timeout`.
///
/// # Errors
/// A certificate that is none; where the listener fails.
pub async fn serve(
    listener: std::net::TcpListener,
    service: Arc<Service>,
    tls: Option<RustlsConfig>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let config = &service.config;
    let (delay, timeout) = (Duration::from_secs(config.drain_delay), Duration::from_secs(config.drain_timeout));
    let handle = Handle::new();
    let (draining, stopping) = (service.clone(), handle.clone());
    tokio::spawn(async move {
        shutdown.await;
        draining.draining.store(true, Ordering::Relaxed);
        tracing::info!(delay_s = delay.as_secs(), "draining: not ready any more");
        tokio::time::sleep(delay).await;
        stopping.graceful_shutdown(Some(timeout));
    });
    let worker = match (&config.worker, &service.jobs) {
        (Some(_), Some(jobs)) => Some(tokio::spawn(jobs::worker::work(service.clone(), jobs.clone()))),
        _ => None,
    };
    let room = Room::new(config.max_connections, service.metrics.clone());
    let app = routes::app(service.clone()).into_make_service();
    let mut server = axum_server::from_tcp(listener)?
        .handle(handle)
        .first_request_timeout(Duration::from_secs(config.header_timeout));
    // hyper's one timer for the head of a request runs from the end of the request before: it bounds idleness too.
    server.http_builder().http1().header_read_timeout(Duration::from_secs(config.idle_timeout));
    match tls {
        None => server.acceptor(room).serve(app).await?,
        Some(tls) => server.acceptor(RustlsAcceptor::new(tls).acceptor(room)).serve(app).await?,
    }
    if let Some(worker) = worker {
        // What it has pulled is finished, as long as other requests are given.
        let _ = tokio::time::timeout(timeout, worker).await;
    }
    let closing = service.clone();
    let _ = tokio::task::spawn_blocking(move || closing.scheduler.close()).await;
    Ok(())
}

/// The broker of `--nats` or `--worker`, if one is given; it need not be there yet.
///
/// # Errors
/// An address that is none.
pub async fn jobs(config: &Config) -> Result<Option<Jobs>, String> {
    match config.nats.as_ref().or(config.worker.as_ref()) {
        Some(address) => Jobs::connect(address).await.map(Some),
        None => Ok(None),
    }
}

/// The certificate and key of `--tls-cert` and `--tls-key`, if they are given.
///
/// # Errors
/// Files that cannot be read or do not hold what they should.
pub async fn tls(config: &Config) -> Result<Option<RustlsConfig>, String> {
    let (Some(cert), Some(key)) = (&config.tls_cert, &config.tls_key) else { return Ok(None) };
    let read = RustlsConfig::from_pem_file(cert, key).await;
    read.map(Some).map_err(|e| format!("--tls-cert {}, --tls-key {}: {e}", cert.display(), key.display()))
}
