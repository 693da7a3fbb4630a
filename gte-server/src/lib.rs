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

/// Downloads the files of the models that are missing, and verifies them.
///
/// # Errors
/// One line that says what is wrong.
pub fn download(config: &Config) -> Result<(), String> {
    for settings in config.models()? {
        let options = registry::hub(&settings, config).map_err(|e| e.to_string())?;
        let files = ModelFiles::open(&settings.id, &options).map_err(|e| e.to_string())?;
        // Files that cannot be read as a model are found here rather than when a pod starts.
        ModelTask::of(&files, settings.pooling).map_err(|e| e.to_string())?;
        tracing::info!(model = files.name(), "model files complete");
    }
    Ok(())
}

/// Loads the first model and starts the queue. `jobs` is the broker given by `--nats` or
/// `--worker`, if any. The other models are loaded by [`load_others`].
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
    let scheduler =
        Scheduler::start(metrics.clone(), limits).map_err(|e| format!("cannot start the compute thread: {e}"))?;
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

/// Loads the other models while the first one serves requests, on a thread with the lowest
/// priority.
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

/// Loads a model, warms it up, and accepts requests for it.
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
        device = %engine.device(), precision = %engine.precision(), requested = %config.precision, "model ready{}",
        model.note.map(|note| format!(": {note}")).unwrap_or_default()
    );
    service.registry.insert(model)
}

/// Maximum length of the warm-up texts, in tokens. The longest text of a model may take half a
/// minute.
const WARM: usize = 512;

/// Computes two full batches, so that memory does not grow with the first requests. Returns the
/// speed of the second one in tokens per second, by which requests that would take too long are
/// refused. If another model already serves requests, the batches wait for their turn among them.
fn warm(service: &Service, model: &Arc<Model>) -> Result<f64, Error> {
    let longest = model.engine().tokenizer().max_length().min(WARM);
    let tokens = model.max_batch_tokens().max(longest);
    let text = |first: usize| Arc::new(Tokens::from_ids(vec![0; longest.min(tokens - first)], longest));
    let batch: Vec<_> = (0..tokens).step_by(longest).map(text).collect();
    service.scheduler.add(model.clone());
    service.scheduler.warm(model.number, &batch)?;
    service.scheduler.warm(model.number, &batch)
}

/// Answers requests on `listener` until `shutdown`. Then `/readyz` fails, the listener stays open
/// for `--drain-delay`, and the admitted requests are finished within `--drain-timeout`.
///
/// # Errors
/// An invalid certificate; a failure of the listener.
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
        tracing::info!(delay_s = delay.as_secs(), "draining: no longer ready");
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
    // hyper has one timer for the head of a request, and it starts at the end of the previous
    // request. It therefore bounds idle time too.
    server.http_builder().http1().header_read_timeout(Duration::from_secs(config.idle_timeout));
    match tls {
        None => server.acceptor(room).serve(app).await?,
        Some(tls) => server.acceptor(RustlsAcceptor::new(tls).acceptor(room)).serve(app).await?,
    }
    if let Some(worker) = worker {
        // The worker may finish the job that it has fetched, within the time that other requests
        // have.
        let _ = tokio::time::timeout(timeout, worker).await;
    }
    let closing = service.clone();
    let _ = tokio::task::spawn_blocking(move || closing.scheduler.close()).await;
    Ok(())
}

/// Connects to the broker given by `--nats` or `--worker`, if any. The broker may start later than
/// the server.
///
/// # Errors
/// An invalid address.
pub async fn jobs(config: &Config) -> Result<Option<Jobs>, String> {
    match config.nats.as_ref().or(config.worker.as_ref()) {
        Some(address) => Jobs::connect(address).await.map(Some),
        None => Ok(None),
    }
}

/// Reads the certificate and the key given by `--tls-cert` and `--tls-key`, if any.
///
/// # Errors
/// Files that cannot be read or have the wrong content.
pub async fn tls(config: &Config) -> Result<Option<RustlsConfig>, String> {
    let (Some(cert), Some(key)) = (&config.tls_cert, &config.tls_key) else { return Ok(None) };
    let read = RustlsConfig::from_pem_file(cert, key).await;
    read.map(Some).map_err(|e| format!("--tls-cert {}, --tls-key {}: {e}", cert.display(), key.display()))
}
