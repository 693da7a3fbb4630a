//! The Python module `gte._gte`: arguments → engine → numpy, without the interpreter's lock while
//! the engine works. What Python people expect around it (progress, drop-ins, the command line) is
//! Python, in `python/gte`.
//!
//! Read the files in this order: `texts.rs` takes texts as Python has them, `options.rs` opens a
//! model, `embed.rs` and `rerank.rs` are the doors to one, `vectors.rs` compares and shrinks
//! vectors of any origin, `errors.rs` maps errors.

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
