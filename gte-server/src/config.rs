//! Flags and environment variables. All defaults are set here.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::http::HeaderValue;
use clap::builder::BoolishValueParser;
use clap::{Parser, ValueEnum};
use gte_core::{BUNDLED, Device, Pooling, Precision};
use serde::{Deserialize, Deserializer};

/// The default port of the service.
const DEFAULT_PORT: u16 = 7860;

/// HTTP service for GTE text embeddings
///
/// Every option can also be given by the environment variable in brackets. A switch is 1, true, yes
/// or on, or 0, false, no or off, and an empty variable counts as unset. RUST_LOG=debug logs more.
/// The hubs have the usual variables: HF_ENDPOINT, HF_TOKEN, HF_HOME and MODELSCOPE_ENDPOINT.
#[derive(Clone, Debug, Parser)]
#[command(name = "gte-server", version, about)]
pub struct Config {
    /// Directory, id on a hub such as `thenlper/gte-large-zh` or
    /// `modelscope:iic/nlp_gte_sentence-embedding_chinese-large`, or `bundled`: the small model
    /// that is part of this binary, for trials and tests. Given several times, or separated by
    /// commas, for several models in one process; `NAME=ID` sets the name of a model in requests.
    /// Default: `bundled`
    #[arg(long, env = "GTE_MODEL", value_parser = at_home, conflicts_with = "models")]
    pub model: Vec<String>,
    /// TOML file of models. Each is a table `[[model]]` with `id` and optionally `name`,
    /// `revision`, `pooling`, `precision`, `max_length`, `causal`
    #[arg(long, env = "GTE_MODELS", value_parser = path)]
    pub models: Option<PathBuf>,
    /// Commit, branch or tag on the hub, if there is only one model. For several models, use
    /// --models
    #[arg(long, env = "GTE_REVISION")]
    pub revision: Option<String>,
    /// The hub of model ids that do not name one
    #[arg(long, env = "GTE_HUB", value_enum, default_value_t = Hub::Huggingface)]
    pub hub: Hub,
    /// Never contact a hub: the model must be a directory or in the cache
    #[arg(long, env = "GTE_OFFLINE", value_parser = BoolishValueParser::new())]
    pub offline: bool,
    /// Download the model, verify it and exit, as an init container does. If several processes do
    /// this at once, one of them downloads and the others wait
    #[arg(long, env = "GTE_DOWNLOAD", value_parser = BoolishValueParser::new())]
    pub download: bool,
    /// Where the models run: cpu, cuda:0, cuda:1 …, or auto: the first GPU if there is one, and
    /// the CPU otherwise
    #[arg(long, env = "GTE_DEVICE", default_value_t = Device::Auto)]
    pub device: Device,
    /// Number type of matrix multiplications: f32, bf16, int8 (on the CPU), f16 (on a GPU), fp8
    /// (on a GPU from Ada and Hopper on), or auto. auto is bf16 if it is computed natively, and
    /// f32 otherwise
    #[arg(long, env = "GTE_PRECISION", default_value = "auto")]
    pub precision: Precision,
    /// cls, mean or last-token, if the files of a single model do not say which. For several
    /// models, use --models
    #[arg(long, env = "GTE_POOLING")]
    pub pooling: Option<Pooling>,
    /// Number of compute threads. Default: as many as the CPU affinity and the cgroup of the
    /// process allow; of a CPU with cores of two kinds, those of the performance cores
    #[arg(long, env = "GTE_THREADS")]
    pub threads: Option<usize>,
    /// Length in tokens at which the texts of a single model are truncated. Default: the model's
    /// own limit. For several models, use --models
    #[arg(long, env = "GTE_MAX_LENGTH")]
    pub max_length: Option<usize>,
    /// Maximum number of tokens computed together. It limits memory, and how long a query waits
    /// behind a batch. Default: 128 per thread on the CPU, at least 256; on a GPU what is found to
    /// be fast at start
    #[arg(long, env = "GTE_MAX_BATCH_TOKENS")]
    pub max_batch_tokens: Option<usize>,

