//! What waits: requests of every model in one queue, and how long they will take.

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

/// A request's place in the queue: its soft deadline, then its arrival.
pub(super) type Key = (Instant, u64);

/// Requests that wait or are being computed, by place.
#[derive(Default)]
pub(super) struct Queue {
    pub(super) waiting: BTreeMap<Key, Request>,
    pub(super) arrivals: u64,
    pub(super) closed: bool,
    /// When the forward pass that runs now began.
    pub(super) running: Option<Instant>,
    /// When the last forward pass ended, if it succeeded.
    pub(super) passed: Option<Instant>,
    /// By the model's number.
    pub(super) loads: Vec<Load>,
    pub(super) busy: Window,
}

/// One model's share of the queue.
pub(super) struct Load {
    pub(super) model: Arc<Model>,
    pub(super) speed: Speed,
    /// Texts that wait.
    pub(super) texts: usize,
    /// Tokens that are to be computed for them.
    pub(super) tokens: usize,
    /// Compute time that others had while it waited, as far as it was its own by [`Queue::charge`], in seconds.
    pub(super) owed: f64,
}

/// Seconds of compute time that a model may be owed before it goes first.
const OWED: f64 = 0.1;

/// A request's texts, of which a part may be computed.
pub(super) struct Request {
    /// The model's number.
    pub(super) model: usize,
    /// What is made of each text.
    pub(super) outputs: Outputs,
    /// Whether it warms its model, and nobody asked for it.
    pub(super) warms: bool,
    /// Leading tokens that all texts have in common and that are computed once; 0 for none.
    pub(super) shared: usize,
    /// These tokens computed, from the first batch on.
    pub(super) prefix: Option<Arc<SharedPrefix>>,
    /// The texts that are neither computed nor being computed: the last ones.
    pub(super) waiting: VecDeque<Arc<Tokens>>,
    /// How many texts there are in all.
    pub(super) texts: usize,
    pub(super) made: Vec<Arc<TextOutput>>,
    pub(super) reply: oneshot::Sender<Result<Answer, Error>>,
    pub(super) admitted: Instant,
    pub(super) started: Option<Instant>,
    pub(super) deadline: Instant,
    /// The request's, for the spans below.
    pub(super) parent: Span,
    /// `queue`, then `compute`: a span ends when it is dropped.
    pub(super) span: Span,
}

impl Request {
    /// Texts that are computed or being computed.
    pub(super) fn taken(&self) -> usize {
        self.texts - self.waiting.len()
    }

    /// Tokens that are still to be computed.
    pub(super) fn left(&self) -> usize {
        self.waiting.iter().map(|tokens| self.cost(tokens)).sum()
    }

    /// Tokens that are computed for a text.
    pub(super) fn cost(&self, tokens: &Tokens) -> usize {
        tokens.len() - self.shared
    }

    /// Whether its texts are computed without those of other requests.
    pub(super) fn alone(&self) -> bool {
        self.shared > 0 || self.warms
    }

    /// Whether the texts of `other` can be computed together with these.
    pub(super) fn goes_with(&self, other: &Self) -> bool {
        (self.model, self.outputs) == (other.model, other.outputs) && !self.alone() && !other.alone()
    }
}

impl Queue {
    /// Texts that wait.
    pub(super) fn texts(&self) -> usize {
        self.loads.iter().map(|load| load.texts).sum()
    }

    /// Tokens that wait.
    pub(super) fn tokens(&self) -> usize {
        self.loads.iter().map(|load| load.tokens).sum()
    }

    /// How long what waits will take, in seconds.
    pub(super) fn delay(&self) -> f64 {
        self.loads.iter().map(|load| load.tokens as f64 / load.speed.tokens_per_second).sum()
    }

    /// How long `tokens` of a model will take.
    pub(super) fn time(&self, model: usize, tokens: usize) -> Duration {
        Duration::from_secs_f64(tokens as f64 / self.loads[model].speed.tokens_per_second.max(1e-3))
    }

    /// Counts `seconds` of compute time that a model had. Of N models that have work, each is owed half of an equal
    /// share, 1 / 2N of the time: so a query passes a ranking as a rule, and however many queries there are, they do
    /// not keep it waiting until its time is up.
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

    /// The model that goes first, because the others had its time.
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

    /// Takes the next text of a request out of the queue, if it is of at most `most` tokens.
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

    /// Removes a request; what of it was not taken leaves the counts.
    pub(super) fn give_up(&mut self, key: Key) -> Option<Request> {
        let request = self.waiting.remove(&key)?;
        let load = &mut self.loads[request.model];
        load.texts -= request.waiting.len();
        load.tokens -= request.left();
        Some(request)
    }
}
