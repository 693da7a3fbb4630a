//! Repeated texts: a text that occurs twice in a request is computed once, and earlier outputs may
//! be kept. An output depends only on the model and the tokens, so these are its key. Prompt and
//! truncation are already part of the tokens; dimensions and number formats are applied to the
//! output afterwards.

use std::collections::HashMap;
use std::sync::Arc;

use gte_core::{Outputs, TextOutput, Tokens};
use moka::sync::Cache as Moka;

use crate::registry::Model;

/// Bytes of an entry besides its numbers: allocations, and the cache's own bookkeeping.
const OVERHEAD: usize = 400;

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    model: usize,
    outputs: Outputs,
    tokens: Arc<Tokens>,
}

/// Outputs by model and tokens, up to a number of bytes. Entries that are often requested stay
/// (TinyLFU: Einziger, Friedman, Manes 2017, <https://arxiv.org/abs/1512.00727>).
pub(crate) struct Cache {
    entries: Option<Moka<Key, Arc<TextOutput>>>,
}

impl Cache {
    /// A cache of `megabytes`. With 0 it keeps nothing.
    pub(crate) fn new(megabytes: u64) -> Self {
        let weight = |key: &Key, made: &Arc<TextOutput>| {
            let tokens = 5 * key.tokens.ids.len();
            let values = made.dense.len() + made.colbert.len() + made.states.len() + 2 * made.sparse.len();
            u32::try_from(OVERHEAD + tokens + 4 * values).unwrap_or(u32::MAX)
        };
        let build = || Moka::builder().weigher(weight).max_capacity(megabytes * 1_000_000).build();
        Self { entries: (megabytes > 0).then(build) }
    }

    fn get(&self, model: &Model, outputs: Outputs, tokens: &Arc<Tokens>) -> Option<Arc<TextOutput>> {
        let entries = self.entries.as_ref()?;
        let found = entries.get(&Key { model: model.number, outputs, tokens: tokens.clone() });
        let counter = if found.is_some() { &model.metrics.cache_hits } else { &model.metrics.cache_misses };
        counter.inc();
        found
    }

    fn insert(&self, model: &Model, outputs: Outputs, tokens: Arc<Tokens>, made: &Arc<TextOutput>) {
        if let Some(entries) = &self.entries {
            entries.insert(Key { model: model.number, outputs, tokens }, made.clone());
        }
    }

    /// Size of all entries in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.entries.as_ref().map_or(0, |entries| {
            entries.run_pending_tasks();
            entries.weighted_size()
        })
    }
}

/// The distinct texts of a request, some of which need not be computed.
pub(crate) struct Distinct {
    outputs: Outputs,
    /// For each text of the request, its index among the distinct texts.
    indices: Vec<usize>,
    texts: Vec<Arc<Tokens>>,
    /// The outputs that are already known.
    made: Vec<Option<Arc<TextOutput>>>,
}

impl Distinct {
    /// Finds the distinct texts, and their outputs in the cache.
    pub(crate) fn new(cache: &Cache, model: &Model, outputs: Outputs, texts: Vec<Tokens>) -> Self {
        let mut known: HashMap<Arc<Tokens>, usize> = HashMap::with_capacity(texts.len());
        let mut distinct = Vec::with_capacity(texts.len());
        let mut indices = Vec::with_capacity(texts.len());
        for tokens in texts {
            let next = distinct.len();
            indices.push(*known.entry(Arc::new(tokens)).or_insert_with_key(|tokens| {
                distinct.push(tokens.clone());
                next
            }));
        }
        model.metrics.repeated_texts.inc_by((indices.len() - distinct.len()) as u64);
        let made = distinct.iter().map(|tokens| cache.get(model, outputs, tokens)).collect();
        Self { outputs, indices, texts: distinct, made }
    }

    /// The texts that must be computed.
    pub(crate) fn missing(&self) -> Vec<Arc<Tokens>> {
        let missing = self.texts.iter().zip(&self.made).filter(|(_, made)| made.is_none());
        missing.map(|(tokens, _)| tokens.clone()).collect()
    }

    /// The outputs of all texts, completed by those that were missing, which are added to the
    /// cache.
    pub(crate) fn complete(self, cache: &Cache, model: &Model, computed: Vec<Arc<TextOutput>>) -> Vec<Arc<TextOutput>> {
        let mut computed = computed.into_iter();
        let all: Vec<Arc<TextOutput>> = self
            .texts
            .into_iter()
            .zip(self.made)
            .filter_map(|(tokens, made)| {
                made.or_else(|| {
                    let made = computed.next()?;
                    cache.insert(model, self.outputs, tokens, &made);
                    Some(made)
                })
            })
            .collect();
        self.indices.into_iter().filter_map(|index| all.get(index).cloned()).collect()
    }
}