    /// Address to listen on
    #[arg(long, env = "GTE_HOST", default_value = "0.0.0.0")]
    pub host: IpAddr,
    /// Port to listen on
    #[arg(long, env = "GTE_PORT", default_value = "7860", value_parser = port)]
    pub port: Port,
    /// Also serve /metrics, and nothing else, on this port
    #[arg(long, env = "GTE_METRICS_PORT", value_parser = port)]
    pub metrics_port: Option<Port>,
    /// Origin whose web pages may call the service, or `*`. Given several times, or separated by
    /// commas
    #[arg(long, env = "GTE_CORS_ORIGIN", value_delimiter = ',')]
    pub cors_origin: Vec<HeaderValue>,
    /// Certificate chain in PEM format, to serve HTTPS. Read again on SIGHUP
    #[arg(long, env = "GTE_TLS_CERT", value_parser = path, requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Private key of the certificate in PEM format
    #[arg(long, env = "GTE_TLS_KEY", value_parser = path, requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Maximum number of open connections. Any further one is closed at once
    #[arg(long, env = "GTE_MAX_CONNECTIONS", default_value_t = 16384)]
    pub max_connections: usize,
    /// Seconds within which a new connection must have sent the head of its first request
    #[arg(long, env = "GTE_HEADER_TIMEOUT", default_value_t = 10)]
    pub header_timeout: u64,
    /// Seconds after which a connection without a request is closed. More than the 60 s of common
    /// proxies, so that the proxy closes first and no request meets a closing connection
    #[arg(long, env = "GTE_IDLE_TIMEOUT", default_value_t = 75)]
    pub idle_timeout: u64,
    /// Seconds within which the body of a request must arrive
    #[arg(long, env = "GTE_BODY_TIMEOUT", default_value_t = 30)]
    pub body_timeout: u64,
    /// Largest request body in bytes, after decompression
    #[arg(long, env = "GTE_BODY_LIMIT", default_value_t = 4 << 20)]
    pub body_limit: usize,
    /// Maximum number of waiting requests
    #[arg(long, env = "GTE_QUEUE_REQUESTS", default_value_t = 512)]
    pub queue_requests: usize,
    /// Maximum number of waiting texts
    #[arg(long, env = "GTE_QUEUE_TEXTS", default_value_t = 8192)]
    pub queue_texts: usize,
    /// Maximum number of waiting tokens. The default is more than the largest request needs, so
    /// that time is the limit
    #[arg(long, env = "GTE_QUEUE_TOKENS", default_value_t = 1 << 20)]
    pub queue_tokens: usize,
    /// Seconds after which a request fails. A request that would take longer, by the measured
    /// speed, is refused at once
    #[arg(long, env = "GTE_REQUEST_TIMEOUT", default_value_t = 60)]
    pub request_timeout: u64,
    /// Seconds that a forward pass may take before /livez reports that the server is stuck
    #[arg(long, env = "GTE_LIVE_TIMEOUT", default_value_t = 30)]
    pub live_timeout: u64,
    /// Seconds for which the listener stays open after SIGTERM, until load balancers have noticed
    #[arg(long, env = "GTE_DRAIN_DELAY", default_value_t = 5)]
    pub drain_delay: u64,
    /// Seconds after the drain delay within which admitted requests are finished
    #[arg(long, env = "GTE_DRAIN_TIMEOUT", default_value_t = 30)]
    pub drain_timeout: u64,
    /// File of API keys, one per line. Read again on SIGHUP. Keys may also be given in
    /// GTE_API_KEYS, separated by commas
    #[arg(long, env = "GTE_API_KEY_FILE", value_parser = path)]
    pub api_key_file: Option<PathBuf>,
    /// API keys, separated by commas
    #[arg(skip)]
    pub api_keys: Vec<String>,
    /// Megabytes of outputs to keep for repeated texts; 0 keeps none. An output is found by the
    /// model and the tokens of the text, including prompt and truncation
    #[arg(long, env = "GTE_CACHE_MB", default_value_t = 0)]
    pub cache_mb: u64,
    /// Accept lists of token ids as texts. They must come from the model's own vocabulary
    #[arg(long, env = "GTE_TOKEN_IDS", value_parser = BoolishValueParser::new())]
    pub token_ids: bool,
    /// NATS server, such as nats://user:password@broker:4222. Accepts jobs at /v1/jobs, which
    /// workers compute
    #[arg(long, env = "GTE_NATS", hide_env_values = true, conflicts_with = "worker")]
    pub nats: Option<String>,
    /// NATS server. Accepts jobs as with --nats, and also computes waiting jobs
    #[arg(long, env = "GTE_WORKER", hide_env_values = true)]
    pub worker: Option<String>,
    /// Format of the log
    #[arg(long, env = "GTE_LOG_FORMAT", value_enum, default_value_t = LogFormat::Human)]
    pub log_format: LogFormat,
    /// OpenTelemetry collector that receives spans over HTTP, such as http://localhost:4318
    #[arg(long, env = "GTE_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<String>,
}

