//! `Engine` turns texts into a vector per text, sparse weights, and a vector per token.

use std::ops::Range;

use gte_core::{Embedder, MultiVectors, Outputs, Prompt, SparseEmbeddings, TokenizeOptions, Tokens};
use numpy::{IntoPyArray, PyArray1, PyArray2, PyArrayMethods};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::PyString;

use crate::errors::{counted_from, to_python, wrong_value};
use crate::options::Options;
use crate::texts::{TEXT, Texts, argument};

/// Number of texts that are tokenized together. Vectors are computed in the engine's own batches.
pub(crate) const PIECE: usize = 1024;

/// A model that is ready. All methods may be called from many threads at once.
#[pyclass(module = "gte._gte", frozen)]
pub(crate) struct Engine {
    engine: Embedder,
}

/// Dense vectors; row starts, token ids and weights of sparse vectors; row starts and values of
/// token vectors.
type All<'py> = (
    Option<Bound<'py, PyArray2<f32>>>,
    Option<(Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<u32>>, Bound<'py, PyArray1<f32>>)>,
    Option<(Bound<'py, PyArray1<i64>>, Bound<'py, PyArray2<f32>>)>,
);

/// The prompt before each text: `prompt` itself, or the model's prompt named `name`, or the model's
/// default.
pub(crate) fn prompt_of<'a>(prompt: Option<&'a PyBackedStr>, name: Option<&'a PyBackedStr>) -> Prompt<'a> {
    match (prompt, name) {
        (Some(prompt), _) => Prompt::Text(prompt),
        (None, Some(name)) => Prompt::Named(name),
        (None, None) => Prompt::Default,
    }
}

impl Engine {
    fn tokens(&self, texts: &[&str], prompt: Prompt<'_>) -> gte_core::Result<Vec<Tokens>> {
        self.engine.tokenize_with(texts, &TokenizeOptions::default().with_prompt(prompt))
    }

    /// Calls `compute` with one batch after the other, and with the indices of its texts. Between
    /// two batches, signals are checked and `progress(number of finished texts)` is called. An
    /// error names a wrong text by its position, counted from `first`.
    fn by_batches(
        &self,
        py: Python<'_>,
        texts: &[&str],
        prompt: Prompt<'_>,
        first: usize,
        progress: Option<&Bound<'_, PyAny>>,
        mut compute: impl FnMut(&[Tokens], Range<usize>) -> gte_core::Result<()> + Send,
    ) -> PyResult<()> {
        // A prompt that the model does not have is an error even without texts.
        self.tokens(&[], prompt).map_err(to_python)?;
        let mut done = 0;
        for piece in texts.chunks(PIECE) {
            let tokens = py.detach(|| self.tokens(piece, prompt));
            let tokens = tokens.map_err(|error| to_python(counted_from(first + done, error)))?;
            for batch in self.engine.batches(&tokens).map_err(to_python)? {
                let places = done..done + batch.len();
                done = places.end;
                py.detach(|| compute(&tokens[batch], places)).map_err(to_python)?;
                py.check_signals()?;
                if let Some(progress) = progress {
                    progress.call1((done,))?;
                }
            }
        }
        Ok(())
    }
}

#[pymethods]
impl Engine {
    #[new]
    fn new(py: Python<'_>, options: &Options) -> PyResult<Self> {
        let open = || -> gte_core::Result<Self> {
            let files = options.files()?;
            Ok(Self { engine: options.open(files)? })
        };
        py.detach(open).map_err(to_python)
    }

