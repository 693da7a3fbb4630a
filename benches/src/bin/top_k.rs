//! Does exact search run at the speed of memory? Compares `top_k` with a plain sum over the same
//! rows, in turn.
//!
//!     cargo run --release -p benches --bin top_k -- --rows 1000000 --dim 256

use std::io::Write;
use std::time::Instant;

use clap::Parser;
use gte_core::similarity::top_k;
use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;

#[derive(Parser)]
#[command(about = "Speed of exact search, compared with the speed of reading")]
struct Options {
    /// Number of rows in the corpus.
    #[arg(long, default_value_t = 1_000_000)]
    rows: usize,
    /// Values per row.
    #[arg(long, default_value_t = 256)]
    dim: usize,
    /// Number of timed rounds.
    #[arg(long, default_value_t = 5)]
    repeat: usize,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Options { rows, dim, repeat } = Options::parse();
    let value = |i: usize| ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0;
    let data: Vec<f32> = (0..rows * dim).into_par_iter().map(value).collect();
    let corpus = ArrayView2::from_shape((rows, dim), &data)?;
    let mut out = std::io::stdout().lock();
    for queries in [1, 8, 64] {
        let query = Array2::from_shape_fn((queries, dim), |(i, j)| value(i * 7919 + j * 31));
        // Check the results first: the best row for the first query, by plain arithmetic.
        let hits = top_k(query.view(), corpus, 10)?;
        let plain = |row: &[f32]| row.iter().zip(query.row(0)).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let best = data.par_chunks(dim).map(plain).reduce(|| f64::MIN, f64::max);
        assert!((f64::from(hits[0][0].score) - best).abs() < 1e-3, "the best row was not found");
        let (mut search, mut read) = (Vec::new(), Vec::new());
        for _ in 0..repeat {
            let start = Instant::now();
            top_k(query.view(), corpus, 10)?;
            search.push(start.elapsed().as_secs_f64());
            let start = Instant::now();
            let run = |values: &[f32]| -> f32 {
                let add = |mut sums: [f32; 16], v: &[f32; 16]| {
                    sums.iter_mut().zip(v).for_each(|(sum, v)| *sum += v);
                    sums
                };
                values.as_chunks::<16>().0.iter().fold([0.0; 16], add).iter().sum()
            };
            std::hint::black_box(data.par_chunks(1 << 16).map(run).sum::<f32>());
            read.push(start.elapsed().as_secs_f64());
        }
        search.sort_by(f64::total_cmp);
        read.sort_by(f64::total_cmp);
        let bytes = (rows * dim * 4) as f64;
        writeln!(
            out,
            "{queries} queries: {:.3} s, {:.1} GB/s of corpus; reading alone {:.1} GB/s",
            search[repeat / 2],
            bytes / search[repeat / 2] / 1e9,
            bytes / read[repeat / 2] / 1e9
        )?;
    }
    Ok(())
}