/// A model to serve.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSettings {
    /// The model's name in requests. Default: the name of its files.
    pub name: Option<String>,
    /// Directory, id on a hub, or `bundled`.
    pub id: String,
    /// Commit, branch or tag on the hub.
    pub revision: Option<String>,
    /// cls, mean or last-token.
    #[serde(default, deserialize_with = "parsed")]
    pub pooling: Option<Pooling>,
    /// Overrides `--precision` for this model.
    #[serde(default, deserialize_with = "parsed")]
    pub precision: Option<Precision>,
    /// Length in tokens at which texts are truncated.
    pub max_length: Option<usize>,
    /// Whether a token of a decoder attends only to the tokens before it, if the model's files do
    /// not say so.
    pub causal: Option<bool>,
}

/// The contents of the file for `--models`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelFile {
    model: Vec<ModelSettings>,
}

/// Parses a word in the file as on the command line.
fn parsed<'de, D: Deserializer<'de>, T: std::str::FromStr<Err: std::fmt::Display>>(
    d: D,
) -> Result<Option<T>, D::Error> {
    let word = Option::<String>::deserialize(d)?;
    word.map(|word| word.parse().map_err(serde::de::Error::custom)).transpose()
}

impl ModelSettings {
    /// The model's name before it is loaded.
    pub fn label(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.id)
    }

    /// Advice to users of the bundled model.
    pub fn note(&self) -> Option<&'static str> {
        (self.id == BUNDLED).then_some(
            "the bundled model (384 dimensions) is meant for trials and tests; for production, use --model thenlper/gte-large-zh",
        )
    }

    /// Parses a value of `--model`: `ID`, or `NAME=ID`.
    fn of(value: &str) -> Result<Self, String> {
        let named = value.split_once('=').filter(|_| !Path::new(value).exists());
        let (name, id) = named.map_or((None, value), |(name, id)| (Some(name.trim().to_owned()), id));
        if id.is_empty() || name.as_deref() == Some("") {
            return Err(format!("--model {value:?}: expected ID or NAME=ID"));
        }
        Ok(Self { name, id: id.to_owned(), ..Self::default() })
    }
}

/// A hub of models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Hub {
    /// huggingface.co, or HF_ENDPOINT
    Huggingface,
    /// modelscope.cn, or MODELSCOPE_ENDPOINT
    Modelscope,
}

/// A port, or `None` if Kubernetes has set the variable to the address of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port(Option<u16>);

impl Port {
    /// The number, or `default`.
    pub fn or(self, default: u16) -> u16 {
        self.0.unwrap_or(default)
    }
}

/// Parses a number, or `tcp://10.0.0.1:80`: Kubernetes sets GTE_PORT to such a value in every pod
/// if there is a Service named `gte`. It is never meant as the port to listen on.
fn port(text: &str) -> Result<Port, String> {
    if ["tcp://", "udp://", "sctp://"].iter().any(|scheme| text.starts_with(scheme)) {
        return Ok(Port(None));
    }
    text.parse().map(|number| Port(Some(number))).map_err(|_| "expected a port from 0 to 65535".to_owned())
}

/// Replaces `~` by the home directory, because the shell does not do so for environment variables
/// nor after `=`.
fn at_home(path: &str) -> Result<String, std::convert::Infallible> {
    let rest = match path.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => rest,
        _ => return Ok(path.to_owned()),
    };
    let home = std::env::home_dir().filter(|home| !home.as_os_str().is_empty());
    Ok(home.map_or_else(|| path.to_owned(), |home| format!("{}{rest}", home.display())))
}

fn path(text: &str) -> Result<PathBuf, std::convert::Infallible> {
    at_home(text).map(PathBuf::from)
}

/// Format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object per line.
    Json,
}

