//! Text embeddings and reranking with Alibaba's GTE models and their neighbours, fast on CPUs, in
//! pure Rust.
//!
//! ```
//! use gte_core::{Embedder, similarity};
//!
//! # let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/models/all-MiniLM-L6-v2");
//! // A directory, or a hub id: Embedder::from_hub("thenlper/gte-large-zh")
//! let embedder = Embedder::from_dir(model)?;
//! let vectors =
//!     embedder.embed(&["A man is eating food.", "A man eats something.", "The sky is blue."])?;
//!
//! assert_eq!(vectors.dim(), embedder.dim());
//! let scores = similarity::scores(&vectors, &vectors)?;
//! assert!(scores[[0, 1]] > 0.7 && scores[[0, 2]] < 0.3);
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
//! Features: `hub` (on) downloads models; `bundled` puts a small Chinese and English model into the
//! library; `candle` adds the same encoder on candle tensors, `cuda` and `metal` put it on a GPU.

mod backend;
mod batch;
mod calibration;
mod compute;
mod config;
mod convert;
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
mod reranker;
pub mod similarity;
mod sparse;
mod template;
mod threads;
mod tokenizer;
mod weights;
mod windows;

pub use batch::{Budget, PackedBatch, Sequence, plan};
pub use compute::{Pause, SharedPrefix, Work};
pub use config::{ModelConfig, ModelTask};
pub use convert::convert_to_int8;
pub use device::{Device, Precision};
pub use embedder::{EmbedOptions, Embedder};
pub use embedding::{BinaryEmbeddings, Embeddings, Int8Embeddings};
pub use engine::Engine;
pub use error::{Error, Result};
#[cfg(feature = "bundled")]
pub use files::bundled::NAME as BUNDLED;
pub use files::{DataFile, HubOptions, ModelFiles, OnProgress, Progress};
pub use kernels::Isa;
pub use models::Pooling;
pub use options::{Builder, Door};
pub use outputs::{AllEmbeddings, MultiVectors, Outputs, SparseEmbeddings, TextOutput};
pub use profile::Profile;
pub use prompts::{Prompt, Prompts};
pub use reranker::Reranker;
pub use sparse::SparseEmbedder;
pub use threads::Threads;
pub use tokenizer::{Piece, TokenizeOptions, Tokenizer, Tokens, TruncationSide};
pub use weights::{Tensor, Values, Weights};
pub use windows::{Combine, WindowedEmbedding, Windows};
