//! Text embeddings with Alibaba's GTE models, fast on CPUs, in pure Rust.
//!
//! ```
//! use gte_core::{Embedder, similarity};
//!
//! # let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/models/all-MiniLM-L6-v2");
//! // A directory, or a hub id: Embedder::from_hub("thenlper/gte-large-zh")
//! let embedder = Embedder::from_dir(model)?;
//! let vectors = embedder.embed(&["A man is eating food.", "A man eats something.", "The sky is blue."])?;
//!
//! assert_eq!(vectors.dim(), embedder.dim());
//! let scores = similarity::scores(&vectors, &vectors)?;
//! assert!(scores[[0, 1]] > 0.7 && scores[[0, 2]] < 0.3);
//! # Ok::<(), gte_core::Error>(())
//! ```
//!
//! Text goes one way: text → tokens → packed batch → encoder → pooling → unit vectors → similarity. Read the files in that
//! order, `tokens.rs`, `batch.rs`, `encoder.rs` over the verbs of `ops/mod.rs`, `embedding.rs`, `similarity.rs`; where a model
//! comes from is in `files/`, `config.rs` and `weights/`, the arithmetic in `kernels/`, and `embedder.rs` ties all together.
//!
//! What it promises: the vectors of Hugging Face transformers in float64 to within 2e-6; the same bits for a text in any batch,
//! at any number of threads; no padding; no guess where a model's files do not say what they mean, but an error that names the
//! key.
//!
//! Features: `hub` (on) downloads models; `bundled` puts a small Chinese and English model into the library; `candle` adds the same encoder on candle tensors, `cuda` and `metal` put it on a GPU.

mod batch;
mod config;
mod convert;
mod device;
mod embedder;
mod embedding;
mod encoder;
mod error;
mod files;
mod kernels;
mod ops;
mod profile;
pub mod similarity;
mod threads;
mod tokenizer_json;
mod tokens;
mod weights;
mod wordpiece;

pub use batch::{Budget, PackedBatch, plan};
pub use config::{ModelConfig, Pooling};
pub use convert::convert_to_int8;
pub use device::{Device, Precision};
pub use embedder::{Builder, Embedder, Pause};
pub use embedding::{BinaryEmbeddings, Embeddings, Int8Embeddings};
pub use error::{Error, Result};
#[cfg(feature = "bundled")]
pub use files::bundled::NAME as BUNDLED;
pub use files::{DataFile, HubOptions, ModelFiles, OnProgress, Progress};
pub use kernels::Isa;
pub use profile::Profile;
pub use tokens::{Piece, Tokenizer, Tokens};
pub use weights::{Tensor, Values, Weights};
