//! Takes texts from the broker through the batcher: fetch → tokenize → compute → store →
//! acknowledge.
//!
//! Two fetches run at the same time, so that one of them is ready when the forward pass of the
//! other ends. A fetch takes as many texts as fill a few batches. While they are computed, the
//! worker tells the broker so; a worker that dies stops doing that, and other workers get its
//! texts.

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

/// Number of fetches at the same time.
const PULLS: usize = 2;
/// Number of batches per fetch.
const BATCHES: usize = 4;
/// Maximum number of texts per fetch.
const MAX_PULL: usize = 256;
/// Number of times that workers try a text before it fails. A text that kills its worker must not
/// kill all of them.
const ATTEMPTS: i64 = 10;
/// How long a fetch waits on an empty queue. A drain may therefore wait this long.
const PATIENCE: Duration = Duration::from_secs(2);

/// Works until the service drains. Fetched texts are still finished.
pub(crate) async fn work(service: Arc<Service>, jobs: Jobs) {
    join_all((0..PULLS).map(|_| pulls(service.clone(), jobs.clone()))).await;
}

async fn pulls(service: Arc<Service>, jobs: Jobs) {
    let mut size = 16;
    while !service.draining.load(Ordering::Relaxed) {
        if let Err(e) = some(&service, &jobs, &mut size).await {
            tracing::warn!("the worker will try again: {e}");
            sleep(Duration::from_secs(1)).await;
        }
    }
}

/// Fetches and computes until an error occurs.
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
        // Waits for one text, then takes those that are there.
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
        let max_batch_tokens = service.registry.loaded().map(|model| model.max_batch_tokens()).max().unwrap_or(1);
        *size = (BATCHES * max_batch_tokens / mean).clamp(1, MAX_PULL);
    }
    Ok(())
}

async fn receive(
    batch: Result<pull::Batch, async_nats::jetstream::consumer::pull::BatchError>,
) -> Result<Vec<Message>, Error> {
    batch.map_err(broker)?.try_collect().await.map_err(broker)
}

/// Tells the broker that the messages are being processed.
async fn reassure(messages: &[Message]) -> ! {
    loop {
        sleep(ACK_WAIT / 3).await;
        for message in messages {
            // If this is lost with the connection, the texts are computed twice, and their results
            // count once.
            let _ = message.ack_with(AckKind::Progress).await;
        }
    }
}

/// Computes the texts, stores their results, and acknowledges them. Returns the number of tokens.
async fn answer(service: &Arc<Service>, jobs: &Jobs, messages: &[Message]) -> usize {
    let mut computed = compute(service, messages).await;
    // Client requests come first, and a model may still be loading: a text that has to wait has not
    // failed.
    while matches!(computed, Err(Error::Overloaded { .. } | Error::Deadline(_) | Error::Loading(_)))
        && !service.draining.load(Ordering::Relaxed)
    {
        sleep(Duration::from_secs(1)).await;
        computed = compute(service, messages).await;
    }
    let outcomes = match computed {
        Ok(outcomes) => outcomes,
        // One of the texts caused the error, so each is computed on its own.
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

/// Stores a result and acknowledges the message. Without a result, or if it cannot be stored, the
/// broker delivers the message again.
async fn finish(service: &Service, jobs: &Jobs, message: &Message, outcome: Option<Outcome>) {
    let Some((job, index)) = key(message) else {
        tracing::error!(subject = %message.subject, "not a text of a job: removed from the queue");
        let _ = message.ack_with(AckKind::Term).await;
        return;
    };
    let attempts = message.info().map_or(1, |info| info.delivered);
    let outcome = outcome.or_else(|| {
        let error = format!("failed after {attempts} attempts");
        (attempts >= ATTEMPTS).then_some(Outcome { index, result: Err(error) })
    });
    let mut stored = Err(Error::Broker);
    if let Some(outcome) = &outcome {
        stored = jobs.store(job, outcome).await;
        // The result is kept until the broker is back or has room. A failure of the broker does not
        // count as an attempt.
        while stored.is_err() && !service.draining.load(Ordering::Relaxed) {
            sleep(Duration::from_secs(1)).await;
            stored = jobs.store(job, outcome).await;
        }
    }
    match stored {
        Ok(()) => {
            let failed = outcome.is_some_and(|o| o.result.is_err());
            // Texts for a model that this server does not have are counted with the first model.
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

/// The model that a message names. Default: the first embedder.
fn model_of(message: &Message) -> Option<&str> {
    message.headers.as_ref().and_then(|headers| headers.get(MODEL)).map(|name| name.as_str())
}

/// The results of the messages, in their order; `None` for a message that is not a text of a job.
async fn compute(service: &Arc<Service>, messages: &[Message]) -> Result<Vec<Option<Outcome>>, Error> {
    let mut outcomes: Vec<Option<Outcome>> = Vec::new();
    // For each model, the texts and the indices of their messages.
    let mut requests: BTreeMap<Option<&str>, (Vec<String>, Vec<usize>)> = BTreeMap::new();
    for (place, message) in messages.iter().enumerate() {
        let tried = message.info().map_or(1, |info| info.delivered) > ATTEMPTS;
        outcomes.push(match (key(message), std::str::from_utf8(&message.payload)) {
            (Some(_), Ok(text)) if !tried => {
                let (texts, indices) = requests.entry(model_of(message)).or_default();
                texts.push(text.to_owned());
                indices.push(place);
                None
            }
            (Some((_, index)), Err(_)) => Some(Outcome { index, result: Err("the text is not UTF-8".into()) }),
            _ => None,
        });
    }
    for (name, (texts, indices)) in requests {
        let failed = |place: usize, e: &Error| {
            key(&messages[place]).map(|(_, index)| Outcome { index, result: Err(e.to_string()) })
        };
        let model = match service.pick(name, Need::Vectors) {
            Ok(model) => model,
            // Another worker would fail too, because all workers have the same models.
            Err(e @ (Error::NotFound(_) | Error::Task { .. })) => {
                indices.into_iter().for_each(|place| outcomes[place] = failed(place, &e));
                continue;
            }
            Err(e) => return Err(e),
        };
        let read = service.read(&model, texts.into(), Reading::default(), "texts").await?;
        let counts: Vec<_> = read.tokens.iter().map(|t| (t.len(), t.truncated())).collect();
        let vectors = service.compute(&model, read, Outputs::DENSE).await?.vectors(&model, None)?;
        for ((place, (tokens, truncated)), vector) in indices.into_iter().zip(counts).zip(vectors.rows()) {
            let computed = Computed { vector: vector.to_vec(), tokens, truncated };
            outcomes[place] = key(&messages[place]).map(|(_, index)| Outcome { index, result: Ok(computed) });
        }
    }
    Ok(outcomes)
}
