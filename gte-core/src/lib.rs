//! Text embeddings with Alibaba's GTE models, fast on CPUs, in pure Rust.

mod batch;
mod config;
mod embedder;
mod embedding;
mod encoder;
mod error;
mod files;
mod kernels;
mod ops;
pub mod similarity;
mod threads;
mod tokens;
mod weights;

pub use batch::{Budget, PackedBatch, plan};
pub use config::{ModelConfig, Pooling};
pub use embedder::{Builder, Device, Embedder, Precision};
pub use embedding::{BinaryEmbeddings, Embeddings, Int8Embeddings};
pub use error::{Error, Result};
pub use files::{DataFile, HubOptions, ModelFiles, OnProgress, Progress};
pub use kernels::Isa;
pub use tokens::{Piece, Tokenizer, Tokens};
pub use weights::{Tensor, Values, Weights};
