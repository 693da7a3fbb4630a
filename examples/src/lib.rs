//! Shared by the examples: the options that choose a model, the line that says what was loaded, and
//! a progress bar for downloads.

use std::collections::HashMap;
use std::io::Write;
use std::sync::{Mutex, PoisonError};

use gte_core::{Builder, Device, Door, Embedder, MaxBatchTokens, Pooling, Precision};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// The model and how to run it.
#[derive(clap::Args)]
pub struct Model {
    /// Directory, hub id such as `thenlper/gte-large-zh` or
    /// `modelscope:iic/nlp_gte_sentence-embedding_chinese-large`, or `bundled`: the small model
    /// that is part of the crate, for trials.
    #[arg(long, default_value = gte_core::BUNDLED)]
    pub model: String,
    /// auto, cpu, cuda:0, cuda:1 …; auto is the first GPU if there is one, and the CPU otherwise.
    #[arg(long, default_value_t = Device::Auto)]
    pub device: Device,
    /// f32, bf16, int8 (on the CPU), f16 (on a GPU), fp8 (on a GPU from Ada and Hopper on), or
    /// auto. auto is bf16 if it is computed natively, and f32 otherwise.
    #[arg(long, default_value_t)]
    pub precision: Precision,
    /// Number of threads. Default: as many as the process may use.
    #[arg(long)]
    pub threads: Option<usize>,
    /// Length in tokens at which a text is truncated. Default: the model's own limit.
    #[arg(long)]
    pub max_length: Option<usize>,
    /// cls, mean or last-token. Default: as in the model's files.
    #[arg(long)]
    pub pooling: Option<Pooling>,
    /// Whether a token of a decoder attends only to the tokens before it: true or false, for Qwen2
    /// models whose files do not say so.
    #[arg(long)]
    pub causal: Option<bool>,
    /// Maximum number of tokens computed together.
    #[arg(long)]
    pub max_batch_tokens: Option<usize>,
    /// Commit, branch or tag on the hub.
    #[arg(long)]
    pub revision: Option<String>,
    /// Never contact a hub: the model must be a directory or in the cache.
    #[arg(long)]
    pub offline: bool,
}

impl Model {
    /// Loads an embedder, and reports on standard error what was loaded and which precision `auto`
    /// became. A download shows its progress there.
    ///
    /// # Errors
    /// As [`gte_core::Builder::build`].
    pub fn load(&self) -> gte_core::Result<Embedder> {
        self.open()
    }

    /// Loads a model as a `D`, and reports as [`load`](Self::load) does.
    ///
    /// # Errors
    /// As [`gte_core::Builder::build`].
    pub fn open<D: Door + std::fmt::Debug>(&self) -> gte_core::Result<D> {
        let bars = MultiProgress::new();
        let by_file: Mutex<HashMap<String, ProgressBar>> = Mutex::default();
        let builder = Builder::<D>::new(&self.model).device(self.device).precision(self.precision);
        let mut builder = builder.progress(move |p| {
            let mut by_file = by_file.lock().unwrap_or_else(PoisonError::into_inner);
            let bar = by_file.entry(p.file.to_owned()).or_insert_with(|| bars.add(bytes_bar(p.total, p.file)));
            bar.set_position(p.done);
            if p.done == p.total {
                bar.finish();
            }
        });
        if let Some(threads) = self.threads {
            builder = builder.threads(threads);
        }
        if let Some(tokens) = self.max_length {
            builder = builder.max_length(tokens);
        }
        if let Some(pooling) = self.pooling {
            builder = builder.pooling(pooling);
        }
        if let Some(causal) = self.causal {
            builder = builder.causal(causal);
        }
        if let Some(tokens) = self.max_batch_tokens {
            builder = builder.max_batch_tokens(MaxBatchTokens::new(tokens)?);
        }
        if let Some(revision) = &self.revision {
            builder = builder.revision(revision);
        }
        if self.offline {
            builder = builder.offline(true);
        }
        let model = builder.build()?;
        // If standard error is closed, embedding the texts still works.
        let _ = writeln!(std::io::stderr(), "{model:?}");
        Ok(model)
    }
}

/// A progress bar for the bytes of `file`.
fn bytes_bar(total: u64, file: &str) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{msg:30} {bytes:>10} / {total_bytes:10} {wide_bar} {bytes_per_sec} {eta}");
    ProgressBar::new(total)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        .with_message(file.to_owned())
}
