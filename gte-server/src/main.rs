//! Parse → trace → bind → serve.

use std::future::IntoFuture;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Parser;
use gte_server::config::{Config, LogFormat};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let mut config = Config::parse();
    let keys = std::env::var("GTE_API_KEYS").unwrap_or_default();
    let keys_meant = !keys.is_empty();
    config.api_keys = keys.split(',').map(str::trim).filter(|key| !key.is_empty()).map(str::to_owned).collect();
    let level = std::env::var("RUST_LOG").ok().and_then(|l| l.parse().ok()).unwrap_or(tracing::Level::INFO);
    let logs = tracing_subscriber::fmt().with_max_level(level).with_target(false).with_writer(std::io::stderr);
    let logs = logs.with_ansi(std::io::stderr().is_terminal());
    match config.log_format {
        LogFormat::Human => logs.init(),
        LogFormat::Json => logs.json().init(),
    }
    let result = match keys_meant && config.api_keys.is_empty() {
        // Better no start than a door that is open by mistake.
        true => Err("GTE_API_KEYS is set and holds no key".to_owned()),
        false => run(config),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            let _ = writeln!(std::io::stderr(), "gte-server: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(config: Config) -> Result<(), String> {
    // The port first: a second server on it must not load a model to find out.
    let address = SocketAddr::new(config.host, config.port);
    let bind = |address: SocketAddr| {
        let listener = std::net::TcpListener::bind(address).map_err(|e| format!("{address}: {e}"))?;
        listener.set_nonblocking(true).map_err(|e| format!("{address}: {e}"))?;
        Ok::<_, String>(listener)
    };
    let listener = bind(address)?;
    let metrics_listener = config.metrics_port.map(|port| bind(SocketAddr::new(config.host, port))).transpose()?;
    let service = gte_server::load(config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(async move {
        let listener = TcpListener::from_std(listener).map_err(|e| e.to_string())?;
        if let Some(listener) = metrics_listener {
            let listener = TcpListener::from_std(listener).map_err(|e| e.to_string())?;
            let router = axum::Router::new().route("/metrics", axum::routing::get(gte_server::routes::metrics)).with_state(service.clone());
            tokio::spawn(axum::serve(listener, router).into_future());
        }
        let mut hangup = signal(SignalKind::hangup()).map_err(|e| e.to_string())?;
        let keyed = service.clone();
        tokio::spawn(async move {
            while hangup.recv().await.is_some() {
                match (keyed.config.keys(), keyed.keys.write()) {
                    (Ok(keys), Ok(mut current)) => {
                        tracing::info!(keys = keys.len(), "API keys reloaded");
                        *current = keys;
                    }
                    (Err(e), _) => tracing::error!("the old API keys stay: {e}"),
                    _ => {}
                }
            }
        });
        let mut terminate = signal(SignalKind::terminate()).map_err(|e| e.to_string())?;
        let shutdown = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        };
        let embedder = &service.embedder;
        tracing::info!(%address, model = embedder.name(), dimensions = embedder.dim(), "ready; another model: --model thenlper/gte-large-zh");
        gte_server::serve(listener, service, shutdown).await.map_err(|e| e.to_string())
    })
}
