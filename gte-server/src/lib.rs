//! `serve`: not ready → drain → exit. The caller owns the socket and the stop signal.

pub mod api;
pub mod batcher;
pub mod config;
pub mod error;
pub mod metrics;
pub mod routes;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gte_core::{Budget, Embedder};
use tokio::net::TcpListener;

use crate::batcher::{Batcher, Limits};
use crate::config::Config;
use crate::metrics::Metrics;
use crate::routes::Service;

/// Loads the model and starts its queue.
///
/// # Errors
/// One line that says what is wrong.
pub fn load(config: Config) -> Result<Arc<Service>, String> {
    config.check()?;
    let keys = config.keys()?;
    let start = Instant::now();
    let text = |e: gte_core::Error| e.to_string();
    let mut builder = Embedder::builder(&config.model)
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
    // Warm: buffers are allocated and pages are touched before the first request.
    embedder.embed_tokens(&[vec![0; embedder.max_length()]]).map_err(text)?;
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
    let batcher =
        Batcher::start(embedder.clone(), metrics.clone(), limits).map_err(|e| format!("no compute thread: {e}"))?;
    Ok(Arc::new(Service { embedder, batcher, metrics, keys: keys.into(), draining: AtomicBool::new(false), config }))
}

/// Answers requests on `listener` until `shutdown`. Then `/readyz` says so, the listener stays open for `--drain-delay`, and what
/// was admitted is finished within `--drain-timeout`.
///
/// # Errors
/// Where the listener fails.
pub async fn serve(
    listener: TcpListener,
    service: Arc<Service>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let (delay, timeout) =
        (Duration::from_secs(service.config.drain_delay), Duration::from_secs(service.config.drain_timeout));
    let (drained, mut started) = tokio::sync::oneshot::channel();
    let draining = service.clone();
    let signal = async move {
        shutdown.await;
        draining.draining.store(true, Ordering::Relaxed);
        tracing::info!(delay_s = delay.as_secs(), "draining: not ready any more");
        tokio::time::sleep(delay).await;
        let _ = drained.send(());
    };
    let mut server =
        tokio::spawn(axum::serve(listener, routes::app(service.clone())).with_graceful_shutdown(signal).into_future());
    let result = tokio::select! {
        result = &mut server => result,
        _ = &mut started => match tokio::time::timeout(timeout, &mut server).await {
            Ok(result) => result,
            Err(_) => {
                tracing::warn!(timeout_s = timeout.as_secs(), "requests were still open at the end of the drain");
                server.abort();
                Ok(Ok(()))
            }
        },
    };
    let closing = service.clone();
    let _ = tokio::task::spawn_blocking(move || closing.batcher.close()).await;
    result.map_err(std::io::Error::other)?
}
