//! Texts from the broker through the batcher: pull → tokenize → compute → store → acknowledge.
//!
//! Two pulls are under way, so that one is ready when the other's forward pass ends. A pull is as many texts as a few batches take.
//! While it is computed, the broker is told so; a worker that dies tells nothing, and others get its texts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, Consumer, pull};
use async_nats::jetstream::{AckKind, Message};
use futures_util::TryStreamExt;
use futures_util::future::join_all;
use gte_core::Outputs;
use tokio::time::sleep;

use super::{ACK_WAIT, Computed, Jobs, MODEL, Outcome, WORKERS, broker};
use crate::error::Error;
use crate::reading::Reading;
use crate::registry::Need;
use crate::service::Service;

/// Pulls under way.
const PULLS: usize = 2;
/// Batches in a pull.
const BATCHES: usize = 4;
/// Texts in a pull, at most.
const MAX_PULL: usize = 256;
/// How often a text is tried, by however many workers, before it is given up: what kills its worker must not kill them all.
const ATTEMPTS: i64 = 10;
/// How long a pull waits on an empty queue, and so how long a drain may wait for it.
const PATIENCE: Duration = Duration::from_secs(2);

/// Works until the service drains; what was pulled is finished.
pub(crate) async fn work(service: Arc<Service>, jobs: Jobs) {
    join_all((0..PULLS).map(|_| pulls(service.clone(), jobs.clone()))).await;
}

async fn pulls(service: Arc<Service>, jobs: Jobs) {
    let mut size = 16;
    while !service.draining.load(Ordering::Relaxed) {
        if let Err(e) = some(&service, &jobs, &mut size).await {
            tracing::warn!("the worker waits: {e}");
            sleep(Duration::from_secs(1)).await;
        }
    }
}

