//! Text embeddings with Alibaba's GTE models, fast on CPUs, in pure Rust.

mod error;
mod kernels;

pub use error::{Error, Result};
pub use kernels::Isa;