    /// Vectors of shape (texts × dim). They have unit length, or, if `pooled`, are as the model
    /// pools them.
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
        let texts = Texts::from_python(texts, TEXT, first)?;
        let texts = texts.as_strs();
        let dim = self.engine.dim();
        let mut values = vec![0.0f32; texts.len() * dim];
        let prompt = prompt_of(prompt.as_ref(), name.as_ref());
        self.by_batches(py, &texts, prompt, first, progress, |tokens, places| {
            let out = &mut values[places.start * dim..places.end * dim];
            match pooled {
                true => self.engine.pool_tokens(tokens).map(|pooled| out.copy_from_slice(&pooled)),
                false => self.engine.embed_tokens_into(tokens, out),
            }
        })?;
        values.into_pyarray(py).reshape([texts.len(), dim])
    }

    /// Several outputs of one forward pass. Outputs that were not requested are None.
    #[pyo3(signature = (texts, outputs, progress = None, *, prompt = None, prompt_name = None, first = 0))]
    #[allow(clippy::too_many_arguments, reason = "Python's keywords")]
    fn embed_all<'py>(
        &self,
        py: Python<'py>,
        texts: &Bound<'py, PyAny>,
        outputs: Vec<String>,
        progress: Option<&Bound<'py, PyAny>>,
        prompt: Option<Bound<'py, PyString>>,
        prompt_name: Option<Bound<'py, PyString>>,
        first: usize,
    ) -> PyResult<All<'py>> {
        let outputs = outputs_of(&outputs)?;
        let (prompt, name) = (argument("prompt", prompt)?, argument("prompt_name", prompt_name)?);
        let texts = Texts::from_python(texts, TEXT, first)?;
        let texts = texts.as_strs();
        let dim = self.engine.dim();
        // Computes no texts first: an output that the model does not have is an error even without
        // texts.
        let mut all = self.engine.embed_all(&[] as &[Tokens], outputs).map_err(to_python)?;
        let mut dense = outputs.dense.then(|| Vec::with_capacity(texts.len() * dim));
        let prompt = prompt_of(prompt.as_ref(), name.as_ref());
        self.by_batches(py, &texts, prompt, first, progress, |tokens, _| {
            let batch = self.engine.embed_all(tokens, outputs)?;
            if let (Some(all), Some(batch)) = (&mut dense, &batch.dense) {
                all.extend_from_slice(batch.as_slice());
            }
            if let (Some(all), Some(batch)) = (&mut all.sparse, batch.sparse) {
                append_sparse(all, batch);
            }
            if let (Some(all), Some(batch)) = (&mut all.colbert, batch.colbert) {
                append_vectors(all, batch);
            }
            Ok(())
        })?;
        let starts = |indptr: Vec<usize>| indptr.into_iter().map(|start| start as i64).collect::<Vec<_>>();
        let dense = dense.map(|values| values.into_pyarray(py).reshape([texts.len(), dim])).transpose()?;
        let sparse = all.sparse.map(|sparse| {
            let indptr = starts(sparse.indptr).into_pyarray(py);
            (indptr, sparse.ids.into_pyarray(py), sparse.weights.into_pyarray(py))
        });
        let colbert = match all.colbert {
            Some(vectors) => {
                let shape = [vectors.values.len() / vectors.dim, vectors.dim];
                let values = vectors.values.into_pyarray(py).reshape(shape)?;
                Some((starts(vectors.indptr).into_pyarray(py), values))
            }
            None => None,
        };
        Ok((dense, sparse, colbert))
    }

    /// Token ids of each text with its prompt, truncated to `max_length`, and their number before
    /// truncation.
    #[pyo3(signature = (texts, *, prompt = None, prompt_name = None))]
    fn tokenize<'py>(
        &self,
        py: Python<'py>,
        texts: &Bound<'py, PyAny>,
        prompt: Option<Bound<'py, PyString>>,
        prompt_name: Option<Bound<'py, PyString>>,
    ) -> PyResult<Vec<(Bound<'py, PyArray1<u32>>, usize)>> {
        let (prompt, name) = (argument("prompt", prompt)?, argument("prompt_name", prompt_name)?);
        let texts = Texts::from_python(texts, TEXT, 0)?;
        let texts = texts.as_strs();
        let prompt = prompt_of(prompt.as_ref(), name.as_ref());
        let tokens = py.detach(|| self.tokens(&texts, prompt)).map_err(to_python)?;
        Ok(tokens.into_iter().map(|t| (t.ids.into_pyarray(py), t.full_len)).collect())
    }

    /// The vocabulary entries of these ids.
    fn tokens_of(&self, ids: Vec<u32>) -> PyResult<Vec<String>> {
        let (tokenizer, vocab) = (self.engine.tokenizer(), self.engine.config().vocab);
        let token = |id| tokenizer.token_of(id).ok_or_else(|| to_python(gte_core::Error::TokenId { id, vocab }));
        ids.into_iter().map(token).collect()
    }

    /// The outputs of the model, out of dense, sparse and colbert.
    #[getter]
    fn outputs(&self) -> Vec<&'static str> {
        let outputs = self.engine.outputs();
        let has = [("dense", outputs.dense), ("sparse", outputs.sparse), ("colbert", outputs.colbert)];
        has.into_iter().filter(|(_, has)| *has).map(|(name, _)| name).collect()
    }

    /// Name and text of each prompt in the model's files, and of `query` and `document`, which may
    /// be empty.
    #[getter]
    fn prompts(&self) -> Vec<(&str, &str)> {
        let prompts = self.engine.prompts();
        prompts.names().map(|name| (name, prompts.get(name).unwrap_or_default())).collect()
    }

    /// The name of the prompt that is used if none is chosen.
    #[getter]
    fn default_prompt_name(&self) -> Option<&str> {
        self.engine.prompts().default_name()
    }

    /// Whether the model's own files ask for vectors of unit length: what `encode` of
    /// sentence-transformers gives.
    #[getter]
    fn normalizes(&self) -> bool {
        self.engine.config().normalizes
    }

    /// The model's id on a hub, or its directory's name.
    #[getter]
    fn name(&self) -> &str {
        self.engine.name()
    }

    /// Number of values per vector.
    #[getter]
    fn dim(&self) -> usize {
        self.engine.dim()
    }

    /// Number of tokens in the vocabulary.
    #[getter]
    fn vocab(&self) -> usize {
        self.engine.config().vocab
    }

    /// Length in tokens at which texts are truncated.
    #[getter]
    fn max_length(&self) -> usize {
        self.engine.max_length()
    }

    /// The number type of matrix multiplications.
    #[getter]
    fn precision(&self) -> &'static str {
        self.engine.precision().name()
    }

    /// The instruction set of the kernels.
    #[getter]
    fn isa(&self) -> &'static str {
        self.engine.isa().name()
    }

    /// Where it is computed.
    #[getter]
    fn device(&self) -> String {
        self.engine.engine().device().to_string()
    }

    /// Number of compute threads.
    #[getter]
    fn threads(&self) -> usize {
        self.engine.threads()
    }
}

fn outputs_of(names: &[String]) -> PyResult<Outputs> {
    let mut outputs = Outputs::default();
    for name in names {
        match name.as_str() {
            "dense" => outputs.dense = true,
            "sparse" => outputs.sparse = true,
            "colbert" => outputs.colbert = true,
            other => return Err(wrong_value(format!("outputs: {other:?}, expected dense, sparse or colbert"))),
        }
    }
    match names {
        [] => Err(wrong_value("outputs is empty, expected some of dense, sparse and colbert")),
        _ => Ok(outputs),
    }
}

fn append_sparse(all: &mut SparseEmbeddings, batch: SparseEmbeddings) {
    let before = all.ids.len();
    all.indptr.extend(batch.indptr[1..].iter().map(|end| before + end));
    all.ids.extend(batch.ids);
    all.weights.extend(batch.weights);
}

fn append_vectors(all: &mut MultiVectors, batch: MultiVectors) {
    let before = all.values.len() / all.dim;
    all.indptr.extend(batch.indptr[1..].iter().map(|end| before + end));
    all.values.extend(batch.values);
}