impl Config {
    /// Checks what clap cannot: values that contradict each other.
    ///
    /// # Errors
    /// One line that names the flags.
    pub fn check(&self) -> Result<(), String> {
        let positive = [
            ("--max-batch-tokens", self.max_batch_tokens.unwrap_or(1)),
            ("--body-limit", self.body_limit),
            ("--queue-requests", self.queue_requests),
            ("--queue-texts", self.queue_texts),
            ("--queue-tokens", self.queue_tokens),
            ("--max-connections", self.max_connections),
            ("--header-timeout", self.header_timeout as usize),
            ("--idle-timeout", self.idle_timeout as usize),
            ("--body-timeout", self.body_timeout as usize),
            ("--request-timeout", self.request_timeout as usize),
            ("--live-timeout", self.live_timeout as usize),
        ];
        if let Some((flag, _)) = positive.into_iter().find(|&(_, value)| value == 0) {
            return Err(format!("{flag} must be at least 1"));
        }
        if self.metrics_port() == Some(self.port()) && self.port() != 0 {
            return Err(format!("--metrics-port and --port are both {}", self.port()));
        }
        if let Some(max_length) = self.max_length.filter(|&n| n > self.queue_tokens) {
            return Err(format!(
                "--max-length {max_length} exceeds --queue-tokens {}: such a text could never be admitted",
                self.queue_tokens
            ));
        }
        Ok(())
    }

    /// The port to listen on.
    pub fn port(&self) -> u16 {
        self.port.or(DEFAULT_PORT)
    }

    /// The port of the metrics.
    pub fn metrics_port(&self) -> Option<u16> {
        self.metrics_port.and_then(|port| port.0)
    }

    /// The models to serve, under the names that the engine uses.
    ///
    /// # Errors
    /// One line that names the flag, or the file and its line.
    pub fn models(&self) -> Result<Vec<ModelSettings>, String> {
        let mut models = match &self.models {
            Some(path) => {
                let at = |e: &dyn std::fmt::Display| format!("--models {}: {e}", path.display());
                let text = std::fs::read_to_string(path).map_err(|e| at(&e))?;
                toml::from_str::<ModelFile>(&text).map_err(|e| at(&e.to_string().trim_end()))?.model
            }
            None => {
                // A directory may have a comma in its name.
                let values = self.model.iter().flat_map(|value| match Path::new(value).exists() {
                    true => vec![value.as_str()],
                    false => value.split(',').map(str::trim).filter(|value| !value.is_empty()).collect(),
                });
                values.map(ModelSettings::of).collect::<Result<_, _>>()?
            }
        };
        if models.is_empty() {
            if let Some(path) = &self.models {
                return Err(format!("--models {}: the file has no [[model]]", path.display()));
            }
            models.push(ModelSettings { id: BUNDLED.to_owned(), ..ModelSettings::default() });
        }
        for model in &mut models {
            let Ok(id) = at_home(&model.id);
            let known = id == BUNDLED || id.contains(':') || Path::new(&id).exists();
            model.id = if self.hub == Hub::Modelscope && !known { format!("modelscope:{id}") } else { id };
        }
        match &mut models[..] {
            [model] => {
                model.revision = model.revision.take().or_else(|| self.revision.clone());
                model.pooling = model.pooling.or(self.pooling);
                model.max_length = model.max_length.or(self.max_length);
            }
            _ => self.check_several(&models)?,
        }
        Ok(models)
    }

    fn check_several(&self, models: &[ModelSettings]) -> Result<(), String> {
        let of_one = [
            ("--revision", self.revision.is_some()),
            ("--pooling", self.pooling.is_some()),
            ("--max-length", self.max_length.is_some()),
        ];
        if let Some((flag, _)) = of_one.into_iter().find(|&(_, given)| given) {
            return Err(format!(
                "{flag} is for a single model: for several models, set it per model in the file given by --models"
            ));
        }
        let twice = models.iter().enumerate().find(|(i, m)| models[..*i].iter().any(|n| n.label() == m.label()));
        match twice {
            Some((_, model)) => Err(format!(
                "--model: two models have the name {0}: give one of them another name, NAME={0}",
                model.label()
            )),
            None => Ok(()),
        }
    }

    /// How long the body of a request may take to arrive.
    pub fn body_timeout(&self) -> Duration {
        Duration::from_secs(self.body_timeout)
    }

    /// How long a forward pass may take.
    pub fn live_timeout(&self) -> Duration {
        Duration::from_secs(self.live_timeout)
    }

