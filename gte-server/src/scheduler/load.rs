//! The speed of a model, and how busy the compute thread is. Both are measured, never configured.

use std::time::{Duration, Instant};

/// Tokens per second of one model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Speed {
    /// Average over the last few batches.
    pub(crate) tokens_per_second: f64,
    /// Average over full batches only. It predicts how long a large request takes, even when the
    /// last batches were small.
    pub(crate) full_tokens_per_second: f64,
}

impl Speed {
    /// A first measurement, taken on a full batch.
    pub(crate) fn new(tokens_per_second: f64) -> Self {
        Self { tokens_per_second, full_tokens_per_second: tokens_per_second }
    }

    /// Adds a measurement: `tokens` tokens took `seconds`; a full batch has `max_batch_tokens`.
    pub(crate) fn add(&mut self, tokens: usize, seconds: f64, max_batch_tokens: usize) {
        // The last few batches decide. A small batch says little about the speed of a full one, so
        // it weighs less.
        let (full, speed) = (tokens as f64 / max_batch_tokens as f64, tokens as f64 / seconds.max(1e-6));
        self.tokens_per_second += 0.3 * full.clamp(0.05, 1.0) * (speed - self.tokens_per_second);
        if full > 0.5 {
            self.full_tokens_per_second += 0.3 * (speed - self.full_tokens_per_second);
        }
    }
}

/// How busy the compute thread was during the last ten seconds, or since the start.
pub(crate) struct Window {
    start: Instant,
    end: Instant,
    busy: Duration,
    last: f64, // busy share of the previous window
}

/// Length of the window.
const WINDOW: Duration = Duration::from_secs(10);

impl Default for Window {
    fn default() -> Self {
        let now = Instant::now();
        Self { start: now, end: now, busy: Duration::ZERO, last: 0.0 }
    }
}

impl Window {
    pub(crate) fn add(&mut self, start: Instant, end: Instant) {
        self.busy += end - start;
        self.advance(end);
    }

    pub(crate) fn advance(&mut self, now: Instant) {
        self.end = now;
        let length = now - self.start;
        if length >= WINDOW {
            self.last = (self.busy.as_secs_f64() / length.as_secs_f64()).min(1.0);
            (self.start, self.busy) = (now, Duration::ZERO);
        }
    }

    /// The busy shares of the previous and the current window, weighted by how much of the last ten
    /// seconds each of them covers.
    pub(crate) fn share(&self) -> f64 {
        let length = (self.end - self.start).as_secs_f64();
        let rest = (WINDOW.as_secs_f64() - length).max(0.0);
        (self.busy.as_secs_f64() + self.last * rest) / (length + rest)
    }
}
