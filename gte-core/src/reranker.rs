//! `Reranker`: a query and documents in, a score per document out.

use std::borrow::Cow;

use rayon::prelude::*;

use crate::batch::Sequence;
use crate::compute::Work;
use crate::config::{ModelConfig, ModelTask};
use crate::device::Precision;
use crate::engine::Engine;
use crate::error::{Error, Result};
#[cfg(feature = "hub")]
use crate::files::HubOptions;
use crate::files::ModelFiles;
use crate::kernels::Isa;
use crate::options::{Builder, Door, sealed};
use crate::profile::Profile;
use crate::prompts::Prompt;
use crate::similarity::Hit;
use crate::template::Question;
use crate::tokenizer::{Tokenizer, Tokens, TruncationSide};

/// A reranker: a cross-encoder, which reads a query and a document together, or a language model
/// that answers yes or no. Every method takes `&self` and may be called from many threads at once.
///
/// A document's score is the same bit for bit, whether it is computed alone or with others.
///
/// ```
/// use gte_core::Reranker;
///
/// // A tiny model of this crate's tests, with random weights. For production:
/// // Reranker::from_hub("BAAI/bge-reranker-v2-m3")
/// let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/families/xlmr-reranker");
/// let reranker = Reranker::from_dir(model)?;
/// let documents = ["七天之内可以退货。", "今天天气真好。"];
/// let scores = reranker.scores("怎么退货？", &documents)?;
/// assert!(scores.iter().all(|score| (0.0..=1.0).contains(score)));
///
/// let best = reranker.rank("怎么退货？", &documents)?[0];
/// assert_eq!(best.score, scores[best.index]);
/// # Ok::<(), gte_core::Error>(())
/// ```
pub struct Reranker {
    engine: Engine,
    question: Option<Question>, // for a language model
}

/// How the pairs of a call become tokens. The default is what the model's files say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PairOptions<'a> {
    /// What a cross-encoder reads before the query; of a language model its instruction, as in
    /// sentence-transformers. Default: the model's own default prompt, if it has one.
    pub prompt: Prompt<'a>,
    /// Tells a language model what an answer is, in place of `prompt`. A cross-encoder takes none.
    pub instruction: Option<&'a str>,
    /// Where a pair that is too long is cut. Default: as the model's files say, else at the end.
    pub truncation_side: Option<TruncationSide>,
}

impl<'a> PairOptions<'a> {
    /// The same, with this prompt.
    #[must_use]
    pub fn with_prompt(self, prompt: Prompt<'a>) -> Self {
        Self { prompt, ..self }
    }

    /// The same, with this instruction; `None`: the model's own.
    #[must_use]
    pub fn with_instruction(self, instruction: impl Into<Option<&'a str>>) -> Self {
        Self { instruction: instruction.into(), ..self }
    }

    /// The same, with pairs cut at this side; `None`: as the model's files say.
    #[must_use]
    pub fn with_truncation_side(self, side: impl Into<Option<TruncationSide>>) -> Self {
        Self { truncation_side: side.into(), ..self }
    }
}

/// [`PairOptions`], as a model takes them.
struct Told<'a> {
    before: &'a str,              // the query of a cross-encoder
    instruction: Option<&'a str>, // of a language model, in place of its own
    side: TruncationSide,
}

impl Told<'_> {
    /// What a cross-encoder reads as the query.
    fn query<'q>(&self, query: &'q str) -> Cow<'q, str> {
        if self.before.is_empty() { query.into() } else { [self.before, query].concat().into() }
    }
}

impl Door for Reranker {}

impl sealed::Open for Reranker {
    const SCORES: bool = true;

    fn open(engine: Engine) -> Result<Self> {
        let question = match engine.config.task {
            // A language model that was converted to a classifier gets the same question as the
            // original. (A decoder has no template for pairs.)
            ModelTask::YesNo | ModelTask::Classify { labels: 1 } if engine.config.architecture.causal() => {
                Some(Question::read(&engine.files, &engine.config, &engine.tokenizer)?)
            }
            _ => None,
        };
        Ok(Self { engine, question })
    }
}

impl Reranker {
    /// Builds a model from a directory or hub id, with settings.
    pub fn builder(model: impl Into<String>) -> Builder<Self> {
        Builder::new(model)
    }

    /// Builds a model from files that are already open, with settings.
    pub fn from_files(files: ModelFiles) -> Builder<Self> {
        Builder::from_files(files)
    }

    /// Opens a model in a local directory, with default settings.
    ///
    /// # Errors
    /// As [`Builder::build`].
    pub fn from_dir(dir: impl AsRef<std::path::Path>) -> Result<Self> {
        Self::from_files(ModelFiles::from_dir(dir)?).build()
    }

