//! How does a server behave under load? Each request has one text; lengths are mixed.
//!
//!     cargo run --release -p benches --bin load -- http://127.0.0.1:7860/v1/embedding --clients 64 --seconds 60 --out load
//!
//! Closed loop: each of `--clients` sends its next request when the last one is answered. Open
//! loop, `--rate R`: R requests per second arrive at random (Poisson), whether or not earlier ones
//! are answered, and a latency counts from the time when the request was due. Writes OUT.json and
//! OUT.svg. `--zipf S`: questions repeat as those of customers do, the k-th most common in
//! proportion to 1 / kˢ. `--shape rerank`: a query with `--documents` of the texts. `--beside
//! MODEL`: a single client, whose texts the engine computes too, in turn, to find what a request
//! costs beyond its forward pass.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use gte_core::{Embedder, MaxBatchTokens, Precision};
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[derive(Clone, Parser)]
#[command(about = "Load test of an embedding server")]
struct Options {
    /// Address of the route. With --bare, directory of a model.
    target: String,
    /// Format of the requests.
    #[arg(long, value_enum, default_value_t = Shape::Tutorial)]
    shape: Shape,
    /// Number of clients in the closed loop.
    #[arg(long, default_value_t = 32)]
    clients: usize,
    /// Requests per second of an open loop, instead of the closed loop.
    #[arg(long)]
    rate: Option<f64>,
    /// Seconds to measure.
    #[arg(long, default_value_t = 60.0)]
    seconds: f64,
    /// Seconds of warm-up before that.
    #[arg(long, default_value_t = 5.0)]
    warmup: f64,
    /// JSON lines, one string each.
    #[arg(long, default_value = "benches/texts-mixed.jsonl")]
    texts: PathBuf,
    /// Draw texts by Zipf's law with this exponent, from a set of --questions, instead of one after
    /// the other.
    #[arg(long)]
    zipf: Option<f64>,
    /// Number of different questions for --zipf: texts with a number in front.
    #[arg(long, default_value_t = 100_000, requires = "zipf")]
    questions: usize,
    /// The model's name in requests, if the server has several models.
    #[arg(long)]
    model: Option<String>,
    /// Number of documents per request to rerank.
    #[arg(long, default_value_t = 100)]
    documents: usize,
    /// Number of connections to open first and leave idle.
    #[arg(long, default_value_t = 0)]
    idle: usize,
    /// Also request /livez and /readyz five times per second, and time the responses.
    #[arg(long)]
    probes: bool,
    /// Name for the result files, which get the endings .json and .svg.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Measure the engine itself on the same texts for --seconds, without a server.
    #[arg(long)]
    bare: bool,
    /// Number of texts that --bare passes to the engine at once.
    #[arg(long, default_value_t = 64)]
    at_once: usize,
    /// Directory of a model: send one request of the tutorial's format at a time, in turn with the
    /// engine on the same text.
    #[arg(long, conflicts_with_all = ["bare", "rate", "idle", "probes", "out"])]
    beside: Option<String>,
    /// Number of threads for --bare and --beside.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Precision for --bare and --beside.
    #[arg(long, default_value_t)]
    precision: Precision,
    /// Maximum number of tokens per batch for --bare and --beside.
    #[arg(long, default_value_t = 512)]
    max_batch_tokens: usize,
}

/// The format that a route accepts.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shape {
    /// `{"text": …}`
    Tutorial,
    /// `{"input": …}`
    Openai,
    /// `{"inputs": …}`
    Tei,
    /// `{"query": …, "documents": […]}`
    Rerank,
    /// Invalid: every route refuses it with 400 or 422.
    Bad,
}

/// Limits of the length classes, in tokens, for which latencies are reported.
const LENGTHS: [usize; 6] = [16, 32, 64, 128, 256, 512];

/// The measurements. Latencies are in microseconds.
struct Seen {
    answered: Histogram<u64>,
    by_length: [Histogram<u64>; LENGTHS.len()],
    refused: Histogram<u64>,
    probes: Histogram<u64>,
    failed: BTreeMap<String, usize>,
    tokens: usize,
    /// Tokens answered in each measured second.
    each_second: Vec<usize>,
}

