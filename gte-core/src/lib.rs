//! Text embeddings with Alibaba's GTE models, fast on CPUs, in pure Rust.

mod error;

pub use error::{Error, Result};
