//! The Python module `gte._gte`: arguments → engine → numpy, without the interpreter's lock while the engine works. What Python people
//! expect around it (progress, drop-ins, the command line) is Python, in `python/gte`.

mod errors;
mod texts;

use std::path::PathBuf;
use std::sync::Arc;

use gte_core::{Budget, Pooling, Precision, similarity};
use numpy::{IntoPyArray, PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray2};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

use crate::errors::to_python;
use crate::texts::Texts;

/// Texts that are tokenized together. Vectors are computed in the engine's own batches.
const PIECE: usize = 1024;

/// A model that is ready. All methods may be called from many threads at once.
#[pyclass(module = "gte._gte", frozen)]
struct Engine {
    engine: Arc<gte_core::Embedder>,
}

fn option<T: std::str::FromStr<Err = gte_core::Error>>(value: Option<&str>) -> PyResult<Option<T>> {
    value.map(|value| value.parse::<T>().map_err(to_python)).transpose()
}

#[pymethods]
impl Engine {
    #[new]
    #[pyo3(signature = (model, *, precision = None, threads = None, max_length = None, revision = None, offline = false, pooling = None, batch_tokens = None))]
    #[allow(clippy::too_many_arguments, reason = "Python's keywords")]
    fn new(
        py: Python<'_>,
        model: PathBuf,
        precision: Option<&str>,
        threads: Option<usize>,
        max_length: Option<usize>,
        revision: Option<String>,
        offline: bool,
        pooling: Option<&str>,
        batch_tokens: Option<usize>,
    ) -> PyResult<Self> {
        let mut builder = gte_core::Embedder::builder(model.to_string_lossy());
        if let Some(precision) = option::<Precision>(precision)? {
            builder = builder.precision(precision);
        }
        if let Some(pooling) = option::<Pooling>(pooling)? {
            builder = builder.pooling(pooling);
        }
        if let Some(threads) = threads {
            builder = builder.threads(threads);
        }
        if let Some(tokens) = max_length {
            builder = builder.max_length(tokens);
        }
        if let Some(revision) = revision {
            builder = builder.revision(revision);
        }
        if offline {
            builder = builder.offline(true);
        }
        if let Some(tokens) = batch_tokens {
            builder = builder.budget(Budget::new(tokens).map_err(to_python)?);
        }
        let engine = py.detach(|| builder.build()).map_err(to_python)?;
        Ok(Self { engine: Arc::new(engine) })
    }

    /// (texts × dim) unit vectors. Between two batches signals are looked at, and `progress(texts done)` is called.
    #[pyo3(signature = (texts, progress = None))]
    fn embed<'py>(
        &self,
        py: Python<'py>,
        texts: &Bound<'py, PyAny>,
        progress: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let texts = Texts::from_python(texts)?;
        let texts = texts.as_strs();
        let (engine, dim) = (&*self.engine, self.engine.dim());
        let mut values = vec![0.0f32; texts.len() * dim];
        let mut done = 0;
        for piece in texts.chunks(PIECE) {
            let tokens = py.detach(|| engine.tokenize(piece)).map_err(to_python)?;
            for batch in engine.batches(&tokens).map_err(to_python)? {
                let count = batch.len();
                let out = &mut values[done * dim..(done + count) * dim];
                py.detach(|| engine.embed_tokens_into(&tokens[batch], out)).map_err(to_python)?;
                done += count;
                py.check_signals()?;
                if let Some(progress) = progress {
                    progress.call1((done,))?;
                }
            }
        }
        values.into_pyarray(py).reshape([texts.len(), dim])
    }

    /// Token ids of each text, cut at `max_length`, and how many there were before the cut.
    fn tokenize<'py>(
        &self,
        py: Python<'py>,
        texts: &Bound<'py, PyAny>,
    ) -> PyResult<Vec<(Bound<'py, PyArray1<u32>>, usize)>> {
        let texts = Texts::from_python(texts)?;
        let texts = texts.as_strs();
        let tokens = py.detach(|| self.engine.tokenize(&texts)).map_err(to_python)?;
        Ok(tokens.into_iter().map(|t| (t.ids.into_pyarray(py), t.full_len)).collect())
    }

    /// The `k` nearest rows of `corpus` to each of `queries`: (queries × k) indices and scores.
    #[staticmethod]
    #[allow(clippy::type_complexity, reason = "two arrays")]
    fn top_k<'py>(
        py: Python<'py>,
        queries: PyReadonlyArray2<'py, f32>,
        corpus: PyReadonlyArray2<'py, f32>,
        k: usize,
    ) -> PyResult<(Bound<'py, PyArray2<i64>>, Bound<'py, PyArray2<f32>>)> {
        let (queries, corpus) = (queries.as_array(), corpus.as_array());
        let hits = py.detach(|| similarity::top_k(queries, corpus, k)).map_err(to_python)?;
        let shape = [hits.len(), k.min(corpus.nrows())];
        let indices: Vec<i64> = hits.iter().flatten().map(|hit| hit.index as i64).collect();
        let scores: Vec<f32> = hits.iter().flatten().map(|hit| hit.score).collect();
        Ok((indices.into_pyarray(py).reshape(shape)?, scores.into_pyarray(py).reshape(shape)?))
    }

    /// The hub id, or the directory's name.
    #[getter]
    fn name(&self) -> &str {
        self.engine.name()
    }

    /// Values a vector.
    #[getter]
    fn dim(&self) -> usize {
        self.engine.dim()
    }

    /// Where texts are cut, in tokens.
    #[getter]
    fn max_length(&self) -> usize {
        self.engine.max_length()
    }

    /// The type of the matrix products.
    #[getter]
    fn precision(&self) -> &'static str {
        self.engine.precision().name()
    }

    /// The instruction set of the kernels.
    #[getter]
    fn isa(&self) -> &'static str {
        self.engine.isa().name()
    }

    /// Compute threads.
    #[getter]
    fn threads(&self) -> usize {
        self.engine.threads()
    }
}