impl Seen {
    fn new() -> Self {
        // From 1 µs to ten minutes, with three digits.
        let histogram = || Histogram::new_with_bounds(1, 600_000_000, 3).expect("valid bounds");
        Self {
            answered: histogram(),
            by_length: std::array::from_fn(|_| histogram()),
            refused: histogram(),
            probes: histogram(),
            failed: BTreeMap::new(),
            tokens: 0,
            each_second: Vec::new(),
        }
    }
}

fn main() -> Result<(), Failure> {
    let options = Options::parse();
    let texts: Vec<String> =
        std::fs::read_to_string(&options.texts)?.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let result = match &options.beside {
        Some(model) => beside(&options, model, &texts)?,
        None if options.bare => bare(&options, &texts)?,
        None => run(&options, texts)?,
    };
    writeln!(std::io::stdout(), "{result}")?;
    Ok(())
}

fn engine(options: &Options, model: &str) -> Result<Embedder, Failure> {
    let embedder = Embedder::builder(model).offline(true).threads(options.threads);
    Ok(embedder
        .precision(options.precision)
        .max_batch_tokens(MaxBatchTokens::new(options.max_batch_tokens)?)
        .build()?)
}

/// Sends text after text to the server and to the engine in turn; sometimes one is first, sometimes
/// the other.
fn beside(options: &Options, model: &str, texts: &[String]) -> Result<serde_json::Value, Failure> {
    let embedder = engine(options, model)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = reqwest::Client::new();
    let asked = |text: &String| -> Result<(Duration, serde_json::Value), Failure> {
        let request = client.post(&options.target).header("content-type", "application/json");
        let request = request.body(json!({ "text": text }).to_string());
        let start = Instant::now();
        let body = runtime.block_on(async { request.send().await?.error_for_status()?.bytes().await })?;
        Ok((start.elapsed(), serde_json::from_slice(&body)?))
    };
    let computed = |text: &String| -> Result<(Duration, Vec<f32>), Failure> {
        let start = Instant::now();
        let vectors = embedder.embed(std::slice::from_ref(text))?;
        Ok((start.elapsed(), vectors.rows().flatten().copied().collect()))
    };
    for text in texts.iter().take(8) {
        let served: Vec<f32> = serde_json::from_value(asked(text)?.1["embedding"].take())?;
        if served != computed(text)?.1 {
            return Err(format!("the server's vector of {text:?} differs from the engine's").into());
        }
    }
    let mut more = Vec::new();
    let (mut server, mut engine, start) = (Duration::ZERO, Duration::ZERO, Instant::now());
    for (number, text) in texts.iter().cycle().enumerate() {
        if start.elapsed().as_secs_f64() > options.seconds {
            break;
        }
        let (served, own) = if number % 2 == 0 {
            let served = asked(text)?.0;
            (served, computed(text)?.0)
        } else {
            let own = computed(text)?.0;
            (asked(text)?.0, own)
        };
        more.push((served.as_secs_f64() - own.as_secs_f64()) * 1e3);
        (server, engine) = (server + served, engine + own);
    }
    more.sort_by(f64::total_cmp);
    let median =
        more.get(more.len() / 2).ok_or("no requests were sent: --seconds is too short, or --texts is empty")?;
    let round = |x: f64| (x * 1e3).round() / 1e3;
    Ok(json!({
        "engine": embedder.precision().to_string(), "threads": options.threads, "texts": more.len(),
        "server_s": round(server.as_secs_f64()), "engine_s": round(engine.as_secs_f64()),
        "server_over_engine": round(server.as_secs_f64() / engine.as_secs_f64()), "more_p50_ms": round(*median),
    }))
}