    /// Opens a model by its hub id, for example `BAAI/bge-reranker-v2-m3`, with default settings.
    ///
    /// # Errors
    /// As [`Builder::build`].
    #[cfg(feature = "hub")]
    pub fn from_hub(id: &str) -> Result<Self> {
        Self::from_files(ModelFiles::from_hub(id, &HubOptions::from_env()?)?).build()
    }

    /// How well each document answers `query`, in order: from 0 to 1, by the sigmoid of the model's
    /// single logit. Pairs longer than `max_length` are truncated at the end of the longer text;
    /// [`tokenize`](Self::tokenize) tells which.
    ///
    /// # Errors
    /// [`Error::Tokenize`], [`Error::Device`]; [`Error::Unsupported`] for a classifier with several
    /// labels, whose [`logits`](Self::logits) are not scores of an answer.
    pub fn scores<D: AsRef<str> + Sync>(&self, query: &str, documents: &[D]) -> Result<Vec<f32>> {
        self.scores_of(&self.tokenize(query, documents, &PairOptions::default())?)
    }

    /// The documents by descending score, each with its index in `documents`. Equal scores keep
    /// their order.
    ///
    /// # Errors
    /// As [`scores`](Self::scores).
    pub fn rank<D: AsRef<str> + Sync>(&self, query: &str, documents: &[D]) -> Result<Vec<Hit>> {
        Ok(ranked(&self.scores(query, documents)?))
    }

    /// The tokens of each pair of `query` and a document, with the number of tokens before
    /// truncation.
    ///
    /// # Errors
    /// [`Error::Tokenize`] with the document's position; [`Error::InvalidOption`] for
    /// options that are not for this kind of model.
    pub fn tokenize<D: AsRef<str> + Sync>(
        &self,
        query: &str,
        documents: &[D],
        options: &PairOptions<'_>,
    ) -> Result<Vec<Tokens>> {
        let (engine, told) = (&self.engine, self.told(options)?);
        if let Some(question) = &self.question {
            let tokens = || question.tokens(&engine.tokenizer, query, documents, told.instruction);
            return engine.threads.run(tokens);
        }
        let query = told.query(query);
        let pairs: Vec<(&str, &str)> = documents.iter().map(|document| (&*query, document.as_ref())).collect();
        engine.threads.run(|| engine.tokenizer.encode_pairs(&pairs, engine.tokenizer.max_length(), told.side))
    }

    /// The tokens of each pair of texts, a query and a document.
    ///
    /// # Errors
    /// As [`tokenize`](Self::tokenize).
    pub fn tokenize_pairs<Q: AsRef<str> + Sync, D: AsRef<str> + Sync>(
        &self,
        pairs: &[(Q, D)],
        options: &PairOptions<'_>,
    ) -> Result<Vec<Tokens>> {
        let told = self.told(options)?;
        if pairs.is_empty() {
            return Ok(Vec::new());
        }
        let tokens = |(i, (query, document)): (usize, &(Q, D))| self.pair(query.as_ref(), document.as_ref(), i, &told);
        self.engine.threads.run(|| pairs.par_iter().enumerate().map(tokens).collect())
    }

    /// The tokens of one pair, on the calling thread, so that it does not wait for the pool, which
    /// may be busy.
    ///
    /// # Errors
    /// As [`tokenize`](Self::tokenize).
    pub fn tokenize_one(&self, query: &str, document: &str, options: &PairOptions<'_>) -> Result<Tokens> {
        self.pair(query, document, 0, &self.told(options)?)
    }

    /// The tokens of pair `index`.
    fn pair(&self, query: &str, document: &str, index: usize, told: &Told<'_>) -> Result<Tokens> {
        let tokenizer = &self.engine.tokenizer;
        match &self.question {
            Some(question) => question.tokens_of(tokenizer, query, document, index, told.instruction),
            None => tokenizer.encode_pair(&told.query(query), document, index, tokenizer.max_length(), told.side),
        }
    }

    /// What `options` mean for this kind of model.
    fn told<'a>(&'a self, options: &PairOptions<'a>) -> Result<Told<'a>> {
        let invalid = |option, value, expected| Err(Error::InvalidOption { option, value, expected });
        let (prompts, name) = (&self.engine.config.prompts, &self.engine.name);
        let side = options.truncation_side.unwrap_or(self.engine.tokenizer.truncation_side());
        if self.question.is_none() {
            return match options.instruction {
                None => Ok(Told { before: prompts.resolve(options.prompt)?, instruction: None, side }),
                Some(instruction) => {
                    let expected = format!("none: {name} is a cross-encoder, which has no instruction");
                    invalid("instruction", format!("{instruction:?}"), expected)
                }
            };
        }
        if options.truncation_side == Some(TruncationSide::Left) {
            let expected = format!("right: {name} reads a question, whose beginning must stay");
            return invalid("truncation_side", "left".to_owned(), expected);
        }
        let instruction = match options.instruction {
            Some(instruction) => Some(instruction),
            None => Some(prompts.resolve(options.prompt)?).filter(|text| !text.is_empty()),
        };
        let own = prompts.resolve(Prompt::Default)?;
        if instruction.is_none() && !own.is_empty() {
            let expected = format!("an instruction: the model's own is {own:?}, and a question has one");
            return invalid("prompt", "empty".to_owned(), expected);
        }
        Ok(Told { before: "", instruction, side })
    }

