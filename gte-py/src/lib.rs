//! The Python module `gte._gte`: arguments → engine → numpy. The interpreter's lock is released
//! while the engine works. Everything else that Python users expect (progress, replacements for
//! other libraries, the command line) is written in Python, in `python/gte`.
//!
//! Read the files in this order: `texts.rs` reads Python texts, `options.rs` opens a model,
//! `embed.rs` and `rerank.rs` use it, `vectors.rs` compares and shrinks vectors from any source,
//! `errors.rs` translates errors.

mod embed;
mod errors;
mod options;
mod rerank;
mod texts;
mod vectors;

use pyo3::prelude::*;

#[pymodule]
fn _gte(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<options::Options>()?;
    module.add_class::<embed::Engine>()?;
    module.add_class::<rerank::Scorer>()?;
    module.add_function(wrap_pyfunction!(texts::check_texts, module)?)?;
    vectors::add(module)?;
    errors::add(module)
}