/// The engine's own speed on the texts, in batches as if all of them were given at once.
fn bare(options: &Options, texts: &[String]) -> Result<serde_json::Value, Failure> {
    let embedder = engine(options, &options.target)?;
    let mut tokens = embedder.tokenize(texts)?;
    let count: usize = tokens.iter().map(|t| t.ids.len()).sum();
    // A few seconds at a time, so that the total stays close to --seconds.
    let mut done = 0;
    embedder.embed_tokens(&tokens[..32.min(tokens.len())])?;
    let start = Instant::now();
    while start.elapsed().as_secs_f64() < options.seconds {
        let part = &tokens[..options.at_once.min(tokens.len())];
        embedder.embed_tokens(part)?;
        done += part.iter().map(|t| t.ids.len()).sum::<usize>();
        let taken = part.len();
        tokens.rotate_left(taken);
    }
    let speed = done as f64 / start.elapsed().as_secs_f64();
    Ok(
        json!({ "engine": embedder.precision().to_string(), "threads": options.threads, "at_once": options.at_once, "tokens_of_all_texts": count, "tokens_per_second": speed }),
    )
}

fn run(options: &Options, texts: Vec<String>) -> Result<serde_json::Value, Failure> {
    rlimit::increase_nofile_limit(options.idle as u64 + 4096)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let load = Arc::new(Load {
        client: reqwest::Client::builder().timeout(Duration::from_secs(300)).build()?,
        begin: Instant::now() + Duration::from_secs_f64(options.warmup),
        options: options.clone(),
        texts,
        ranks: options.zipf.map(|exponent| zipf(exponent, options.questions)),
        seen: Mutex::new(Seen::new()),
    });
    runtime.block_on(async {
        let idle = load.idle().await?;
        let watched = load.clone();
        let watching = tokio::spawn(async move { watched.watch().await });
        if options.probes {
            let probing = load.clone();
            tokio::spawn(async move { probing.probe().await });
        }
        match options.rate {
            Some(rate) => load.open_loop(rate).await,
            None => load.closed_loop().await,
        }
        watching.abort();
        drop(idle);
        Ok::<_, Failure>(())
    })?;
    load.report()
}

struct Load {
    client: reqwest::Client,
    options: Options,
    texts: Vec<String>,
    /// For --zipf: for each question, the share of requests for it or a more common one.
    ranks: Option<Vec<f64>>,
    begin: Instant,
    seen: Mutex<Seen>,
}

/// Cumulative shares of questions by Zipf's law.
fn zipf(exponent: f64, questions: usize) -> Vec<f64> {
    let mut sum = 0.0;
    let weights = (1..=questions).map(|k| (k as f64).powf(-exponent));
    let sums: Vec<f64> = weights
        .map(|weight| {
            sum += weight;
            sum
        })
        .collect();
    sums.iter().map(|partial| partial / sum).collect()
}

