//! Parse the configuration → start tracing → bind the port → serve.

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock, PoisonError};

use axum_server::tls_rustls::RustlsConfig;
use gte_server::config::Config;
use gte_server::routes::Service;

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            let _ = writeln!(std::io::stderr(), "gte-server: {message}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<(), String> {
    let config = gte_server::environment::config(std::env::args_os(), |name| std::env::var_os(name))?;
    config.check()?;
    let _telemetry = gte_server::telemetry::start(&config)?;
    if config.download { gte_server::download(&config) } else { run(config) }
}

fn run(config: Config) -> Result<(), String> {
    // Each connection is an open file. If the system allows fewer than `--max-connections`, new
    // connections wait until one is closed.
    let _ = rlimit::increase_nofile_limit(config.max_connections as u64 + 256);
    // The port is bound first, so that a second server on the same port fails before it loads a
    // model.
    let bind = |port| {
        let address = SocketAddr::new(config.host, port);
        let listener = std::net::TcpListener::bind(address).map_err(|e| format!("{address}: {e}"))?;
        listener.set_nonblocking(true).map_err(|e| format!("{address}: {e}"))?;
        Ok::<_, String>(listener)
    };
    let listener = bind(config.port())?;
    let metrics_listener = config.metrics_port().map(bind).transpose()?;
    let address = listener.local_addr().map_err(|e| e.to_string())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|e| e.to_string())?;
    let tls = runtime.block_on(gte_server::tls(&config))?;
    let jobs = runtime.block_on(gte_server::jobs(&config))?;
    let service = gte_server::load(config, jobs)?;
    runtime.block_on(async move {
        if let Some(listener) = metrics_listener {
            let metrics = axum::routing::get(gte_server::routes::metrics).with_state(service.clone());
            let router = axum::Router::new().route("/metrics", metrics);
            let server = axum_server::from_tcp(listener).map_err(|e| e.to_string())?;
            tokio::spawn(server.serve(router.into_make_service()));
        }
        let mut hangup = Signal::hangup()?;
        let (reloaded, certificate) = (service.clone(), tls.clone());
        tokio::spawn(async move {
            loop {
                hangup.recv().await;
                reload(&reloaded, certificate.as_ref()).await;
            }
        });
        tracing::info!(%address, https = tls.is_some(), "ready");
        let (loaded, others) = tokio::sync::oneshot::channel();
        let loading = service.clone();
        std::thread::Builder::new()
            .name("gte-load".into())
            .spawn(move || loaded.send(gte_server::load_others(&loading)))
            .map_err(|e| format!("cannot start a thread to load models: {e}"))?;
        let refused = Arc::new(OnceLock::new());
        let mut terminate = Signal::terminate()?;
        let reason = refused.clone();
        let shutdown = async move {
            tokio::select! {
                () = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
                // A server that cannot load all of its models ends.
                Ok(Err(e)) = others => drop(reason.set(e)),
            }
        };
        gte_server::serve(listener, service, tls, shutdown).await.map_err(|e| e.to_string())?;
        refused.get().map_or(Ok(()), |reason| Err(reason.clone()))
    })
}

/// A Unix signal. On other systems it never arrives: ctrl-c ends the server, and the files that
/// SIGHUP would reload are read at the start only.
struct Signal(#[cfg(unix)] tokio::signal::unix::Signal);

#[cfg(unix)]
impl Signal {
    fn hangup() -> Result<Self, String> {
        Self::of(tokio::signal::unix::SignalKind::hangup())
    }

    fn terminate() -> Result<Self, String> {
        Self::of(tokio::signal::unix::SignalKind::terminate())
    }

    fn of(kind: tokio::signal::unix::SignalKind) -> Result<Self, String> {
        tokio::signal::unix::signal(kind).map(Self).map_err(|e| e.to_string())
    }

    async fn recv(&mut self) {
        if self.0.recv().await.is_none() {
            std::future::pending().await
        }
    }
}

#[cfg(not(unix))]
impl Signal {
    fn hangup() -> Result<Self, String> {
        Ok(Self())
    }

    fn terminate() -> Result<Self, String> {
        Ok(Self())
    }

    async fn recv(&mut self) {
        std::future::pending().await
    }
}

/// Reads the API keys and the certificate again. If one of them cannot be read, the old one stays
/// in use.
async fn reload(service: &Arc<Service>, tls: Option<&RustlsConfig>) {
    match service.config.keys() {
        Ok(keys) => {
            tracing::info!(keys = keys.len(), "API keys reloaded");
            *service.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        }
        Err(e) => tracing::error!("API keys not reloaded, the old ones stay in use: {e}"),
    }
    if let (Some(tls), Some(cert), Some(key)) = (tls, &service.config.tls_cert, &service.config.tls_key) {
        match tls.reload_from_pem_file(cert, key).await {
            Ok(()) => tracing::info!("certificate reloaded"),
            Err(e) => tracing::error!("certificate not reloaded, the old one stays in use: {e}"),
        }
    }
}
