//! An embedder or a reranker, depending on the model.

use std::time::Instant;

use gte_core::internals::Profile;
use gte_core::{
    Builder, Device, Door, Embedder, Engine, Isa, MaxBatchTokens, ModelFiles, PairOptions, Precision, Reranker,
};

use crate::workload::{Answers, Workload};
use crate::{Options, Result};

pub(crate) enum Model {
    Embedder(Box<Embedder>),
    Reranker(Box<Reranker>),
}

impl Model {
    pub(crate) fn load(options: &Options, device: Device, precision: Precision, threads: usize) -> Result<Self> {
        fn built<D: Door>(
            builder: Builder<D>,
            options: &Options,
            device: Device,
            precision: Precision,
            threads: usize,
        ) -> Result<D> {
            let builder = builder.offline(true).device(device).precision(precision).threads(threads);
            Ok(match options.max_batch_tokens {
                Some(tokens) => builder.max_batch_tokens(MaxBatchTokens::new(tokens)?).build()?,
                None => builder.build()?,
            })
        }
        let model = &options.model;
        Ok(match options.rerank {
            true => Self::Reranker(Box::new(built(Reranker::builder(model), options, device, precision, threads)?)),
            false => Self::Embedder(Box::new(built(Embedder::builder(model), options, device, precision, threads)?)),
        })
    }

    /// Unit vectors of an embedder. For a reranker, logits of token ids, or scores of texts, which
    /// it tokenizes.
    pub(crate) fn compute(&self, workload: &Workload) -> gte_core::Result<Answers> {
        match (self, workload) {
            (Self::Embedder(embedder), Workload::Tokens(texts)) => embedder.embed_tokens(texts).map(Answers::Vectors),
            (Self::Reranker(reranker), Workload::Tokens(texts)) => reranker.logits(texts).map(Answers::Scores),
            (Self::Reranker(reranker), Workload::Rerank { query, documents }) => {
                reranker.scores(query, documents).map(Answers::Scores)
            }
            (Self::Embedder(embedder), Workload::Rerank { documents, .. }) => {
                embedder.embed(documents).map(Answers::Vectors)
            }
        }
    }

    pub(crate) fn seconds(&self, workload: &Workload) -> gte_core::Result<f64> {
        let start = Instant::now();
        self.compute(workload)?;
        Ok(start.elapsed().as_secs_f64())
    }

    /// Number of tokens in the pairs of a query and documents.
    pub(crate) fn pair_tokens(&self, query: &str, documents: &[String]) -> gte_core::Result<usize> {
        let tokens = match self {
            Self::Embedder(embedder) => embedder.tokenize(documents)?,
            Self::Reranker(reranker) => reranker.tokenize(query, documents, &PairOptions::default())?,
        };
        Ok(tokens.iter().map(|tokens| tokens.ids.len()).sum())
    }

    /// The maximum number of multiply-adds per second that `threads` threads reach together on
    /// registers alone; a CPU with all cores busy may be slower. None if there is no such
    /// measurement.
    pub(crate) fn peak(&self, threads: usize) -> Result<Option<f64>> {
        // Any embedder will do, because only instructions are measured.
        let probe = Embedder::from_files(ModelFiles::bundled()).precision(self.precision()).isa(self.isa()).build()?;
        let peaks: Option<Vec<f64>> = std::thread::scope(|scope| {
            let probes: Vec<_> = (0..threads).map(|_| scope.spawn(|| probe.peak())).collect();
            probes.into_iter().map(|probe| probe.join().ok().flatten()).collect()
        });
        Ok(peaks.map(|peaks| peaks.iter().sum()))
    }

    pub(crate) fn vocab(&self) -> usize {
        match self {
            Self::Embedder(embedder) => embedder.config().vocab,
            Self::Reranker(reranker) => reranker.config().vocab,
        }
    }

    pub(crate) fn profile(&self) -> Profile {
        match self {
            Self::Embedder(embedder) => embedder.profile(),
            Self::Reranker(reranker) => reranker.profile(),
        }
    }

    pub(crate) fn engine(&self) -> &Engine {
        match self {
            Self::Embedder(embedder) => embedder.engine(),
            Self::Reranker(reranker) => reranker.engine(),
        }
    }

    pub(crate) fn precision(&self) -> Precision {
        match self {
            Self::Embedder(embedder) => embedder.precision(),
            Self::Reranker(reranker) => reranker.precision(),
        }
    }

    pub(crate) fn isa(&self) -> Isa {
        match self {
            Self::Embedder(embedder) => embedder.isa(),
            Self::Reranker(reranker) => reranker.isa(),
        }
    }
}