impl Load {
    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) -> Instant {
        self.begin + Duration::from_secs_f64(self.options.seconds)
    }

    /// Sends one request, which was due at `due`.
    async fn one(&self, number: usize, due: Instant) {
        let text = self.text(number);
        let model = &self.options.model;
        let body = match self.options.shape {
            Shape::Tutorial => json!({ "text": text, "model": model }),
            Shape::Openai => json!({ "input": text, "model": model }),
            Shape::Tei => json!({ "inputs": text, "model": model }),
            Shape::Rerank => {
                let document = |i: usize| self.texts[(number * 31 + i) % self.texts.len()].as_str();
                let documents: Vec<&str> = (0..self.options.documents).map(document).collect();
                json!({ "query": text, "documents": documents, "model": model })
            }
            Shape::Bad => json!({ "text": number, "input": {}, "inputs": null }),
        };
        let request =
            self.client.post(&self.options.target).header("content-type", "application/json").body(body.to_string());
        let answer = async {
            let response = request.send().await?;
            let status = response.status().as_u16();
            let tokens =
                response.headers().get("x-compute-tokens").and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
            let body = response.bytes().await?;
            Ok::<_, reqwest::Error>((status, tokens, body.len()))
        };
        let answer = answer.await;
        let now = Instant::now();
        if now < self.begin || now > self.end() {
            return;
        }
        let (micros, second) = ((now - due).as_micros() as u64, (now - self.begin).as_secs() as usize);
        let seen = &mut *self.seen();
        match answer {
            Ok((200, tokens, _)) => {
                // Chinese texts: one token per character, plus two special tokens.
                let tokens = tokens.unwrap_or(text.chars().count() + 2);
                seen.answered.saturating_record(micros);
                if let Some(i) = LENGTHS.iter().position(|&limit| tokens <= limit) {
                    seen.by_length[i].saturating_record(micros);
                }
                seen.tokens += tokens;
                seen.each_second.resize(seen.each_second.len().max(second + 1), 0);
                seen.each_second[second] += tokens;
            }
            Ok((429, ..)) => seen.refused.saturating_record(micros),
            Ok((400 | 422, ..)) if self.options.shape == Shape::Bad => seen.refused.saturating_record(micros),
            Ok((status, ..)) => *seen.failed.entry(status.to_string()).or_default() += 1,
            Err(e) => *seen.failed.entry(e.to_string()).or_default() += 1,
        }
    }

    /// The text of a request.
    fn text(&self, number: usize) -> String {
        let Some(ranks) = &self.ranks else { return self.texts[number % self.texts.len()].clone() };
        // Every run has the same questions in the same order.
        let z = (number as u64).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let uniform = ((z ^ (z >> 27)) >> 11) as f64 / (1u64 << 53) as f64;
        let rank = ranks.partition_point(|&share| share < uniform);
        format!("{rank} {}", self.texts[rank % self.texts.len()])
    }

    async fn closed_loop(self: &Arc<Self>) {
        let next = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let client = |_| {
            let (load, next) = (self.clone(), next.clone());
            tokio::spawn(async move {
                while Instant::now() < load.end() {
                    load.one(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed), Instant::now()).await;
                }
            })
        };
        let clients: Vec<_> = (0..self.options.clients).map(client).collect();
        for client in clients {
            let _ = client.await;
        }
    }

    async fn open_loop(self: &Arc<Self>, rate: f64) {
        let (mut due, mut state, mut number, mut open) = (Instant::now(), 5u64, 0, tokio::task::JoinSet::new());
        while due < self.end() {
            tokio::time::sleep_until(due.into()).await;
            let load = self.clone();
            open.spawn(async move { load.one(number, due).await });
            while open.try_join_next().is_some() {}
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let uniform = ((state >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
            due += Duration::from_secs_f64(-uniform.ln() / rate);
            number += 1;
        }
        // Requests that are not answered by then do not count.
    }

    /// The server's base address.
    fn base(&self) -> Result<reqwest::Url, Failure> {
        Ok(reqwest::Url::parse(&self.options.target)?.join("/")?)
    }

    /// Opens connections that send one request and then stay open.
    async fn idle(&self) -> Result<Vec<tokio::net::TcpStream>, Failure> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let base = self.base()?;
        let address = base.socket_addrs(|| None)?[0];
        let mut open = Vec::new();
        for _ in 0..self.options.idle {
            let mut stream = tokio::net::TcpStream::connect(address).await?;
            stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n").await?;
            let mut start = [0; 12];
            stream.read_exact(&mut start).await?;
            if start != *b"HTTP/1.1 200" {
                return Err("an idle connection was refused".into());
            }
            open.push(stream);
        }
        Ok(open)
    }

    async fn probe(&self) {
        while let Ok(base) = self.base() {
            for path in ["livez", "readyz"] {
                let Ok(url) = base.join(path) else { return };
                let start = Instant::now();
                let answer = self.client.get(url).send().await;
                let mut seen = self.seen();
                match answer {
                    Ok(answer) if answer.status() == 200 => {
                        seen.probes.saturating_record(start.elapsed().as_micros() as u64)
                    }
                    Ok(answer) => *seen.failed.entry(format!("/{path} {}", answer.status())).or_default() += 1,
                    Err(e) => *seen.failed.entry(format!("/{path} {e}")).or_default() += 1,
                }
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Shows progress on one line.
    async fn watch(&self) {
        let bar = ProgressBar::new(self.options.seconds as u64);
        bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} s  {msg}").expect("a valid template"));
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let elapsed = self.begin.elapsed().as_secs_f64();
            let seen = self.seen();
            bar.set_position(elapsed as u64);
            bar.set_message(format!(
                "{:.0} tokens/s  p50 {:.0} ms  p99 {:.0} ms  refused {}  failed {}",
                seen.tokens as f64 / elapsed.max(0.1),
                seen.answered.value_at_quantile(0.5) as f64 / 1e3,
                seen.answered.value_at_quantile(0.99) as f64 / 1e3,
                seen.refused.len(),
                seen.failed.values().sum::<usize>()
            ));
        }
    }

    fn report(&self) -> Result<serde_json::Value, Failure> {
        let (options, seen) = (&self.options, self.seen());
        let ms = |h: &Histogram<u64>, q: f64| (h.value_at_quantile(q) as f64 / 100.0).round() / 10.0;
        let by_length: Vec<_> = LENGTHS
            .iter()
            .zip(&seen.by_length)
            .filter(|(_, h)| !h.is_empty())
            .map(|(limit, h)| json!({ "up_to_tokens": limit, "requests": h.len(), "p50_ms": ms(h, 0.5), "p99_ms": ms(h, 0.99) }))
            .collect();
        let result = json!({
            "target": options.target,
            "clients": options.rate.is_none().then_some(options.clients),
            "rate": options.rate,
            "seconds": options.seconds,
            "idle_connections": options.idle,
            "answered": seen.answered.len(),
            "refused": seen.refused.len(),
            "failed": seen.failed,
            "requests_per_second": seen.answered.len() as f64 / options.seconds,
            "tokens_per_second": (seen.tokens as f64 / options.seconds * 10.0).round() / 10.0,
            "p50_ms": ms(&seen.answered, 0.5), "p90_ms": ms(&seen.answered, 0.9), "p99_ms": ms(&seen.answered, 0.99),
            "max_ms": seen.answered.max() as f64 / 1e3,
            "by_length": by_length,
            "refused_p50_ms": ms(&seen.refused, 0.5), "refused_p99_ms": ms(&seen.refused, 0.99), "refused_max_ms": seen.refused.max() as f64 / 1e3,
            "probes": seen.probes.len(), "probes_p99_ms": ms(&seen.probes, 0.99), "probes_max_ms": seen.probes.max() as f64 / 1e3,
        });
        if let Some(out) = &options.out {
            std::fs::write(out.with_extension("json"), serde_json::to_string_pretty(&result)?)?;
            plot(&seen, &out.with_extension("svg"))?;
        }
        Ok(result)
    }
}

/// Draws latency by percentile, and throughput by second.
fn plot(seen: &Seen, path: &std::path::Path) -> Result<(), Failure> {
    use plotters::prelude::*;
    let fail = |e: &dyn std::fmt::Display| -> Failure { e.to_string().into() };
    let root = SVGBackend::new(path, (900, 380)).into_drawing_area();
    root.fill(&WHITE).map_err(|e| fail(&e))?;
    let (left, right) = root.split_horizontally(450);
    let points: Vec<(f64, f64)> = (0..=999)
        .map(|i| (f64::from(i) / 10.0, seen.answered.value_at_quantile(f64::from(i) / 1000.0) as f64 / 1e3))
        .collect();
    let top = points.last().map_or(1.0, |p| p.1).max(1.0);
    let mut chart = ChartBuilder::on(&left)
        .caption("latency, ms, by percentile", ("sans-serif", 16))
        .margin(12)
        .x_label_area_size(30)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..100.0, 0.0..top * 1.05)
        .map_err(|e| fail(&e))?;
    chart.configure_mesh().draw().map_err(|e| fail(&e))?;
    chart.draw_series(LineSeries::new(points, &BLUE)).map_err(|e| fail(&e))?;
    let seconds: Vec<(f64, f64)> = seen.each_second.iter().enumerate().map(|(i, &n)| (i as f64, n as f64)).collect();
    let (width, top) = (seconds.len().max(1) as f64, seconds.iter().map(|p| p.1).fold(1.0, f64::max));
    let mut chart = ChartBuilder::on(&right)
        .caption("tokens answered in each second", ("sans-serif", 16))
        .margin(12)
        .x_label_area_size(30)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..width, 0.0..top * 1.05)
        .map_err(|e| fail(&e))?;
    chart.configure_mesh().draw().map_err(|e| fail(&e))?;
    chart.draw_series(LineSeries::new(seconds, &BLUE)).map_err(|e| fail(&e))?;
    root.present().map_err(|e| fail(&e))
}
