//! Flags and environment, and the only place of defaults.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use gte_core::{Pooling, Precision};

/// HTTP service for GTE text embeddings.
#[derive(Clone, Debug, Parser)]
#[command(name = "gte-server", version, about)]
pub struct Config {
    /// Directory, `thenlper/gte-large-zh`, or `modelscope:iic/nlp_gte_sentence-embedding_chinese-large`
    #[arg(long, env = "GTE_MODEL")]
    pub model: String,
    /// Commit, branch or tag on the hub
    #[arg(long, env = "GTE_REVISION")]
    pub revision: Option<String>,
    /// Make no request to a hub: the model is a directory or in the cache
    #[arg(long, env = "GTE_OFFLINE")]
    pub offline: bool,
    /// Type of the matrix products: f32
    #[arg(long, env = "GTE_PRECISION", default_value_t)]
    pub precision: Precision,
    /// cls, mean or last-token, where the model's files do not say
    #[arg(long, env = "GTE_POOLING")]
    pub pooling: Option<Pooling>,
    /// Compute threads; what the process may use by its affinity and cgroup if left out
    #[arg(long, env = "GTE_THREADS")]
    pub threads: Option<usize>,
    /// Tokens at which texts are cut; what the model says if left out
    #[arg(long, env = "GTE_MAX_LENGTH")]
    pub max_length: Option<usize>,
    /// Tokens computed at once: it bounds memory, and how long a query waits behind a batch
    #[arg(long, env = "GTE_BATCH_TOKENS", default_value_t = 1024)]
    pub batch_tokens: usize,

    /// Address to listen on
    #[arg(long, env = "GTE_HOST", default_value = "0.0.0.0")]
    pub host: IpAddr,
    /// Port to listen on
    #[arg(long, env = "GTE_HTTP_PORT", default_value_t = 7860)]
    pub port: u16,
    /// Port for /metrics alone, besides the main one
    #[arg(long, env = "GTE_METRICS_PORT")]
    pub metrics_port: Option<u16>,
    /// Largest body, in bytes
    #[arg(long, env = "GTE_BODY_LIMIT", default_value_t = 2 << 20)]
    pub body_limit: usize,
    /// Requests that may wait
    #[arg(long, env = "GTE_QUEUE_REQUESTS", default_value_t = 512)]
    pub queue_requests: usize,
    /// Texts that may wait
    #[arg(long, env = "GTE_QUEUE_TEXTS", default_value_t = 8192)]
    pub queue_texts: usize,
    /// Tokens that may wait
    #[arg(long, env = "GTE_QUEUE_TOKENS", default_value_t = 1 << 17)]
    pub queue_tokens: usize,
    /// Seconds after which a request is given up
    #[arg(long, env = "GTE_REQUEST_TIMEOUT", default_value_t = 60)]
    pub request_timeout: u64,
    /// Seconds for which the listener stays open after SIGTERM, until load balancers know
    #[arg(long, env = "GTE_DRAIN_DELAY", default_value_t = 5)]
    pub drain_delay: u64,
    /// Seconds in which what was admitted must be done after that
    #[arg(long, env = "GTE_DRAIN_TIMEOUT", default_value_t = 30)]
    pub drain_timeout: u64,
    /// File of API keys, one a line; reloaded on SIGHUP. Keys may also be given in GTE_API_KEYS, separated by commas
    #[arg(long, env = "GTE_API_KEY_FILE")]
    pub api_key_file: Option<PathBuf>,
    /// API keys, separated by commas
    #[arg(skip)]
    pub api_keys: Vec<String>,
    /// How logs are written
    #[arg(long, env = "GTE_LOG_FORMAT", value_enum, default_value_t = LogFormat::Human)]
    pub log_format: LogFormat,
}

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

impl Config {
    /// Checks what clap cannot: values that contradict each other.
    ///
    /// # Errors
    /// One line that names the flags.
    pub fn check(&self) -> Result<(), String> {
        let positive = [
            ("--batch-tokens", self.batch_tokens),
            ("--body-limit", self.body_limit),
            ("--queue-requests", self.queue_requests),
            ("--queue-texts", self.queue_texts),
            ("--queue-tokens", self.queue_tokens),
            ("--request-timeout", self.request_timeout as usize),
        ];
        if let Some((flag, _)) = positive.into_iter().find(|&(_, value)| value == 0) {
            return Err(format!("{flag} must be at least 1"));
        }
        if self.metrics_port.is_some_and(|port| port == self.port && port != 0) {
            return Err(format!("--metrics-port and --port are both {}", self.port));
        }
        if let Some(max_length) = self.max_length.filter(|&n| n > self.queue_tokens) {
            return Err(format!(
                "--max-length {max_length} is more than --queue-tokens {}: no such text would be admitted",
                self.queue_tokens
            ));
        }
        Ok(())
    }

    /// How long a request may take.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.request_timeout)
    }

    /// The keys of `--api-key-file` and of the environment; none: no key is asked for.
    ///
    /// # Errors
    /// A file that cannot be read, or holds no key: better no start than a door that is open by mistake.
    pub fn keys(&self) -> Result<Vec<String>, String> {
        let mut keys = self.api_keys.clone();
        if let Some(path) = &self.api_key_file {
            let content =
                std::fs::read_to_string(path).map_err(|e| format!("--api-key-file {}: {e}", path.display()))?;
            keys.extend(content.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned));
            if keys.is_empty() {
                return Err(format!("--api-key-file {} holds no key", path.display()));
            }
        }
        Ok(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<(), String> {
        let all = ["gte-server", "--model", "m"].iter().chain(arguments);
        Config::try_parse_from(all).map_err(|e| e.to_string())?.check()
    }

    #[test]
    fn values_that_contradict_each_other_are_named() {
        assert_eq!(parse(&[]), Ok(()));
        for (arguments, expected) in [
            (&["--port", "7", "--metrics-port", "7"][..], "--metrics-port"),
            (&["--batch-tokens", "0"], "--batch-tokens"),
            (&["--max-length", "512", "--queue-tokens", "100"], "--queue-tokens"),
            (&["--port", "tcp://10.0.0.1:80"], "--port"),
            (&["--precision", "int3"], "precision"),
        ] {
            let error = parse(arguments).expect_err("contradictory");
            assert!(error.contains(expected), "{error}");
        }
    }
}
