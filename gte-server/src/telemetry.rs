//! Logs go to standard error, and spans to an OTLP collector if one is given.

use std::io::IsTerminal;

use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{Config, LogFormat};

/// Sends the remaining spans when it is dropped.
pub struct Telemetry(Option<SdkTracerProvider>);

/// Starts logging at the level of `RUST_LOG` or `info`, and tracing if `--otlp-endpoint` is set. It
/// must not be called on a thread of the async runtime, because the exporter has a blocking client.
///
/// # Errors
/// An endpoint that is not an address; a `RUST_LOG` with an unknown level.
pub fn start(config: &Config) -> Result<Telemetry, String> {
    // Libraries log each connection at `info`; they are limited to warnings unless `RUST_LOG` names
    // them.
    let own = |level| {
        Targets::new().with_targets([("gte_server", level), ("gte_core", level)]).with_default(LevelFilter::WARN)
    };
    let asked = match std::env::var("RUST_LOG").unwrap_or_default().trim() {
        "" => own(LevelFilter::INFO),
        text => match text.parse() {
            Ok(level) => own(level),
            Err(_) => directives(text)?,
        },
    };
    let logs = tracing_subscriber::fmt::layer()
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let logs = match config.log_format {
        LogFormat::Human => logs.boxed(),
        LogFormat::Json => logs.json().flatten_event(true).boxed(),
    };
    let provider = match &config.otlp_endpoint {
        None => None,
        Some(endpoint) => {
            let exporter = opentelemetry_otlp::SpanExporter::builder()
                .with_http()
                .with_endpoint(traces_address(endpoint))
                .build()
                .map_err(|e| format!("--otlp-endpoint {endpoint}: {e}"))?;
            let resource = Resource::builder().with_service_name("gte-server").build();
            Some(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
        }
    };
    let spans = provider.as_ref().map(|provider| {
        opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
        tracing_opentelemetry::layer().with_tracer(provider.tracer("gte-server")).with_filter(own(LevelFilter::INFO))
    });
    tracing_subscriber::registry().with(logs.with_filter(asked)).with(spans).init();
    Ok(Telemetry(provider))
}

/// Parses `gte_server=debug,warn`. A word that is not a level is a target.
fn directives(text: &str) -> Result<Targets, String> {
    let known = text.split(',').all(|part| part.contains('=') || part.trim().parse::<LevelFilter>().is_ok());
    let parsed = text.parse().ok().filter(|_| known);
    parsed.ok_or_else(|| {
        format!("RUST_LOG is {text:?}, expected error, warn, info, debug, trace or off, or target=level, separated by commas")
    })
}

/// Where OTLP over HTTP accepts traces, below the collector's base address (OTLP specification 1.5,
/// "OTLP/HTTP Request").
fn traces_address(base: &str) -> String {
    match base.trim_end_matches('/') {
        full if full.ends_with("/v1/traces") => full.to_owned(),
        base => format!("{base}/v1/traces"),
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(Err(e)) = self.0.take().map(|provider| provider.shutdown()) {
            tracing::warn!("the last spans were not sent: {e}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_logged() {
        for right in ["gte_server=debug", "warn,gte_core=trace", "hyper=off,info"] {
            assert!(directives(right).is_ok(), "{right}");
        }
        for wrong in ["verbose", "gte_server=loud", "info,verbose"] {
            assert!(directives(wrong).is_err_and(|e| e.contains("RUST_LOG")), "{wrong}");
        }
    }

    #[test]
    fn the_address_of_traces() {
        for base in ["http://c:4318", "http://c:4318/", "http://c:4318/v1/traces"] {
            assert_eq!(traces_address(base), "http://c:4318/v1/traces");
        }
    }
}
