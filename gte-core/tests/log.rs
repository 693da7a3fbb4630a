//! What a load writes to the log. A process of its own: `tracing` may overlook a subscriber while
//! another thread, without one, reaches the same event for the first time.
#![allow(clippy::unwrap_used, reason = "a test")]

mod model;

use gte_core::{Embedder, ModelFiles};

/// Counts the events that have a field `pooling`.
#[derive(Clone, Default)]
struct Poolings(std::sync::Arc<std::sync::atomic::AtomicUsize>);

impl tracing::Subscriber for Poolings {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn event(&self, event: &tracing::Event<'_>) {
        if event.fields().any(|field| field.name() == "pooling") {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn a_load_names_the_pooling_once_in_the_log() {
    let dir = model::tiny_model();
    let seen = Poolings::default();
    let files = ModelFiles::from_dir(dir.path()).unwrap();
    tracing::subscriber::with_default(seen.clone(), || Embedder::from_files(files).threads(2).build().unwrap());
    assert_eq!(seen.0.load(std::sync::atomic::Ordering::Relaxed), 1);
}
