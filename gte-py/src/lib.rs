//! The Python module `gte._gte`: arguments → engine → numpy, without the interpreter's lock while the engine works. What Python people
//! expect around it (progress, drop-ins, the command line) is Python, in `python/gte`.

mod errors;
mod texts;

use std::path::PathBuf;
use std::sync::Arc;

use gte_core::{Budget, HubOptions, ModelFiles, Pooling, Precision, Prompt, TokenizeOptions, Tokens, similarity};
use numpy::{IntoPyArray, PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray2};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::PyString;

use crate::errors::to_python;
use crate::texts::{Texts, not_utf8, refuse_what_is_no_list};

/// Texts that are tokenized together. Vectors are computed in the engine's own batches.
const PIECE: usize = 1024;

/// A model that is ready. All methods may be called from many threads at once.
#[pyclass(module = "gte._gte", frozen)]
struct Engine {
    engine: Arc<gte_core::Embedder>,
    normalizes: bool,
}

/// Whether the model's own files ask for vectors of unit length: what `encode` of sentence-transformers gives.
fn normalizes(files: &ModelFiles) -> gte_core::Result<bool> {
    let Some(content) = files.read("modules.json")? else { return Ok(false) };
    let modules: Vec<Module> = serde_json::from_slice(&content).unwrap_or_default();
    Ok(modules.iter().any(|module| module.kind.rsplit('.').next() == Some("Normalize")))
}

/// An entry of `modules.json`, which the engine has checked.
#[derive(serde::Deserialize)]
struct Module {
    #[serde(rename = "type")]
    kind: String,
}

/// What goes before each text: `prompt` itself, the model's prompt of a name, else the model's default.
fn tokens(
    engine: &gte_core::Embedder,
    texts: &[&str],
    prompt: Option<&str>,
    name: Option<&str>,
) -> gte_core::Result<Vec<Tokens>> {
    let prompt = match (prompt, name) {
        (Some(prompt), _) => Prompt::Text(prompt),
        (None, Some(name)) => Prompt::Named(name),
        (None, None) => Prompt::Default,
    };
    engine.tokenize_with(texts, &TokenizeOptions { prompt, ..TokenizeOptions::default() })
}

/// An error about a text of a piece, which is one of all from `first` on.
fn counted_from(first: usize, error: gte_core::Error) -> gte_core::Error {
    match error {
        gte_core::Error::Tokenize { index, reason } => gte_core::Error::Tokenize { index: first + index, reason },
        error => error,
    }
}

/// An argument that goes into a text.
fn argument(name: &str, value: Option<Bound<'_, PyString>>) -> PyResult<Option<PyBackedStr>> {
    let read = |string: Bound<'_, PyString>| {
        PyBackedStr::try_from(string.clone()).map_err(|error| not_utf8(name, &string, error))
    };
    value.map(read).transpose()
}

fn option<T: std::str::FromStr<Err = gte_core::Error>>(value: Option<&str>) -> PyResult<Option<T>> {
    value.map(|value| value.parse::<T>().map_err(to_python)).transpose()
}

