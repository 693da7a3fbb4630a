//! `Scorer`: turns queries and documents into logits and scores.

use gte_core::internals::plan;
use gte_core::{MaxBatchTokens, ModelFiles, PairOptions, Reranker, Sequence, Tokens};
use numpy::{IntoPyArray, PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::PyString;
use serde_json::Value;

use crate::embed::{PIECE, prompt_of};
use crate::errors::{counted_from, to_python, wrong_value};
use crate::options::Options;
use crate::texts::{DOCUMENT, QUERY, Texts, argument, utf8};

/// Number of batches that one call computes for a language model. The common beginning of its
/// questions is computed once per call.
const BATCHES_OF_QUESTIONS: usize = 8;

/// A reranker that is ready. All methods may be called from many threads at once.
#[pyclass(module = "gte._gte", frozen)]
pub(crate) struct Scorer {
    reranker: Reranker,
    max_batch_tokens: MaxBatchTokens, // per call
    activation: Option<String>,
}

/// What `instruction`, or a prompt, means as options.
fn options_of<'a>(
    instruction: Option<&'a PyBackedStr>,
    prompt: Option<&'a PyBackedStr>,
    name: Option<&'a PyBackedStr>,
) -> PairOptions<'a> {
    PairOptions::default().with_prompt(prompt_of(prompt, name)).with_instruction(instruction.map(|text| &**text))
}

/// The torch function that the model's files apply to the logits, by its path, as
/// sentence-transformers writes it.
fn activation(files: &ModelFiles) -> gte_core::Result<Option<String>> {
    let read = |file: &str| -> gte_core::Result<Value> {
        // The engine reads this file too, and reports what is wrong with it.
        let content = files.read(file)?.unwrap_or_default();
        Ok(serde_json::from_slice(&content).unwrap_or_default())
    };
    // sentence-transformers reads its own file only if there is a `modules.json`.
    let own =
        if files.read("modules.json")?.is_some() { read("config_sentence_transformers.json")? } else { Value::Null };
    let config = read("config.json")?;
    let places = [
        &own["activation_fn"],
        &config["sentence_transformers"]["activation_fn"],
        &config["sbert_ce_default_activation_function"],
    ];
    Ok(places.into_iter().find_map(Value::as_str).map(str::to_owned))
}

impl Scorer {
    fn tokens(&self, pairs: &[(&str, &str)], options: &PairOptions<'_>) -> gte_core::Result<Vec<Tokens>> {
        self.reranker.tokenize_pairs(pairs, options)
    }

    /// The queries and documents of pairs: one query for all documents, or one query per document.
    fn texts(queries: &Bound<'_, PyAny>, documents: &Bound<'_, PyAny>) -> PyResult<(Queries, Texts)> {
        let documents = Texts::from_python(documents, DOCUMENT, 0)?;
        let queries = match queries.cast::<PyString>() {
            Ok(query) => Queries::One(utf8("query", query)?),
            Err(_) => Queries::Many(Texts::from_python(queries, QUERY, 0)?),
        };
        Ok((queries, documents))
    }
}

enum Queries {
    One(PyBackedStr),
    Many(Texts),
}

impl Queries {
    fn pairs<'a>(&'a self, documents: &'a Texts) -> PyResult<Vec<(&'a str, &'a str)>> {
        let documents = documents.as_strs();
        match self {
            Self::One(query) => Ok(documents.into_iter().map(|document| (&**query, document)).collect()),
            Self::Many(queries) => {
                let queries = queries.as_strs();
                if queries.len() != documents.len() {
                    return Err(wrong_value(format!(
                        "{} queries for {} documents, expected the same number",
                        queries.len(),
                        documents.len()
                    )));
                }
                Ok(queries.into_iter().zip(documents).collect())
            }
        }
    }
}

#[pymethods]
impl Scorer {
    #[new]
    fn new(py: Python<'_>, options: &Options) -> PyResult<Self> {
        let open = || -> gte_core::Result<Self> {
            let files = options.files()?;
            let activation = activation(&files)?;
            let reranker: Reranker = options.open(files)?;
            let batches = if reranker.takes_instruction() { BATCHES_OF_QUESTIONS } else { 1 };
            let max_batch_tokens =
                MaxBatchTokens::new(reranker.engine().max_batch_tokens().tokens().saturating_mul(batches))?;
            Ok(Self { reranker, max_batch_tokens, activation })
        };
        py.detach(open).map_err(to_python)
    }