    /// How long a request may take.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.request_timeout)
    }

    /// The API keys of `--api-key-file` and of the environment. If there are none, no key is
    /// required.
    ///
    /// # Errors
    /// A file that cannot be read or contains no key: an empty file must not start a server that is
    /// open to everybody.
    pub fn keys(&self) -> Result<Vec<String>, String> {
        let mut keys = self.api_keys.clone();
        if let Some(path) = &self.api_key_file {
            let content =
                std::fs::read_to_string(path).map_err(|e| format!("--api-key-file {}: {e}", path.display()))?;
            keys.extend(content.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned));
            if keys.is_empty() {
                return Err(format!("--api-key-file {} contains no key", path.display()));
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
    fn the_address_that_kubernetes_sets_is_not_a_port() {
        let config =
            Config::try_parse_from(["gte-server", "--port", "tcp://10.0.0.1:80", "--metrics-port", "tcp://10.0.0.1:9"]);
        let config = config.expect("Kubernetes must not prevent the start");
        assert_eq!((config.port(), config.metrics_port()), (7860, None));
    }

    #[test]
    fn the_hub_of_an_id_without_one() {
        let model = |arguments: &[&str]| {
            let all = ["gte-server"].iter().chain(arguments);
            let models = Config::try_parse_from(all).expect("valid").models().expect("valid");
            models.into_iter().map(|model| model.id).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(model(&["--model", "iic/x", "--hub", "modelscope"]), "modelscope:iic/x");
        assert_eq!(model(&["--model", "iic/x"]), "iic/x");
        assert_eq!(model(&["--model", "src", "--hub", "modelscope"]), "src", "a directory");
        assert_eq!(model(&[]), "bundled");
    }

    #[test]
    fn several_models_by_flag_and_by_file() {
        let models = |arguments: &[&str]| {
            let all = ["gte-server"].iter().chain(arguments);
            Config::try_parse_from(all).map_err(|e| e.to_string()).and_then(|config| config.models())
        };
        let named = |name: Option<&str>, id: &str| ModelSettings {
            name: name.map(str::to_owned),
            id: id.to_owned(),
            ..ModelSettings::default()
        };
        let expected = vec![named(Some("zh"), "thenlper/gte-large-zh"), named(None, "bundled")];
        assert_eq!(models(&["--model", "zh=thenlper/gte-large-zh", "--model", "bundled"]).as_ref(), Ok(&expected));
        assert_eq!(models(&["--model", "zh=thenlper/gte-large-zh, bundled"]).as_ref(), Ok(&expected));
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("models.toml");
        let write = |text: &str| std::fs::write(&file, text).expect("written");
        let path = file.to_str().expect("a path");
        write("[[model]]\nname = \"zh\"\nid = \"thenlper/gte-large-zh\"\n[[model]]\nid = \"bundled\"\n");
        assert_eq!(models(&["--models", path]).as_ref(), Ok(&expected));
        write("[[model]]\nid = \"x\"\npooling = \"mean\"\nprecision = \"int8\"\nmax_length = 64\n");
        let one = models(&["--models", path]).expect("valid").remove(0);
        assert_eq!(
            (one.pooling, one.precision, one.max_length),
            (Some(Pooling::Mean), Some(Precision::Int8), Some(64))
        );
        for (text, expected) in [
            ("[[model]]\nid = 3\n", "line 2"),
            ("[[model]]\nid = \"x\"\nprecison = \"int8\"\n", "precison"),
            ("[[model]]\nid = \"x\"\npooling = \"sum\"\n", "sum"),
            ("model = []\n", "no [[model]]"),
        ] {
            write(text);
            let error = models(&["--models", path]).expect_err(text);
            assert!(error.contains(expected) && error.contains("models.toml"), "{error}");
        }
        for (arguments, expected) in [
            (&["--model", "a,b", "--revision", "main"][..], "--revision"),
            (&["--model", "a,b", "--max-length", "64"], "--max-length"),
            (&["--model", "a,a"], "two models"),
            (&["--model", "=a"], "NAME=ID"),
            (&["--models", "/nowhere.toml"], "/nowhere.toml"),
            (&["--model", "a", "--models", "b.toml"], "--models"),
        ] {
            let error = models(arguments).expect_err("contradictory");
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn values_that_contradict_each_other_are_named() {
        assert_eq!(parse(&[]), Ok(()));
        for (arguments, expected) in [
            (&["--port", "7", "--metrics-port", "7"][..], "--metrics-port"),
            (&["--max-batch-tokens", "0"], "--max-batch-tokens"),
            (&["--max-length", "512", "--queue-tokens", "100"], "--queue-tokens"),
            (&["--port", "http"], "--port"),
            (&["--tls-cert", "c.pem"], "--tls-key"),
            (&["--cors-origin", "a\nb"], "--cors-origin"),
            (&["--precision", "int3"], "precision"),
        ] {
            let error = parse(arguments).expect_err("contradictory");
            assert!(error.contains(expected), "{error}");
        }
    }
}