/// int8 values and one scale a row of unit vectors: (rows × dim), (rows).
#[pyfunction]
#[allow(clippy::type_complexity, reason = "two arrays")]
fn to_int8<'py>(
    py: Python<'py>,
    vectors: PyReadonlyArray2<'py, f32>,
) -> PyResult<(Bound<'py, PyArray2<i8>>, Bound<'py, PyArray1<f32>>)> {
    let embeddings = unit_rows(&vectors)?;
    let (rows, dim) = (embeddings.len(), embeddings.dim());
    let quantized = embeddings.to_int8();
    Ok((quantized.values.into_pyarray(py).reshape([rows, dim])?, quantized.scales.into_pyarray(py)))
}

/// One bit a value, packed as `numpy.packbits` does: (rows × ⌈dim / 8⌉).
#[pyfunction]
fn to_ubinary<'py>(py: Python<'py>, vectors: PyReadonlyArray2<'py, f32>) -> PyResult<Bound<'py, PyArray2<u8>>> {
    let embeddings = unit_rows(&vectors)?;
    let (rows, bytes) = (embeddings.len(), embeddings.dim().div_ceil(8));
    embeddings.to_binary().values.into_pyarray(py).reshape([rows, bytes])
}

/// The first `dim` values of each row, of unit length again.
#[pyfunction]
fn truncate<'py>(
    py: Python<'py>,
    vectors: PyReadonlyArray2<'py, f32>,
    dim: usize,
) -> PyResult<Bound<'py, PyArray2<f32>>> {
    let shorter = unit_rows(&vectors)?.truncate(dim).map_err(to_python)?;
    Ok(shorter.into_array().into_pyarray(py))
}

fn unit_rows(vectors: &PyReadonlyArray2<'_, f32>) -> PyResult<gte_core::Embeddings> {
    let view = vectors.as_array();
    let dim = view.ncols();
    gte_core::Embeddings::from_unit_rows(view.iter().copied().collect(), dim).map_err(to_python)
}

#[pymodule]
fn _gte(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<Engine>()?;
    module.add_function(wrap_pyfunction!(to_int8, module)?)?;
    module.add_function(wrap_pyfunction!(to_ubinary, module)?)?;
    module.add_function(wrap_pyfunction!(truncate, module)?)?;
    errors::add(module)
}

/// A `TypeError` and a `ValueError` that say what is wrong with the texts.
fn wrong_type(message: impl Into<String>) -> PyErr {
    PyTypeError::new_err(message.into())
}

fn wrong_value(message: impl Into<String>) -> PyErr {
    PyValueError::new_err(message.into())
}
