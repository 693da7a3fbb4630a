//! How fast a model is, and how busy the compute thread: measured, never configured.

use std::time::{Duration, Instant};

/// Tokens per second of one model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Speed {
    /// Of the last few batches.
    pub(crate) tokens_per_second: f64,
    /// Of full batches alone: what much text is computed with, however short the last ones were.
    pub(crate) full_tokens_per_second: f64,
}

impl Speed {
    /// A first measurement, of a full batch.
    pub(crate) fn new(tokens_per_second: f64) -> Self {
        Self { tokens_per_second, full_tokens_per_second: tokens_per_second }
    }

    /// Adds a measurement: `tokens` in `seconds`, where `budget` tokens are a full batch.
    pub(crate) fn add(&mut self, tokens: usize, seconds: f64, budget: usize) {
        // The last few batches decide; a small one says little of the speed of a full one.
        let (full, speed) = (tokens as f64 / budget as f64, tokens as f64 / seconds.max(1e-6));
        self.tokens_per_second += 0.3 * full.clamp(0.05, 1.0) * (speed - self.tokens_per_second);
        if full > 0.5 {
            self.full_tokens_per_second += 0.3 * (speed - self.full_tokens_per_second);
        }
    }
}

/// How busy the compute thread was in the last ten seconds, or since the start.
pub(crate) struct Window {
    start: Instant,
    end: Instant,
    busy: Duration,
    last: f64, // share of the window before
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

    /// The window before and the running one, weighted by how much of the last ten seconds each covers.
    pub(crate) fn share(&self) -> f64 {
        let length = (self.end - self.start).as_secs_f64();
        let rest = (WINDOW.as_secs_f64() - length).max(0.0);
        (self.busy.as_secs_f64() + self.last * rest) / (length + rest)
    }
}