#[pymethods]
impl Engine {
    #[new]
    #[pyo3(signature = (model, *, precision = None, threads = None, max_length = None, revision = None, offline = false, pooling = None, batch_tokens = None, cache_folder = None))]
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
        cache_folder: Option<PathBuf>,
    ) -> PyResult<Self> {
        let mut hub = HubOptions::from_env().map_err(to_python)?;
        hub.revision = revision;
        hub.offline |= offline;
        if let Some(cache) = cache_folder {
            hub.cache = cache;
        }
        let files = py.detach(|| match model.to_str() {
            Some(name) => ModelFiles::open(name, &hub),
            None => ModelFiles::from_dir(&model),
        });
        let files = files.map_err(to_python)?;
        let normalizes = normalizes(&files).map_err(to_python)?;
        let mut builder = gte_core::Embedder::from_files(files);
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
        if let Some(tokens) = batch_tokens {
            builder = builder.budget(Budget::new(tokens).map_err(to_python)?);
        }
        let engine = py.detach(|| builder.build()).map_err(to_python)?;
        Ok(Self { engine: Arc::new(engine), normalizes })
    }

    /// (texts × dim) vectors, of unit length unless `pooled`: then as the model pools them. Between two batches signals are looked
    /// at, and `progress(texts done)` is called.
    #[pyo3(signature = (texts, progress = None, *, prompt = None, prompt_name = None, pooled = false, first = 0))]
    #[allow(clippy::too_many_arguments, reason = "Python's keywords")]
    fn embed<'py>(
        &self,
        py: Python<'py>,
        texts: &Bound<'py, PyAny>,
        progress: Option<&Bound<'py, PyAny>>,
        prompt: Option<Bound<'py, PyString>>,
        prompt_name: Option<Bound<'py, PyString>>,
        pooled: bool,
        first: usize,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let (prompt, name) = (argument("prompt", prompt)?, argument("prompt_name", prompt_name)?);
        let (prompt, name) = (prompt.as_deref(), name.as_deref());
        let texts = Texts::from_python(texts, first)?;
        let texts = texts.as_strs();
        let (engine, dim) = (&*self.engine, self.engine.dim());
        let mut values = vec![0.0f32; texts.len() * dim];
        let mut done = 0;
        // A prompt that the model does not have is an error without a text too.
        tokens(engine, &[], prompt, name).map_err(to_python)?;
        for piece in texts.chunks(PIECE) {
            let tokens = py.detach(|| tokens(engine, piece, prompt, name));
            let tokens = tokens.map_err(|error| to_python(counted_from(first + done, error)))?;
            for batch in engine.batches(&tokens).map_err(to_python)? {
                let count = batch.len();
                let (batch, out) = (&tokens[batch], &mut values[done * dim..(done + count) * dim]);
                let computed = py.detach(|| match pooled {
                    true => engine.pool_tokens(batch).map(|pooled| out.copy_from_slice(&pooled)),
                    false => engine.embed_tokens_into(batch, out),
                });
                computed.map_err(to_python)?;
                done += count;
                py.check_signals()?;
                if let Some(progress) = progress {
                    progress.call1((done,))?;
                }
            }
        }
        values.into_pyarray(py).reshape([texts.len(), dim])
    }

    /// Token ids of each text with its prompt, cut at `max_length`, and how many there were before the cut.
    #[pyo3(signature = (texts, *, prompt = None, prompt_name = None))]
    fn tokenize<'py>(
        &self,
        py: Python<'py>,
        texts: &Bound<'py, PyAny>,
        prompt: Option<Bound<'py, PyString>>,
        prompt_name: Option<Bound<'py, PyString>>,
    ) -> PyResult<Vec<(Bound<'py, PyArray1<u32>>, usize)>> {
        let (prompt, name) = (argument("prompt", prompt)?, argument("prompt_name", prompt_name)?);
        let (prompt, name) = (prompt.as_deref(), name.as_deref());
        let texts = Texts::from_python(texts, 0)?;
        let texts = texts.as_strs();
        let tokens = py.detach(|| tokens(&self.engine, &texts, prompt, name)).map_err(to_python)?;
        Ok(tokens.into_iter().map(|t| (t.ids.into_pyarray(py), t.full_len)).collect())
    }

    /// Name and text of each prompt in the model's files, and of `query` and `document`, which may be empty.
    #[getter]
    fn prompts(&self) -> Vec<(&str, &str)> {
        let prompts = self.engine.prompts();
        prompts.names().map(|name| (name, prompts.get(name).unwrap_or_default())).collect()
    }

    /// The name of the prompt that is used where none is chosen.
    #[getter]
    fn default_prompt_name(&self) -> Option<&str> {
        self.engine.prompts().default_name()
    }

    /// Whether the model's own files ask for vectors of unit length.
    #[getter]
    fn normalizes(&self) -> bool {
        self.normalizes
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

/// A `TypeError` for what can be gone through and is no list of texts: a str, bytes, a dict, a set, a table.
#[pyfunction]
fn check_texts(texts: &Bound<'_, PyAny>) -> PyResult<()> {
    refuse_what_is_no_list(texts)
}

#[pymodule]
fn _gte(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<Engine>()?;
    module.add_function(wrap_pyfunction!(to_int8, module)?)?;
    module.add_function(wrap_pyfunction!(to_ubinary, module)?)?;
    module.add_function(wrap_pyfunction!(truncate, module)?)?;
    module.add_function(wrap_pyfunction!(check_texts, module)?)?;
    errors::add(module)
}

/// A `TypeError` and a `ValueError` that say what is wrong with the texts.
fn wrong_type(message: impl Into<String>) -> PyErr {
    PyTypeError::new_err(message.into())
}

fn wrong_value(message: impl Into<String>) -> PyErr {
    PyValueError::new_err(message.into())
}
