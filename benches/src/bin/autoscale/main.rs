//! Which target should an autoscaler have? A discrete-event simulation of a day, with the
//! HorizontalPodAutoscaler's own formula and measured service times:
//!
//!     cargo run --release -p benches --bin autoscale -- --tokens-per-second 228 --peak 40 --out autoscale
//!
//! Requests arrive at random (Poisson) at a rate that follows a curve: a synthetic day with two
//! sudden peaks, or `--curve`, a CSV of `second,requests_per_second`. Each request goes to a random
//! ready pod, as with kube-proxy, waits for the pod's earlier requests, and takes tokens / speed
//! seconds. Metrics are scraped every 15 s, and the autoscaler reads the last scrape every 15 s. A
//! pod is ready `--start` seconds after it was requested, and a pod that is removed finishes its
//! requests. Pods do not wait for nodes here.
//!
//! Prints for every target: the pod-hours per day, the maximum number of pods, latency, and the
//! share of minutes in which the 99th percentile was within `--slo`. Writes OUT.csv and OUT.svg.
//! The same `--seed` gives the same numbers.

mod hpa;
mod plant;

use std::io::Write;
use std::path::PathBuf;

use clap::Parser;

use crate::hpa::{Policy, Spec};
use crate::plant::{Day, Metric, Plant, simulate};

type Failure = Box<dyn std::error::Error>;

#[derive(Parser)]
#[command(about = "Simulates a day of an autoscaler with several targets")]
struct Options {
    /// Tokens per second of one pod, as measured under load.
    #[arg(long)]
    tokens_per_second: f64,
    /// Requests per second at the day's ordinary peak. The sudden peaks are three times as high.
    #[arg(long, default_value_t = 40.0)]
    peak: f64,
    /// CSV of second,requests_per_second, instead of the synthetic day.
    #[arg(long)]
    curve: Option<PathBuf>,
    /// Number of hours to simulate.
    #[arg(long, default_value_t = 24.0)]
    hours: f64,
    /// JSON lines with the texts of the requests. Only their lengths matter; a character counts as
    /// a token.
    #[arg(long, default_value = "benches/texts-mixed.jsonl")]
    texts: PathBuf,
    /// Seconds from a pod's creation to its first request.
    #[arg(long, default_value_t = 20.0)]
    start: f64,
    /// Minimum and maximum number of replicas.
    #[arg(long, default_value_t = 2)]
    min: usize,
    #[arg(long, default_value_t = 5000)]
    max: usize,
    /// The limit in seconds for the 99th percentile of a minute.
    #[arg(long, default_value_t = 2.0)]
    slo: f64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Writes OUT.csv and OUT.svg.
    #[arg(long)]
    out: Option<PathBuf>,
}

fn main() -> Result<(), Failure> {
    let options = Options::parse();
    let lengths: Vec<f64> = std::fs::read_to_string(&options.texts)?
        .lines()
        .map(|line| Ok(serde_json::from_str::<String>(line)?.chars().count().min(510) as f64 + 2.0))
        .collect::<Result<_, serde_json::Error>>()?;
    let mean = lengths.iter().sum::<f64>() / lengths.len() as f64;
    let curve = match &options.curve {
        Some(path) => read(path)?,
        None => synthetic(options.peak, options.hours),
    };
    let plant = Plant {
        speed: options.tokens_per_second,
        lengths,
        start: options.start,
        timeout: 60.0,
        seed: options.seed,
        spec: Spec {
            min: options.min,
            max: options.max,
            up: vec![Policy::Percent(100.0, 15.0), Policy::Pods(4, 15.0)],
            down: vec![Policy::Percent(50.0, 60.0)],
            stabilisation: 300.0,
        },
    };
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{:.0} tokens/s per pod, {mean:.0} tokens per request, so {:.2} requests/s per pod; {:.0} requests/s at most; a pod starts in {} s",
        options.tokens_per_second,
        options.tokens_per_second / mean,
        curve.iter().copied().fold(0.0, f64::max),
        options.start
    )?;
    writeln!(
        out,
        "\n{:<24}{:>10}{:>8}{:>8}{:>9}{:>9}{:>9}{:>10}{:>12}",
        "target",
        "pod-hours",
        "most",
        "busy",
        "p50 s",
        "p99 s",
        "p99.9 s",
        "refused",
        format!("p99<{} s", options.slo)
    )?;
    let mut days = Vec::new();
    for metrics in targets() {
        let name = metrics.iter().map(Metric::to_string).collect::<Vec<_>>().join(" or ");
        let day = simulate(&plant, &curve, &metrics);
        writeln!(
            out,
            "{name:<24}{:>10.1}{:>8}{:>7.0}%{:>9.2}{:>9.2}{:>9.2}{:>9.2}%{:>11.1}%",
            day.pod_seconds / 3600.0,
            day.most(),
            100.0 * day.busy(),
            day.quantile(0.5),
            day.quantile(0.99),
            day.quantile(0.999),
            100.0 * day.refused as f64 / day.requests().max(1) as f64,
            100.0 * day.within(options.slo)
        )?;
        days.push((name, day));
    }
    if let Some(base) = &options.out {
        table(&days, &base.with_extension("csv"))?;
        draw(&curve, &days, &base.with_extension("svg"))?;
    }
    Ok(())
}

