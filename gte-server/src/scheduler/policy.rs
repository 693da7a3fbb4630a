//! Decides which texts are computed next.
//!
//! While little waits, the request with the least work goes first, for any model, together with
//! requests of similar length. Between two layers it is preempted by requests with less work. A
//! query therefore costs little more than its own time (shortest remaining processing time, Schrage
//! 1968). Requests are compared by time rather than tokens, because models differ in speed.
//!
//! When the server is overloaded, throughput shortens the wait for everybody: texts then go in the
//! order of their deadlines, as many as fit into `max_batch_tokens`, and a request may be split
//! over several batches. A model whose requests were passed over for long goes first once: see
//! `Queue::charge`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gte_core::Tokens;

use super::queue::{Key, Queue, Request};

/// The server is overloaded when more than this many full batches wait. Each request counts as one
/// batch at most, so that one large request is not an overload.
const OVERLOAD: usize = 6;

/// So many tokens take about as much time as a single one. A batch may always grow to this size,
/// however short its shortest request is.
const MIN_BATCH_TOKENS: usize = 32;

/// Texts for one model that are computed together.
pub(super) struct Batch {
    /// The model's number.
    pub(super) model: usize,
    /// Each distinct text once, even if several requests asked for it.
    pub(super) texts: Vec<Arc<Tokens>>,
    /// How many tokens are computed for these texts.
    pub(super) tokens: usize,
    pub(super) parts: Vec<RequestTexts>,
}

/// The texts of one request in a batch.
pub(super) struct RequestTexts {
    pub(super) key: Key,
    /// The first of these texts, by its index in the request.
    pub(super) from: usize,
    /// For each of the request's texts, in order, its index in the batch's texts.
    pub(super) indices: Vec<usize>,
    /// Whether this is the first batch of the request.
    pub(super) first: bool,
}

impl Queue {
    /// Whether texts go in the order of their deadlines. That is so when many requests wait, and
    /// when any request, also one in a paused pass, has waited for half of its timeout: later
    /// requests with less work must not hold it back until its time is over.
    pub(super) fn overloaded(&self, timeout: Duration) -> bool {
        let batches = |model: usize, left: usize| {
            let max_batch_tokens = self.loads[model].model.max_batch_tokens();
            left.min(max_batch_tokens) as f64 / max_batch_tokens as f64
        };
        let waiting: f64 = self.waiting.values().map(|request| batches(request.model, request.left())).sum();
        waiting > OVERLOAD as f64 || self.waiting.values().any(|request| request.admitted.elapsed() > timeout / 2)
    }

    /// Takes texts to compute together. `within` is the remaining time of a pass to preempt: then
    /// only requests with less work are taken, and only whole ones. A request that has begun could
    /// be part of the paused pass, and its vectors must come in order.
    pub(super) fn next_batch(&mut self, within: Option<Duration>, timeout: Duration) -> Option<Batch> {
        let overloaded = self.overloaded(timeout);
        if within.is_some() && overloaded {
            return None;
        }
        let owed = self.owed();
        let may = |request: &Request| {
            let load = &self.loads[request.model];
            let turn = within.is_some() || load.running < load.model.engine().batches_at_once();
            turn && owed.is_none_or(|model| request.model == model) && (within.is_none() || request.taken() == 0)
        };
        let candidates = self.waiting.iter().filter(|(_, request)| may(request));
        let mut order: Vec<(Duration, Key)> = candidates
            .filter(|(_, request)| !request.waiting.is_empty())
            .map(|(&key, request)| {
                (if request.warms { Duration::MAX } else { self.time(request.model, request.left()) }, key)
            })
            .collect();
        // The least work first, and requests with equal work in their order of arrival. When
        // overloaded, the order stays that of the queue: by deadline.
        if !overloaded {
            order.sort();
        }
        let &(_, first) = order.first().filter(|&&(least, _)| within.is_none_or(|left| least < left))?;
        let leader = self.waiting.get(&first)?;
        let (model, left, alone) = (leader.model, leader.left(), leader.alone());
        let max_batch_tokens = self.loads[model].model.max_batch_tokens();
        let limit = match (overloaded, alone) {
            (true, _) | (_, true) => max_batch_tokens,
            // Similar lengths go together: a much longer request would delay the shortest one.
            (false, false) => {
                let speed = self.loads[model].speed.tokens_per_second;
                let pass = within.map_or(max_batch_tokens, |within| (within.as_secs_f64() * speed) as usize);
                (2 * left).max(MIN_BATCH_TOKENS).min(max_batch_tokens).min(pass.max(left))
            }
        };
        let together: Vec<Key> = match alone {
            true => vec![first],
            false => {
                let goes_with = |key: &Key| {
                    let (leader, other) = (self.waiting.get(&first), self.waiting.get(key));
                    leader.zip(other).is_some_and(|(leader, other)| leader.goes_with(other))
                };
                order.iter().map(|&(_, key)| key).filter(goes_with).collect()
            }
        };
        let mut batch = Batch { model, texts: Vec::new(), tokens: 0, parts: Vec::new() };
        let mut indices = HashMap::new();
        for key in together {
            if within.is_some() && batch.tokens + self.waiting.get(&key).map_or(0, |r| r.left()) > limit {
                break;
            }
            self.take(key, limit, &mut batch, &mut indices);
            if batch.tokens >= limit {
                break;
            }
        }
        Some(batch)
    }

    /// Adds the texts of a request to `batch`, as far as they fit. A text that the batch already
    /// contains is not added again.
    fn take(&mut self, key: Key, limit: usize, batch: &mut Batch, known: &mut HashMap<Arc<Tokens>, usize>) {
        let first = self.waiting.get(&key).is_some_and(|request| request.started.is_none());
        let from = self.waiting.get(&key).map_or(0, Request::taken);
        let mut indices = Vec::new();
        loop {
            let room = if batch.texts.is_empty() { usize::MAX } else { limit.saturating_sub(batch.tokens) };
            let Some((tokens, cost)) = self.take_text(key, room) else { break };
            let index = *known.entry(tokens).or_insert_with_key(|tokens| {
                batch.tokens += cost;
                batch.texts.push(tokens.clone());
                batch.texts.len() - 1
            });
            indices.push(index);
        }
        if !indices.is_empty() {
            let now = Instant::now();
            if let Some(request) = self.waiting.get_mut(&key).filter(|_| first) {
                request.started = Some(now);
                if !request.warms {
                    request.span = tracing::info_span!(parent: &request.parent, "compute");
                }
            }
            batch.parts.push(RequestTexts { key, from, indices, first });
        }
    }
}
