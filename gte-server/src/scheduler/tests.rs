//! The queue's promises: which requests are refused at once, which are computed, and in which
//! order.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "../../../gte-core/tests/model/mod.rs"]
mod model;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Parser;
use gte_core::{Outputs, Tokens};

use super::{Limits, Scheduler};
use crate::config::Config;
use crate::error::Error;
use crate::registry::Model;
use crate::service::Service;

fn service() -> (Arc<Service>, Arc<Model>, tempfile::TempDir) {
    let dir = model::tiny_model();
    let config = Config::try_parse_from(["gte-server", "--model", dir.path().to_str().unwrap(), "--threads", "2"]);
    let service = crate::load(config.unwrap(), None).unwrap();
    let model = service.registry.loaded().next().unwrap().clone();
    (service, model, dir)
}

/// A separate scheduler for the model, with a given speed instead of a measured one.
fn scheduler(service: &Service, model: &Arc<Model>, timeout: u64, tokens_per_second: f64) -> Scheduler {
    let timeout = Duration::from_secs(timeout);
    let limits = Limits { requests: 1000, texts: 10_000, tokens: 1 << 20, timeout };
    let scheduler = Scheduler::start(service.metrics.clone(), limits).unwrap();
    scheduler.add(model.clone());
    scheduler.shared.lock().loads[0].speed = super::Speed::new(tokens_per_second);
    scheduler
}

fn tokens(model: &Model, text: &str) -> Arc<Tokens> {
    Arc::new(model.engine().tokenizer().encode_one(text).unwrap())
}

fn texts(model: &Model, count: usize) -> Vec<Arc<Tokens>> {
    (0..count)
        .map(|i| tokens(model, &format!("{} {}", "a ".repeat(1 + i / 1000), "abc今天".repeat(i % 1000))))
        .collect()
}

