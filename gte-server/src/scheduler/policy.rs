//! Which texts are computed next.
//!
//! While few wait, the request with the least to do goes first, whichever model it is for, with others of like length,
//! and gives way between two layers to what has less: a query costs little more than its own time (shortest remaining
//! processing time, Schrage 1968). Time, and not tokens, is compared: models differ in speed. In a crowd it is
//! throughput that shortens the waiting for all: then texts go by deadline, as many as fit the token budget, also a
//! part of a request's. A model whose requests were passed for long goes first for once: see `Queue::charge`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gte_core::Tokens;

use super::queue::{Key, Queue, Request};

/// Full batches that wait, from which on it is a crowd. A request counts as one at most: a single large one is none.
const CROWD: usize = 6;

/// Tokens that are computed in about the time of one: so many go together, however short the shortest is.
const FEW: usize = 32;

/// Texts of one model to compute together.
pub(super) struct Batch {
    /// The model's number.
    pub(super) model: usize,
    /// Each text once, however often it was taken.
    pub(super) texts: Vec<Arc<Tokens>>,
    /// Tokens that are computed for them.
    pub(super) tokens: usize,
    pub(super) parts: Vec<Part>,
}

/// Texts of one request in a batch.
pub(super) struct Part {
    pub(super) key: Key,
    /// For each of them, in order, its place in the batch's texts.
    pub(super) places: Vec<usize>,
    /// Whether the request begins with this batch.
    pub(super) first: bool,
}

impl Queue {
    /// Whether texts go by deadline: where many wait, and where someone, also in a pass that has paused, has waited for
    /// half of the time that a request has: who comes later with less to do must not keep him until it is over.
    pub(super) fn crowded(&self, timeout: Duration) -> bool {
        let batches = |model: usize, left: usize| {
            let budget = self.loads[model].model.budget();
            left.min(budget) as f64 / budget as f64
        };
        let waiting: f64 = self.waiting.values().map(|request| batches(request.model, request.left())).sum();
        waiting > CROWD as f64 || self.waiting.values().any(|request| request.admitted.elapsed() > timeout / 2)
    }

    /// Takes texts to compute together. `within` a pass that will take so long, only requests that have less to do, and
    /// whole: of one that has begun, a part may be in that pass, and its vectors come in order.
    pub(super) fn next_batch(&mut self, within: Option<Duration>, timeout: Duration) -> Option<Batch> {
        let crowded = self.crowded(timeout);
        if within.is_some() && crowded {
            return None;
        }
        let owed = self.owed();
        let may = |request: &Request| {
            owed.is_none_or(|model| request.model == model) && (within.is_none() || request.taken() == 0)
        };
        let candidates = self.waiting.iter().filter(|(_, request)| may(request));
        let mut order: Vec<(Duration, Key)> = candidates
            .filter(|(_, request)| !request.waiting.is_empty())
            .map(|(&key, request)| {
                (if request.warms { Duration::MAX } else { self.time(request.model, request.left()) }, key)
            })
            .collect();
        // By least to do, those of one length in their order; in a crowd by deadline, as the queue is.
        if !crowded {
            order.sort();
        }
        let &(_, first) = order.first().filter(|&&(least, _)| within.is_none_or(|left| least < left))?;
        let leader = self.waiting.get(&first)?;
        let (model, left, alone) = (leader.model, leader.left(), leader.alone());
        let budget = self.loads[model].model.budget();
        let limit = match (crowded, alone) {
            (true, _) | (_, true) => budget,
            // Like lengths together: whoever is much longer would keep the shortest waiting.
            (false, false) => {
                let speed = self.loads[model].speed.tokens_per_second;
                let pass = within.map_or(budget, |within| (within.as_secs_f64() * speed) as usize);
                (2 * left).max(FEW).min(budget).min(pass.max(left))
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
        let mut places = HashMap::new();
        for key in together {
            if within.is_some() && batch.tokens + self.waiting.get(&key).map_or(0, |r| r.left()) > limit {
                break;
            }
            self.take(key, limit, &mut batch, &mut places);
            if batch.tokens >= limit {
                break;
            }
        }
        Some(batch)
    }

    /// Adds to `batch` what fits of a request: each text whose tokens are not there yet.
    fn take(&mut self, key: Key, limit: usize, batch: &mut Batch, known: &mut HashMap<Arc<Tokens>, usize>) {
        let first = self.waiting.get(&key).is_some_and(|request| request.started.is_none());
        let mut places = Vec::new();
        loop {
            let room = if batch.texts.is_empty() { usize::MAX } else { limit.saturating_sub(batch.tokens) };
            let Some((tokens, cost)) = self.take_text(key, room) else { break };
            let place = *known.entry(tokens).or_insert_with_key(|tokens| {
                batch.tokens += cost;
                batch.texts.push(tokens.clone());
                batch.texts.len() - 1
            });
            places.push(place);
        }
        if !places.is_empty() {
            let now = Instant::now();
            if let Some(request) = self.waiting.get_mut(&key).filter(|_| first) {
                request.started = Some(now);
                if !request.warms {
                    request.span = tracing::info_span!(parent: &request.parent, "compute");
                }
            }
            batch.parts.push(Part { key, places, first });
        }
    }
}
