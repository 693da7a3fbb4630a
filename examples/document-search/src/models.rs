//! `Models`: the embedder and, where one is given, the reranker, as the application uses them.

use gte_core::{Builder, Door, EmbedOptions, Embedder, Embeddings, Precision, Prompt, Reranker};

use crate::error::Result;

/// What the models are and how they run.
#[derive(Clone, Debug)]
pub struct ModelOptions {
    /// Directory or hub id of the embedder.
    pub model: String,
    /// Directory or hub id of the reranker.
    pub reranker: Option<String>,
    /// Type of the matrix products.
    pub precision: Precision,
    /// Threads of each model. Default: what the process may use.
    pub threads: Option<usize>,
}

/// The loaded models.
pub struct Models {
    /// Text to vectors.
    pub embedder: Embedder,
    /// A query and a passage to a score.
    pub reranker: Option<Reranker>,
}

impl Models {
    /// Loads them.
    ///
    /// # Errors
    /// As [`Builder::build`].
    pub fn load(options: &ModelOptions) -> Result<Self> {
        let reranker = options.reranker.as_deref().map(|model| open(model, options)).transpose()?;
        Ok(Self { embedder: open(&options.model, options)?, reranker })
    }

    /// A vector per passage, behind the prompt that the model wants before passages.
    ///
    /// # Errors
    /// As [`Embedder::embed_with`].
    pub fn passages<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Result<Embeddings> {
        // E5 says `passage` for what others call `document`.
        let name = if self.embedder.prompts().get("passage").is_some() { "passage" } else { "document" };
        self.embed(texts, name)
    }

    /// The vector of a query, behind the prompt that the model wants before queries.
    ///
    /// # Errors
    /// As [`Embedder::embed_with`].
    pub fn query(&self, query: &str) -> Result<Vec<f32>> {
        Ok(self.embed(&[query], "query")?.into_vec())
    }

    fn embed<S: AsRef<str> + Sync>(&self, texts: &[S], prompt: &str) -> Result<Embeddings> {
        // `query` and `document` are names of every model; without a prompt in its files they
        // mean an empty one.
        let options = EmbedOptions::default().with_prompt(Prompt::Named(prompt));
        Ok(self.embedder.embed_with(texts, &options)?)
    }
}

fn open<D: Door>(model: &str, options: &ModelOptions) -> Result<D> {
    let mut builder = Builder::<D>::new(model).precision(options.precision);
    if let Some(threads) = options.threads {
        builder = builder.threads(threads);
    }
    Ok(builder.build()?)
}