/// Pulls, as long as that goes well.
async fn some(service: &Arc<Service>, jobs: &Jobs, size: &mut usize) -> Result<(), Error> {
    let (work, _) = jobs.streams().await?;
    let config = pull::Config {
        durable_name: Some(WORKERS.into()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        max_ack_pending: 100_000,
        ..Default::default()
    };
    let consumer: Consumer<pull::Config> = work.get_or_create_consumer(WORKERS, config).await.map_err(broker)?;
    while !service.draining.load(Ordering::Relaxed) {
        // One that waits, then what is there.
        let mut pulled: Vec<Message> =
            receive(consumer.batch().max_messages(1).expires(PATIENCE).messages().await).await?;
        if pulled.is_empty() {
            continue;
        }
        if *size > 1 {
            pulled.extend(receive(consumer.fetch().max_messages(*size - 1).messages().await).await?);
        }
        let tokens = tokio::select! {
            tokens = answer(service, jobs, &pulled) => tokens,
            never = reassure(&pulled) => never,
        };
        let mean = (tokens / pulled.len()).max(1);
        *size = (BATCHES * service.config.batch_tokens / mean).clamp(1, MAX_PULL);
    }
    Ok(())
}

async fn receive(
    batch: Result<pull::Batch, async_nats::jetstream::consumer::pull::BatchError>,
) -> Result<Vec<Message>, Error> {
    batch.map_err(broker)?.try_collect().await.map_err(broker)
}

/// Tells the broker that the messages are being worked on.
async fn reassure(messages: &[Message]) -> ! {
    loop {
        sleep(ACK_WAIT / 3).await;
        for message in messages {
            // Lost with the connection; then the texts are computed twice, and seen once.
            let _ = message.ack_with(AckKind::Progress).await;
        }
    }
}

/// Computes the texts, stores what became of them, and acknowledges. Returns their tokens.
async fn answer(service: &Arc<Service>, jobs: &Jobs, messages: &[Message]) -> usize {
    let mut computed = compute(service, messages).await;
    // Other requests come first, and a model may still be loading: a text that waits is not one that fails.
    while matches!(computed, Err(Error::Overloaded { .. } | Error::Deadline(_) | Error::Loading(_)))
        && !service.draining.load(Ordering::Relaxed)
    {
        sleep(Duration::from_secs(1)).await;
        computed = compute(service, messages).await;
    }
    let outcomes = match computed {
        Ok(outcomes) => outcomes,
        // One of them is to blame: each for itself.
        Err(_) if messages.len() > 1 => {
            let mut alone = Vec::with_capacity(messages.len());
            for message in messages.chunks(1) {
                alone.push(compute(service, message).await.ok().and_then(|mut one| one.pop().flatten()));
            }
            alone
        }
        Err(_) => vec![None],
    };
    let mut tokens = 0;
    let finished = messages.iter().zip(outcomes).map(|(message, outcome)| {
        tokens += outcome.as_ref().and_then(|o| o.result.as_ref().ok()).map_or(1, |c| c.tokens);
        finish(service, jobs, message, outcome)
    });
    let finished: Vec<_> = finished.collect();
    join_all(finished).await;
    tokens
}

/// The job and the index of a message.
fn key(message: &Message) -> Option<(&str, usize)> {
    let mut parts = message.subject.strip_prefix("gte.work.")?.split('.');
    Some((parts.next()?, parts.next()?.parse().ok()?))
}

/// Stores an outcome and acknowledges the message; without one, or where it cannot be stored, the message comes again.
async fn finish(service: &Service, jobs: &Jobs, message: &Message, outcome: Option<Outcome>) {
    let Some((job, index)) = key(message) else {
        tracing::error!(subject = %message.subject, "not a job's text: it is taken out of the queue");
        let _ = message.ack_with(AckKind::Term).await;
        return;
    };
    let attempts = message.info().map_or(1, |info| info.delivered);
    let outcome = outcome.or_else(|| {
        let error = format!("given up after {attempts} attempts");
        (attempts >= ATTEMPTS).then_some(Outcome { index, result: Err(error) })
    });
    let mut stored = Err(Error::Broker);
    if let Some(outcome) = &outcome {
        stored = jobs.store(job, outcome).await;
        // Kept for when the broker is back, or has room: an attempt is what a text has failed at, not its broker.
        while stored.is_err() && !service.draining.load(Ordering::Relaxed) {
            sleep(Duration::from_secs(1)).await;
            stored = jobs.store(job, outcome).await;
        }
    }
    match stored {
        Ok(()) => {
            let failed = outcome.is_some_and(|o| o.result.is_err());
            // Texts for a model that this server does not have are counted with the first.
            let model = service.registry.pick(model_of(message), Need::Vectors);
            if let Some(model) = model.ok().or_else(|| service.registry.loaded().next()) {
                let counter = if failed { &model.metrics.failed_job_texts } else { &model.metrics.job_texts };
                counter.inc();
            }
            let _ = message.ack().await;
        }
        Err(_) => {
            let _ = message.ack_with(AckKind::Nak(Some(Duration::from_secs(1)))).await;
        }
    }
}

/// The model that a message names; none: the first embedder.
fn model_of(message: &Message) -> Option<&str> {
    message.headers.as_ref().and_then(|headers| headers.get(MODEL)).map(|name| name.as_str())
}

/// The outcomes of the messages, in their order; none for what is no job's text.
async fn compute(service: &Arc<Service>, messages: &[Message]) -> Result<Vec<Option<Outcome>>, Error> {
    let mut outcomes: Vec<Option<Outcome>> = Vec::new();
    // By model: the texts, and the places of their messages.
    let mut requests: BTreeMap<Option<&str>, (Vec<String>, Vec<usize>)> = BTreeMap::new();
    for (place, message) in messages.iter().enumerate() {
        let tried = message.info().map_or(1, |info| info.delivered) > ATTEMPTS;
        outcomes.push(match (key(message), std::str::from_utf8(&message.payload)) {
            (Some(_), Ok(text)) if !tried => {
                let (texts, places) = requests.entry(model_of(message)).or_default();
                texts.push(text.to_owned());
                places.push(place);
                None
            }
            (Some((_, index)), Err(_)) => Some(Outcome { index, result: Err("the text is not UTF-8".into()) }),
            _ => None,
        });
    }
    for (name, (texts, places)) in requests {
        let failed = |place: usize, e: &Error| {
            key(&messages[place]).map(|(_, index)| Outcome { index, result: Err(e.to_string()) })
        };
        let model = match service.pick(name, Need::Vectors) {
            Ok(model) => model,
            // Another worker may be no better: all have the same models.
            Err(e @ (Error::NotFound(_) | Error::Task { .. })) => {
                places.into_iter().for_each(|place| outcomes[place] = failed(place, &e));
                continue;
            }
            Err(e) => return Err(e),
        };
        let read = service.read(&model, texts.into(), Reading::default(), "texts").await?;
        let counts: Vec<_> = read.tokens.iter().map(|t| (t.len(), t.truncated())).collect();
        let vectors = service.compute(&model, read, Outputs::DENSE).await?.vectors(&model, None)?;
        for ((place, (tokens, truncated)), vector) in places.into_iter().zip(counts).zip(vectors.rows()) {
            let computed = Computed { vector: vector.to_vec(), tokens, truncated };
            outcomes[place] = key(&messages[place]).map(|(_, index)| Outcome { index, result: Ok(computed) });
        }
    }
    Ok(outcomes)
}