    /// Logits of shape (pairs × labels) for `documents` and `queries`: one query for all documents,
    /// or one per document. Between two batches, signals are checked and `progress(number of
    /// finished pairs)` is called.
    #[pyo3(signature = (queries, documents, progress = None, *, instruction = None, prompt = None, prompt_name = None))]
    #[allow(clippy::too_many_arguments, reason = "Python's keywords")]
    fn logits<'py>(
        &self,
        py: Python<'py>,
        queries: &Bound<'py, PyAny>,
        documents: &Bound<'py, PyAny>,
        progress: Option<&Bound<'py, PyAny>>,
        instruction: Option<Bound<'py, PyString>>,
        prompt: Option<Bound<'py, PyString>>,
        prompt_name: Option<Bound<'py, PyString>>,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let instruction = argument("instruction", instruction)?;
        let (prompt, name) = (argument("prompt", prompt)?, argument("prompt_name", prompt_name)?);
        let told = options_of(instruction.as_ref(), prompt.as_ref(), name.as_ref());
        // What the model does not take is an error without a document too.
        self.tokens(&[], &told).map_err(to_python)?;
        let (queries, documents) = Self::texts(queries, documents)?;
        let pairs = queries.pairs(&documents)?;
        let mut logits = Vec::with_capacity(pairs.len() * self.reranker.labels());
        let mut done = 0;
        for piece in pairs.chunks(PIECE) {
            let tokens = py.detach(|| self.tokens(piece, &told));
            let tokens = tokens.map_err(|error| to_python(counted_from(done, error)))?;
            let lengths: Vec<usize> = tokens.iter().map(|pair| pair.ids().len()).collect();
            for batch in plan(&lengths, self.max_batch_tokens) {
                done += batch.len();
                logits.extend(py.detach(|| self.reranker.logits(&tokens[batch])).map_err(to_python)?);
                py.check_signals()?;
                if let Some(progress) = progress {
                    progress.call1((done,))?;
                }
            }
        }
        logits.into_pyarray(py).reshape([pairs.len(), self.reranker.labels()])
    }

    /// Converts logits to scores from 0 to 1: (pairs).
    fn scores_from<'py>(
        &self,
        py: Python<'py>,
        logits: PyReadonlyArray1<'py, f32>,
    ) -> PyResult<Bound<'py, PyArray1<f32>>> {
        let logits: Vec<f32> = logits.as_array().iter().copied().collect();
        Ok(self.reranker.scores_from(&logits).map_err(to_python)?.into_pyarray(py))
    }

    /// Token ids of each pair as the model reads it, truncated to `max_length`, and their number
    /// before truncation.
    #[pyo3(signature = (queries, documents, *, instruction = None, prompt = None, prompt_name = None))]
    #[allow(clippy::too_many_arguments, reason = "Python's keywords")]
    fn tokenize<'py>(
        &self,
        py: Python<'py>,
        queries: &Bound<'py, PyAny>,
        documents: &Bound<'py, PyAny>,
        instruction: Option<Bound<'py, PyString>>,
        prompt: Option<Bound<'py, PyString>>,
        prompt_name: Option<Bound<'py, PyString>>,
    ) -> PyResult<Vec<(Bound<'py, PyArray1<u32>>, usize)>> {
        let instruction = argument("instruction", instruction)?;
        let (prompt, name) = (argument("prompt", prompt)?, argument("prompt_name", prompt_name)?);
        let told = options_of(instruction.as_ref(), prompt.as_ref(), name.as_ref());
        // What the model does not take is an error without a document too.
        self.tokens(&[], &told).map_err(to_python)?;
        let (queries, documents) = Self::texts(queries, documents)?;
        let pairs = queries.pairs(&documents)?;
        let tokens = py.detach(|| self.tokens(&pairs, &told)).map_err(to_python)?;
        Ok(tokens.into_iter().map(|t| (t.ids.into_pyarray(py), t.full_len)).collect())
    }

    /// Name and text of each prompt in the model's files.
    #[getter]
    fn prompts(&self) -> Vec<(&str, &str)> {
        let prompts = &self.reranker.config().prompts;
        prompts.names().map(|name| (name, prompts.get(name).unwrap_or_default())).collect()
    }

    /// The name of the prompt that is used if none is chosen.
    #[getter]
    fn default_prompt_name(&self) -> Option<&str> {
        self.reranker.config().prompts.default_name()
    }

    /// Whether it is a language model, which uses an instruction.
    #[getter]
    fn takes_instruction(&self) -> bool {
        self.reranker.takes_instruction()
    }

    /// The path of the function that the model's files apply to the logits, if they name one.
    #[getter]
    fn activation(&self) -> Option<&str> {
        self.activation.as_deref()
    }

    /// Number of logits per pair: 1 for a reranker.
    #[getter]
    fn labels(&self) -> usize {
        self.reranker.labels()
    }

    /// The model's id on a hub, or its directory's name.
    #[getter]
    fn name(&self) -> &str {
        self.reranker.name()
    }

    /// Length in tokens at which pairs are truncated.
    #[getter]
    fn max_length(&self) -> usize {
        self.reranker.max_length()
    }

    /// The number type of matrix multiplications.
    #[getter]
    fn precision(&self) -> &'static str {
        self.reranker.precision().name()
    }

    /// The instruction set of the kernels.
    #[getter]
    fn isa(&self) -> &'static str {
        self.reranker.isa().name()
    }

    /// Where it is computed.
    #[getter]
    fn device(&self) -> String {
        self.reranker.engine().device().to_string()
    }

    /// Number of compute threads.
    #[getter]
    fn threads(&self) -> usize {
        self.reranker.threads()
    }
}
