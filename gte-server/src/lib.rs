//! `serve`: not ready → drain → exit. The caller owns the socket and the stop signal.

pub mod api;
pub mod batcher;
mod body;
pub mod config;
mod connections;
pub mod environment;
pub mod error;
mod guard;
pub mod jobs;
mod json;
pub mod metrics;
mod pages;
pub mod routes;
mod service;
pub mod telemetry;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum_server::Handle;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use gte_core::{Budget, Embedder, HubOptions, ModelConfig, ModelFiles};

use crate::batcher::{Batcher, Limits};
use crate::config::Config;
use crate::connections::Room;
use crate::jobs::Jobs;
use crate::metrics::Metrics;
use crate::service::{Service, promised_texts};

/// Fetches the model's files where they are missing, and verifies them.
///
/// # Errors
/// One line that says what is wrong.
pub fn download(config: &Config) -> Result<(), String> {
    let mut options = HubOptions::from_env().map_err(|e| e.to_string())?;
    options.revision.clone_from(&config.revision);
    options.offline = config.offline;
    let files = ModelFiles::open(&config.model(), &options).map_err(|e| e.to_string())?;
    // What cannot be read as a model is found here, not when a pod starts.
    ModelConfig::read(&files, config.pooling).map_err(|e| e.to_string())?;
    tracing::info!(model = files.name(), "the model is complete");
    Ok(())
}

/// Loads the model and starts its queue; `jobs` is the broker of `--nats` or `--worker`, if there is one.
///
/// # Errors
/// One line that says what is wrong.
pub fn load(config: Config, jobs: Option<Jobs>) -> Result<Arc<Service>, String> {
    config.check()?;
    let keys = config.keys()?;
    let start = Instant::now();
    let text = |e: gte_core::Error| e.to_string();
    let mut builder = Embedder::builder(config.model())
        .device(config.device)
        .precision(config.precision)
        .budget(Budget::new(config.batch_tokens).map_err(text)?);
    if let Some(revision) = &config.revision {
        builder = builder.revision(revision);
    }
    if config.offline {
        builder = builder.offline(true);
    }
    if let Some(threads) = config.threads {
        builder = builder.threads(threads);
    }
    if let Some(tokens) = config.max_length {
        builder = builder.max_length(tokens);
    }
    if let Some(pooling) = config.pooling {
        builder = builder.pooling(pooling);
    }
    let embedder = Arc::new(builder.build().map_err(text)?);
    // Warm: the largest batch allocates every buffer, so that memory does not grow later. The second
    // pass is the first measurement of speed, by which requests are refused that take too long.
    let longest = embedder.max_length();
    let tokens = embedder.budget().tokens().max(longest);
    let batch: Vec<_> = (0..tokens).step_by(longest).map(|first| vec![0; longest.min(tokens - first)]).collect();
    embedder.embed_tokens(&batch).map_err(text)?;
    let second = Instant::now();
    embedder.embed_tokens(&batch).map_err(text)?;
    let tokens_per_second = tokens as f64 / second.elapsed().as_secs_f64();
    let metrics = Arc::new(Metrics::new(vec![
        ("name", embedder.name().to_owned()),
        ("dimensions", embedder.dim().to_string()),
        ("precision", embedder.precision().to_string()),
        ("isa", embedder.isa().to_string()),
    ]));
    metrics.model_load.set(start.elapsed().as_secs_f64());
    let limits = Limits {
        requests: config.queue_requests,
        texts: config.queue_texts,
        tokens: config.queue_tokens,
        timeout: config.timeout(),
    };
    let batcher = Batcher::start(embedder.clone(), metrics.clone(), limits, tokens_per_second)
        .map_err(|e| format!("no compute thread: {e}"))?;
    let promised_texts = promised_texts(&config, longest, tokens_per_second);
    Ok(Arc::new(Service {
        jobs,
        promised_texts,
        embedder,
        batcher,
        metrics,
        keys: keys.into(),
        draining: AtomicBool::new(false),
        config,
    }))
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
    let _ = tokio::task::spawn_blocking(move || closing.batcher.close()).await;
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