/// Distinct texts of four tokens each.
fn fours(model: &Model, count: usize) -> Vec<Arc<Tokens>> {
    let ids = |i: usize| vec![2, 5 + (i % 40) as u32, 5 + (i / 40 % 40) as u32, 3];
    assert!(model.engine().config().vocab > 45);
    (0..count).map(|i| Arc::new(Tokens::from_ids(ids(i), 4))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_would_wait_in_vain_is_refused_at_once() {
    let (service, model, _dir) = service();
    // The given speed is ten tokens per second. Ten texts have 40 tokens and take 4 s of the 5 s;
    // four more texts would be late. On a busy machine the engine may have computed the first
    // request, and measured its speed, before the second request arrives.
    for _ in 0..20 {
        let scheduler = scheduler(&service, &model, 5, 10.0);
        let ask = |count| scheduler.compute(0, Outputs::DENSE, fours(&model, count));
        let (first, second) = tokio::join!(ask(10), ask(4));
        assert_eq!(first.map(|answer| answer.made.len()).unwrap_or(0), 10);
        match second.map(|_| ()) {
            Err(Error::Overloaded { what: "--request-timeout", retry_after_s }) => {
                assert!((1..=2).contains(&retry_after_s), "{retry_after_s}");
                return;
            }
            Err(other) => panic!("{other:?}"),
            Ok(()) => {}
        }
    }
    panic!("never refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_of_a_client_that_has_gone_is_not_computed() {
    let (service, model, _dir) = service();
    // Admitted at the first poll, and dropped at once.
    let asked = service.scheduler.compute(0, Outputs::DENSE, texts(&model, 5000));
    assert!(tokio::time::timeout(Duration::ZERO, asked).await.is_err());
    // Closing computes everything that is still wanted.
    let closing = service.clone();
    tokio::task::spawn_blocking(move || closing.scheduler.close()).await.unwrap();
    let computed = model.metrics.texts.get();
    assert!(computed < 5000, "{computed} texts were computed for nobody");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_request_is_passed_over_for_half_of_its_time_at_most() {
    let (service, model, _dir) = service();
    let scheduler = Arc::new(scheduler(&service, &model, 4, 10_000.0));
    // An endless supply of short texts, so that there is always a request with less work, but never
    // enough of them for an overload.
    let short = vec![tokens(&model, "a")];
    assert!(400 * short[0].len() < 6 * model.max_batch_tokens(), "an overload");
    let stop = Arc::new(AtomicBool::new(false));
    let others: Vec<_> = (0..400)
        .map(|_| {
            let (scheduler, short, stop) = (scheduler.clone(), short.clone(), stop.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    scheduler.compute(0, Outputs::DENSE, short.clone()).await.map(|_| ()).unwrap();
                }
            })
        })
        .collect();
    let long = scheduler.compute(0, Outputs::DENSE, vec![tokens(&model, &"a ".repeat(400))]).await;
    stop.store(true, Ordering::Relaxed);
    for other in others {
        other.await.unwrap();
    }
    assert!(long.is_ok(), "it was passed over until its time was up");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_can_never_be_in_time_is_refused_for_good() {
    let (service, model, _dir) = service();
    let scheduler = scheduler(&service, &model, 5, 10.0);
    let before = model.metrics.texts.get();
    let refused = scheduler.compute(0, Outputs::DENSE, fours(&model, 100)).await.map(|_| ()).unwrap_err();
    let message = refused.to_string();
    assert!(matches!(refused, Error::TooMuch { .. }), "{message}");
    for word in ["400 tokens", "50 that are computed in 5 s", "--request-timeout"] {
        assert!(message.contains(word), "{message}");
    }
    assert_eq!(model.metrics.texts.get(), before, "it was computed");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_text_of_several_requests_is_computed_once_in_a_batch() {
    let (service, model, _dir) = service();
    let scheduler = Arc::new(scheduler(&service, &model, 30, 10_000.0));
    let text = tokens(&model, "今天 a b");
    let expected = model.embedder().unwrap().pool_tokens(&[&*text]).unwrap();
    // A long text keeps the thread busy, so that the others wait together. On a busy machine it may
    // have been computed before the others are asked.
    for _ in 0..20 {
        let before = model.metrics.texts.get();
        let long = vec![tokens(&model, &"a ".repeat(150))];
        let busy = scheduler.compute(0, Outputs::DENSE, long);
        let others = (0..50).map(|_| scheduler.compute(0, Outputs::DENSE, vec![text.clone()]));
        let (busy, others) = tokio::join!(busy, futures_util::future::join_all(others));
        assert!(busy.is_ok());
        for answer in others {
            assert_eq!(answer.map(|answer| answer.made[0].dense.clone()).unwrap(), expected);
        }
        // Of 51 texts two differ.
        if model.metrics.texts.get() - before < 40 {
            return;
        }
    }
    panic!("each of the equal texts was computed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_passed_over_for_another_model_gets_its_share() {
    let dirs = [model::tiny_model(), model::tiny_model()];
    let models = dirs.iter().enumerate().map(|(i, dir)| format!("--model=m{i}={}", dir.path().display()));
    let arguments = ["gte-server".to_owned(), "--threads=2".into()].into_iter().chain(models);
    let service = crate::load(Config::try_parse_from(arguments).unwrap(), None).unwrap();
    crate::load_others(&service).unwrap();
    // An endless supply of short texts for one model. The request for the other model always has
    // more work.
    let first = service.registry.named("m0").unwrap().clone();
    let stop = Arc::new(AtomicBool::new(false));
    let short: Vec<_> = (0..64)
        .map(|i| {
            let (service, stop) = (service.clone(), stop.clone());
            let texts = fours(&first, 64)[i..=i].to_vec();
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    service.scheduler.compute(0, Outputs::DENSE, texts.clone()).await.map(|_| ()).unwrap();
                }
            })
        })
        .collect();
    let long = service.scheduler.compute(1, Outputs::DENSE, texts(&service.registry.named("m1").unwrap().clone(), 300));
    // If only its deadline counted, it would wait for half a minute.
    let answered = tokio::time::timeout(Duration::from_secs(25), long).await;
    stop.store(true, Ordering::Relaxed);
    for short in short {
        short.await.unwrap();
    }
    assert_eq!(answered.expect("it waited until its deadline was near").unwrap().made.len(), 300);
}