/// The targets that are compared.
fn targets() -> Vec<Vec<Metric>> {
    let mut all: Vec<Vec<Metric>> = [0.5, 0.6, 0.7, 0.8, 0.9].map(|share| vec![Metric::Cpu(share)]).into();
    all.extend([0.6, 0.7, 0.8].map(|share| vec![Metric::Utilization(share)]));
    all.extend([0.25, 0.5, 1.0].map(|seconds| vec![Metric::QueueDelay(seconds)]));
    all.push(vec![Metric::Utilization(0.7), Metric::QueueDelay(0.5)]);
    all
}

/// Requests per second in each second: quiet at night, two broad peaks, and two spikes that
/// build up within a minute.
fn synthetic(peak: f64, hours: f64) -> Vec<f64> {
    let hump = |h: f64, at: f64, width: f64| (-((h - at) / width).powi(2)).exp();
    let spike = |h: f64, at: f64| {
        let minutes = (h - at) * 60.0;
        if minutes < 0.0 { 0.0 } else { minutes.min(1.0) * (-(minutes - 1.0).max(0.0) / 10.0).exp() }
    };
    let rate = |second: usize| {
        let h = second as f64 / 3600.0;
        let ordinary = 0.08 + 0.75 * hump(h, 10.5, 2.2) + 0.92 * hump(h, 20.0, 2.6) + 0.3 * hump(h, 15.0, 2.0);
        peak * (ordinary + 2.0 * (spike(h, 9.0) + spike(h, 20.0)))
    };
    (0..(hours * 3600.0) as usize).map(rate).collect()
}

/// Reads a curve from a CSV file. The rate of a line holds until the next line.
fn read(path: &std::path::Path) -> Result<Vec<f64>, Failure> {
    let mut curve: Vec<f64> = Vec::new();
    for (i, line) in std::fs::read_to_string(path)?.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let parsed = line
            .split_once(',')
            .and_then(|(s, r)| Some((s.trim().parse::<usize>().ok()?, r.trim().parse::<f64>().ok()?)));
        match parsed {
            Some((second, rate)) if second >= curve.len() && rate >= 0.0 => {
                let last = curve.last().copied().unwrap_or(rate);
                curve.resize(second, last);
                curve.push(rate);
            }
            None if i == 0 => {} // the header
            _ => {
                return Err(format!(
                    "{}:{}: expected rising second,requests_per_second, found {line:?}",
                    path.display(),
                    i + 1
                )
                .into());
            }
        }
    }
    match curve.is_empty() {
        true => Err(format!("{} contains no rates", path.display()).into()),
        false => Ok(curve),
    }
}

fn table(days: &[(String, Day)], path: &std::path::Path) -> Result<(), Failure> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    writeln!(file, "target,minute,replicas,p99_s")?;
    for (name, day) in days {
        for (minute, (replicas, p99)) in day.replicas.iter().zip(&day.p99).enumerate() {
            writeln!(file, "{name},{minute},{replicas},{p99:.4}")?;
        }
    }
    file.flush()?;
    Ok(())
}

/// Draws traffic, replicas and the 99th percentile over the day, for some of the targets.
fn draw(curve: &[f64], days: &[(String, Day)], path: &std::path::Path) -> Result<(), Failure> {
    use plotters::prelude::*;
    let fail = |e: &dyn std::fmt::Display| -> Failure { e.to_string().into() };
    let root = SVGBackend::new(path, (960, 760)).into_drawing_area();
    root.fill(&WHITE).map_err(|e| fail(&e))?;
    let hours = curve.len() as f64 / 3600.0;
    // The curves that vary most are drawn first, below the others.
    let shown: Vec<(usize, RGBColor)> =
        [(9, RGBColor(240, 170, 170)), (2, BLUE), (6, RGBColor(0, 130, 60)), (11, RGBColor(140, 90, 0))].into();
    let minutes =
        |values: &[f64]| -> Vec<(f64, f64)> { values.iter().enumerate().map(|(m, &v)| (m as f64 / 60.0, v)).collect() };
    let traffic: Vec<f64> = curve.chunks(60).map(|c| c.iter().sum::<f64>() / c.len() as f64).collect();
    type Lines = Vec<(String, RGBColor, Vec<(f64, f64)>)>;
    let of = |f: &dyn Fn(&Day) -> Vec<f64>| -> Lines {
        shown
            .iter()
            .filter_map(|&(i, color)| days.get(i).map(|(name, day)| (name.clone(), color, minutes(&f(day)))))
            .collect()
    };
    let panels: [(&str, Lines); 3] = [
        ("requests per second", vec![("traffic".into(), BLACK, minutes(&traffic))]),
        ("replicas", of(&|day| day.replicas.iter().map(|&n| n as f64).collect())),
        ("99th percentile of each minute, s (cut at 10)", of(&|day| day.p99.iter().map(|p| p.min(10.0)).collect())),
    ];
    for (area, (title, lines)) in root.split_evenly((3, 1)).into_iter().zip(panels) {
        let top = lines.iter().flat_map(|(.., line)| line.iter().map(|p| p.1)).fold(0.1, f64::max);
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 16))
            .margin(10)
            .x_label_area_size(26)
            .y_label_area_size(50)
            .build_cartesian_2d(0.0..hours, 0.0..top * 1.05)
            .map_err(|e| fail(&e))?;
        chart.configure_mesh().x_desc("hour").draw().map_err(|e| fail(&e))?;
        for (name, color, line) in lines {
            let series = chart.draw_series(LineSeries::new(line, &color)).map_err(|e| fail(&e))?;
            series.label(name).legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color));
        }
        // The legend goes where there is little traffic: at night.
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .border_style(BLACK)
            .background_style(WHITE)
            .draw()
            .map_err(|e| fail(&e))?;
    }
    root.present().map_err(|e| fail(&e))
}