    /// The tokens of a single text, for a classifier, on the calling thread. No prompt is
    /// put before it, because the prompts of a cross-encoder are for queries.
    ///
    /// # Errors
    /// [`Error::Tokenize`].
    pub fn tokenize_text(&self, text: &str, side: Option<TruncationSide>) -> Result<Tokens> {
        let tokenizer = &self.engine.tokenizer;
        tokenizer.encode_one_prompted(text, "", side.unwrap_or(tokenizer.truncation_side()))
    }

    /// Whether it is a language model, which can be told what counts as an answer.
    pub fn takes_instruction(&self) -> bool {
        self.question.is_some()
    }

    /// The name of each label, in the order of the logits: those of `config.json`, or else
    /// `LABEL_0` and so on.
    pub fn label_names(&self) -> Vec<String> {
        let names = &self.engine.config.labels;
        (0..self.labels()).map(|i| names.get(i).cloned().unwrap_or_else(|| format!("LABEL_{i}"))).collect()
    }

    /// The model's logits of each pair: (pairs × labels), row after row.
    ///
    /// # Errors
    /// [`Error::TokenCount`], [`Error::TokenId`], [`Error::Device`].
    pub fn logits<T: Sequence + Sync>(&self, pairs: &[T]) -> Result<Vec<f32>> {
        self.engine.pool(pairs, &Work::DENSE)
    }

    /// The scores, from 0 to 1, of pairs that are already tokenized.
    ///
    /// # Errors
    /// As [`scores`](Self::scores).
    pub fn scores_of<T: Sequence + Sync>(&self, pairs: &[T]) -> Result<Vec<f32>> {
        self.scores_from(&self.logits(pairs)?)
    }

    /// The scores, from 0 to 1, of logits that [`logits`](Self::logits) returned.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a classifier with several labels.
    pub fn scores_from(&self, logits: &[f32]) -> Result<Vec<f32>> {
        if self.labels() != 1 {
            return Err(Error::Unsupported {
                file: "config.json".into(),
                key: "id2label".into(),
                found: format!("{} labels", self.labels()),
                supported: "1, the score of an answer".into(),
            });
        }
        Ok(logits.iter().copied().map(sigmoid).collect())
    }

    /// Number of logits per pair: 1 for a reranker.
    pub fn labels(&self) -> usize {
        self.engine.heads.pooled
    }

    /// The loaded model, for a scheduler of several models.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The model's id on a hub, or its directory's name.
    pub fn name(&self) -> &str {
        &self.engine.name
    }

    /// What the model is.
    pub fn config(&self) -> &ModelConfig {
        &self.engine.config
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.engine.tokenizer
    }

    /// Length in tokens at which pairs are truncated.
    pub fn max_length(&self) -> usize {
        self.engine.tokenizer.max_length()
    }

    /// Where the time of forward passes was spent since the model was loaded; only for
    /// [`Device::Cpu`](crate::Device::Cpu).
    #[doc(hidden)]
    pub fn profile(&self) -> Profile {
        self.engine.profile()
    }

    /// The number type of matrix multiplications.
    pub fn precision(&self) -> Precision {
        self.engine.precision
    }

    /// The instruction set of the kernels.
    pub fn isa(&self) -> Isa {
        self.engine.kernels.isa
    }

    /// Number of threads in its pool.
    pub fn threads(&self) -> usize {
        self.engine.threads.count()
    }
}

impl std::fmt::Debug for Reranker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Reranker({}, {} labels, {}, {}, {} threads)",
            self.name(),
            self.labels(),
            self.precision(),
            self.engine.place(),
            self.threads()
        )
    }
}

/// 1 / (1 + e⁻ˣ)
fn sigmoid(x: f32) -> f32 {
    (1.0 / (1.0 + (-f64::from(x)).exp())) as f32
}

/// Indices by descending score. Equal scores keep their order.
fn ranked(scores: &[f32]) -> Vec<Hit> {
    let mut hits: Vec<Hit> = scores.iter().enumerate().map(|(index, &score)| Hit { index, score }).collect();
    hits.sort_by(|a, b| b.score.total_cmp(&a.score));
    hits
}
