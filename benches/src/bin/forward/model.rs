//! One of the engine's doors, by the kind of the model.

use std::time::Instant;

use gte_core::{Budget, Builder, Device, Door, Embedder, Isa, ModelFiles, Precision, Profile, Reranker};

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
            Ok(match options.batch_tokens {
                Some(tokens) => builder.budget(Budget::new(tokens)?).build()?,
                None => builder.build()?,
            })
        }
        let model = &options.model;
        Ok(match options.rerank {
            true => Self::Reranker(Box::new(built(Reranker::builder(model), options, device, precision, threads)?)),
            false => Self::Embedder(Box::new(built(Embedder::builder(model), options, device, precision, threads)?)),
        })
    }

    /// Unit vectors of an embedder; of a reranker logits of token ids, and scores of texts, which
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

    /// Tokens of the pairs of a query and documents.
    pub(crate) fn pair_tokens(&self, query: &str, documents: &[String]) -> gte_core::Result<usize> {
        let tokens = match self {
            Self::Embedder(embedder) => embedder.tokenize(documents)?,
            Self::Reranker(reranker) => reranker.tokenize(query, documents, None)?,
        };
        Ok(tokens.iter().map(|tokens| tokens.ids.len()).sum())
    }

    /// Multiply-adds per second that `threads` threads make at most in registers, all at once: a
    /// CPU that is busy everywhere may be slower. None where there is no probe.
    pub(crate) fn peak(&self, threads: usize) -> Result<Option<f64>> {
        // The probe is an embedder's, of any model: it measures instructions.
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
