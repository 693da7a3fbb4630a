//! The requests that wait, for all models in one queue, and an estimate of how long they will take.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gte_core::{Outputs, SharedPrefix, TextOutput, Tokens};
use tokio::sync::oneshot;
use tracing::Span;

use super::Answer;
use super::load::{Speed, Window};
use crate::error::Error;
use crate::registry::Model;

/// A request's position in the queue: its soft deadline, then its order of arrival.
pub(super) type Key = (Instant, u64);

/// Requests that wait or are being computed, by position.
#[derive(Default)]
pub(super) struct Queue {
    pub(super) waiting: BTreeMap<Key, Request>,
    pub(super) arrivals: u64,
    pub(super) closed: bool,
    /// When the forward passes that run now began: one, or two on a GPU.
    pub(super) running: Vec<Instant>,
    /// From when on the time that passes take is not counted yet.
    pub(super) counted: Option<Instant>,
    /// When the last forward pass ended, if it succeeded.
    pub(super) passed: Option<Instant>,
    /// Indexed by the model's number.
    pub(super) loads: Vec<Load>,
    pub(super) busy: Window,
}

/// One model's share of the queue.
pub(super) struct Load {
    pub(super) model: Arc<Model>,
    pub(super) speed: Speed,
    /// Texts that wait.
    pub(super) texts: usize,
    /// Tokens to compute for these texts.
    pub(super) tokens: usize,
    /// Compute time in seconds that was due to this model, by [`Queue::charge`], and went to others
    /// while it waited.
    pub(super) owed: f64,
    /// Its passes that run now.
    pub(super) running: usize,
}

/// A model goes first when it is owed more than this many seconds of compute time.
const OWED: f64 = 0.1;

/// A request's texts, some of which may already be computed.
pub(super) struct Request {
    /// The model's number.
    pub(super) model: usize,
    /// The outputs that are computed for each text.
    pub(super) outputs: Outputs,
    /// Whether the request only warms up its model, and no client sent it.
    pub(super) warms: bool,
    /// Number of leading tokens that all texts share, which are computed once; 0 for none.
    pub(super) shared: usize,
    /// The computed prefix of these tokens, after the first batch.
    pub(super) prefix: Option<Arc<SharedPrefix>>,
    /// The last texts of the request, which are not yet being computed.
    pub(super) waiting: VecDeque<Arc<Tokens>>,
    /// Number of texts in the request.
    pub(super) texts: usize,
    /// What was made of each of them so far.
    pub(super) made: Vec<Option<Arc<TextOutput>>>,
    pub(super) reply: oneshot::Sender<Result<Answer, Error>>,
    pub(super) admitted: Instant,
    pub(super) started: Option<Instant>,
    pub(super) deadline: Instant,
    /// The span of the HTTP request, the parent of the spans below.
    pub(super) parent: Span,
    /// First the span `queue`, then the span `compute`. A span ends when it is dropped.
    pub(super) span: Span,
}

impl Request {
    /// Number of texts that are computed or being computed.
    pub(super) fn taken(&self) -> usize {
        self.texts - self.waiting.len()
    }

    /// Number of tokens still to compute.
    pub(super) fn left(&self) -> usize {
        self.waiting.iter().map(|tokens| self.cost(tokens)).sum()
    }

    /// Number of tokens to compute for a text.
    pub(super) fn cost(&self, tokens: &Tokens) -> usize {
        tokens.len() - self.shared
    }

    /// Whether its texts must be computed without those of other requests.
    pub(super) fn alone(&self) -> bool {
        self.shared > 0 || self.warms
    }

    /// Whether the texts of `other` can be computed together with these.
    pub(super) fn goes_with(&self, other: &Self) -> bool {
        (self.model, self.outputs) == (other.model, other.outputs) && !self.alone() && !other.alone()
    }
}

impl Queue {
    /// Number of texts that wait.
    pub(super) fn texts(&self) -> usize {
        self.loads.iter().map(|load| load.texts).sum()
    }

    /// Number of tokens that wait.
    pub(super) fn tokens(&self) -> usize {
        self.loads.iter().map(|load| load.tokens).sum()
    }

    /// How long the waiting texts will take, in seconds.
    pub(super) fn delay(&self) -> f64 {
        self.loads.iter().map(|load| load.tokens as f64 / load.speed.tokens_per_second).sum()
    }

    /// How long a model will take for `tokens` tokens.
    pub(super) fn time(&self, model: usize, tokens: usize) -> Duration {
        Duration::from_secs_f64(tokens as f64 / self.loads[model].speed.tokens_per_second.max(1e-3))
    }

    /// Counts `seconds` of compute time that a model used. If N models have work, each of them is
    /// owed half of an equal share, 1 / 2N of the time. Queries therefore usually overtake a
    /// ranking, but however many queries arrive, the ranking is computed before its time is up.
    pub(super) fn charge(&mut self, model: usize, seconds: f64) {
        let with_work = self.loads.iter().enumerate().filter(|&(i, load)| i == model || load.texts > 0).count();
        let share = 0.5 / with_work as f64;
        for (i, load) in self.loads.iter_mut().enumerate() {
            load.owed = match (i == model, load.texts > 0) {
                (true, _) => (load.owed - seconds * (1.0 - share)).max(0.0),
                (false, true) => load.owed + seconds * share,
                (false, false) => 0.0,
            };
        }
    }

    /// The model that goes first because the others used its share of the time.
    pub(super) fn owed(&self) -> Option<usize> {
        let waits = |load: &&Load| load.texts > 0 && load.owed > OWED;
        let first = self.loads.iter().filter(waits).max_by(|a, b| a.owed.total_cmp(&b.owed));
        first.map(|load| load.model.number)
    }

    /// Adds a request.
    pub(super) fn push(&mut self, key: Key, request: Request) {
        self.arrivals += 1;
        self.loads[request.model].texts += request.waiting.len();
        self.loads[request.model].tokens += request.left();
        self.waiting.insert(key, request);
    }

    /// Takes the next text of a request out of the queue, if it has at most `most` tokens.
    pub(super) fn take_text(&mut self, key: Key, most: usize) -> Option<(Arc<Tokens>, usize)> {
        let request = self.waiting.get_mut(&key)?;
        let cost = request.cost(request.waiting.front()?);
        if cost > most {
            return None;
        }
        let tokens = request.waiting.pop_front()?;
        let load = &mut self.loads[request.model];
        load.texts -= 1;
        load.tokens -= cost;
        Some((tokens, cost))
    }

    /// Removes a request and subtracts its waiting texts from the counts.
    pub(super) fn give_up(&mut self, key: Key) -> Option<Request> {
        let request = self.waiting.remove(&key)?;
        let load = &mut self.loads[request.model];
        load.texts -= request.waiting.len();
        load.tokens -= request.left();
        Some(request)
    }
}
