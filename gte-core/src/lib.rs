//! Text embeddings and reranking with Alibaba's GTE models and their neighbours, fast on CPUs, in
//! pure Rust.
//!
//! ```
//! use gte_core::{Embedder, similarity};
//!
//! // The small model of the feature `bundled`. For production a directory or a hub id:
//! // Embedder::from_dir("models/gte-large-zh"), Embedder::from_hub("thenlper/gte-large-zh")
//! let embedder = Embedder::bundled()?;
//! let vectors = embedder.embed(&["我想退货，请问怎么办理？", "How do I return it?", "今天天气真好"])?;
//!
//! assert_eq!(vectors.dim(), embedder.dim());
//! let scores = similarity::scores(&vectors, &vectors)?;
//! assert!(scores[[0, 1]] > scores[[0, 2]]);
//! # Ok::<(), gte_core::Error>(())
//! ```
//!
//! There are three doors to a model: [`Embedder`] gives a vector per text, and where the model has
//! them sparse weights and a vector per token in the same pass; [`SparseEmbedder`] gives the
//! weights alone; [`Reranker`] scores documents for a query. A [`Builder`] opens each of them.
//!
//! Text goes one way: text → tokens → packed batch → encoder → head → vectors or scores. Read the
//! files in that order: `tokenizer/` and `template.rs`, `batch.rs`, `encoder.rs` over the verbs of
//! `backend/mod.rs`, `heads.rs`, `embedding.rs`, `outputs.rs` and `similarity.rs`. What a model is,
//! is data: `models/` reads a `config.json` into an `Architecture`, one file per family, and holds
//! the tensors' names; `modules/` reads what sentence-transformers puts beside it, and `config.rs`
//! makes one value of both. Files come through `files/`, tensors through `weights/`; the arithmetic
//! is in `kernels/`. `engine.rs` plans and runs forward passes, `options.rs` loads an engine, and
//! `embedder.rs`, `sparse.rs` and `reranker.rs` are the doors to it. Imports go down this way only
//! (`tests/layers.rs`).
//!
//! What it promises: the vectors of Hugging Face transformers in float64 to within 2e-6 in
//! [`Precision::F32`], which [`Precision::Auto`], the default, is on CPUs without bf16; the same
//! bits for a text in any batch, at any number of threads; no padding; no guess where a model's
//! files do not say what they mean, but an error that names the key.
//!
//! # Features
//!
//! | feature | |
//! |---|---|
//! | `hub` (default) | downloads models from the Hugging Face hub, its mirrors and ModelScope |
//! | `bundled` | a small Chinese and English model in the library itself, 9 MB, for trying and testing; the examples of this documentation need it |
//! | `candle` | the same encoder on candle tensors: [`Device::CandleCpu`] |
//! | `cuda` | NVIDIA GPUs, if there is one and its driver: [`Device::Cuda`], [`Device::Auto`] |
//! | `metal` | Apple GPUs, through candle: [`Device::Metal`] |
#![warn(missing_debug_implementations)]

mod backend;
mod batch;
mod calibration;
mod compute;
mod config;
mod dense;
mod device;
mod embedder;
mod embedding;
mod encoder;
mod engine;
mod env;
mod error;
mod files;
mod heads;
mod json;
mod kernels;
#[cfg(test)]
mod model_files;
mod models;
mod modules;
mod options;
mod outputs;
mod profile;
mod prompts;
mod quantize;
#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod rankings;
mod reranker;
pub mod similarity;
mod sparse;
mod template;
mod threads;
mod tokenizer;
mod weights;
mod windows;

#[cfg(feature = "cuda-emulator")]
#[doc(hidden)]
pub use backend::cuda::emulated as cuda_emulator;
pub use batch::{MaxBatchTokens, Sequence};
pub use compute::{Pause, SharedPrefix, Work};
pub use config::{ModelConfig, ModelTask};
pub use device::{Device, DeviceState, Precision};
pub use embedder::{EmbedOptions, Embedder};
pub use embedding::{BinaryEmbeddings, Embeddings, Int8Embeddings};
pub use engine::Engine;
pub use error::{Error, Result};
#[cfg(feature = "bundled")]
pub use files::bundled::NAME as BUNDLED;
pub use files::{DownloadProgress, HubOptions, ModelFiles, OnProgress};
pub use kernels::Isa;
pub use models::Pooling;
pub use options::{Builder, Door};
pub use outputs::{AllEmbeddings, MultiVectors, Outputs, SparseEmbeddings, TextOutput};
pub use prompts::{Prompt, Prompts};
pub use quantize::quantize_to_int8;
pub use reranker::{PairOptions, Reranker};
pub use sparse::SparseEmbedder;
pub use threads::Threads;
pub use tokenizer::{Piece, TokenizeOptions, Tokenizer, Tokens, TruncationSide};
pub use windows::{Combine, WindowedEmbedding, Windows};

/// What this repository's own tests, benchmarks, fuzz targets and bindings need beside the API. No
/// promise is made about it: it may change in any release.
#[doc(hidden)]
pub mod internals {
    pub use crate::batch::{PackedBatch, plan};
    pub use crate::kernels::read_speed;
    pub use crate::profile::{KernelTime, Profile, Stage};
    pub use crate::weights::{Tensor, Values, Weights};
}

/// A model is shared by the threads of a server, and a builder may be sent to the thread that
/// loads.
const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<Embedder>();
    shared::<Reranker>();
    shared::<SparseEmbedder>();
    shared::<Engine>();
    shared::<Builder<Embedder>>();
    shared::<ModelFiles>();
    shared::<HubOptions>();
    shared::<Tokenizer>();
    shared::<Threads>();
    shared::<SharedPrefix>();
    shared::<Embeddings>();
    shared::<Error>();
};
