//! Jobs: texts that wait on a broker, NATS JetStream, for workers, and their vectors, which wait there for whoever asked.
//!
//! One text is one message. Its key is (job, index): the texts of a job are published with it as their message id, and a result is
//! stored under it as a subject that takes one message only. So whatever is sent or computed twice, by a client that asks again or
//! by a worker that takes over from one that was killed, is seen once. A text leaves the work queue when its result is stored.
//!
//! | stream | subject | content |
//! |---|---|---|
//! | `GTE_WORK`, a work queue | `gte.work.JOB.INDEX` | the text, UTF-8; header `Gte-Model` where the job names a model |
//! | `GTE_RESULTS`, kept for a day | `gte.job.JOB.text.INDEX` | the unit vector, little-endian f32; headers `Gte-Tokens`, `Gte-Truncated`; or `Gte-Error` and nothing |
//! | | `gte.job.JOB.meta` | the number of texts; stored last, so that a job that is there is whole |
//!
//! Streams that exist are taken as they are: who wants replicas or another retention makes them before.

pub(crate) mod routes;
pub(crate) mod worker;

use std::error::Error as _;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::context::{ContextBuilder, PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{self, DiscardPolicy, RetentionPolicy, StorageType, Stream};
use async_nats::jetstream::{self, Context, ErrorCode};
use async_nats::{ConnectOptions, HeaderMap};
use futures_util::future::try_join_all;
use futures_util::{StreamExt, TryStreamExt};
use sha2::{Digest, Sha256};

use crate::error::Error;

const WORK: &str = "GTE_WORK";
const RESULTS: &str = "GTE_RESULTS";
/// The consumer that all workers share; its backlog is what an autoscaler looks at.
const WORKERS: &str = "gte-workers";

/// The header of a text with the name of its model.
const MODEL: &str = "Gte-Model";

/// How long the broker knows a message id, and drops what comes twice.
const DUPLICATES: Duration = Duration::from_secs(600);
/// How long results are kept.
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// Texts that may wait in all.
const MAX_WAITING: i64 = 10_000_000;
/// After which a worker that says nothing of a text is taken for gone.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// Messages that are on their way to the broker at once.
const IN_FLIGHT: usize = 256;

/// The broker.
#[derive(Clone)]
pub struct Jobs {
    context: Context,
}

/// How far a job is.
pub(crate) struct Progress {
    pub(crate) texts: usize,
    pub(crate) done: usize,
}

/// What became of one text.
pub(crate) struct Outcome {
    pub(crate) index: usize,
    pub(crate) result: Result<Computed, String>,
}

/// A text's vector.
pub(crate) struct Computed {
    pub(crate) vector: Vec<f32>,
    pub(crate) tokens: usize,
    pub(crate) truncated: bool,
}

/// What the broker says no to, or says nothing.
fn broker(e: impl std::fmt::Display) -> Error {
    tracing::warn!("NATS: {e}");
    Error::Broker
}

/// What the broker said no by.
fn code(e: &PublishError) -> Option<ErrorCode> {
    e.source()?.downcast_ref::<jetstream::Error>().map(jetstream::Error::error_code)
}

impl Jobs {
    /// A connection that comes and goes as the broker does. Returns at once, also where there is none yet.
    ///
    /// # Errors
    /// An address that is none.
    pub(crate) async fn connect(address: &str) -> Result<Self, String> {
        let client = ConnectOptions::new()
            .name("gte-server")
            .retry_on_initial_connect()
            .reconnect_delay_callback(|attempt| Duration::from_millis(100 << attempt.min(5)))
            .event_callback(|event| async move { tracing::info!("NATS: {event}") })
            .connect(address)
            .await
            // Not the address: it may hold a password.
            .map_err(|e| format!("--nats or --worker: {e}"))?;
        let context = ContextBuilder::new()
            .timeout(Duration::from_secs(5))
            .ack_timeout(Duration::from_secs(10))
            .max_ack_inflight(4 * IN_FLIGHT)
            .backpressure_on_inflight(true)
            .build(client);
        Ok(Self { context })
    }

    /// The streams, made where they are missing.
    async fn streams(&self) -> Result<(Stream, Stream), Error> {
        let work = stream::Config {
            name: WORK.into(),
            subjects: vec!["gte.work.>".into()],
            retention: RetentionPolicy::WorkQueue,
            storage: StorageType::File,
            discard: DiscardPolicy::New,
            max_messages: MAX_WAITING,
            duplicate_window: DUPLICATES,
            ..Default::default()
        };
        let results = stream::Config {
            name: RESULTS.into(),
            subjects: vec!["gte.job.>".into()],
            storage: StorageType::File,
            discard: DiscardPolicy::New,
            discard_new_per_subject: true,
            max_messages_per_subject: 1,
            max_age: KEPT,
            duplicate_window: DUPLICATES,
            allow_direct: true,
            ..Default::default()
        };
        let work = self.context.get_or_create_stream(work).await.map_err(broker)?;
        let results = self.context.get_or_create_stream(results).await.map_err(broker)?;
        Ok((work, results))
    }

    /// The largest text that a message takes.
    fn max_text(&self) -> usize {
        self.context.client().max_payload().saturating_sub(1024)
    }

    /// Publishes a job's texts for `model`, and returns its id. With a `key`, the same texts have the same id, and are one job however
    /// often they are sent.
    pub(crate) async fn submit(
        &self,
        texts: Vec<String>,
        model: Option<&str>,
        key: Option<&str>,
    ) -> Result<String, Error> {
        let limit = self.max_text();
        if let Some(i) = texts.iter().position(|text| text.len() > limit) {
            return Err(Error::field(
                format!("texts[{i}]"),
                format_args!("{} bytes, and the broker takes {limit}", texts[i].len()),
            ));
        }
        let mut hash = Sha256::new();
        match key {
            Some(key) => hash.update(key),
            // A name that no other connection has.
            None => hash.update(self.context.client().new_inbox()),
        }
        hash.update(model.unwrap_or_default());
        for text in &texts {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        }
        let id: String = hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        let (_, results) = self.streams().await?;
        let count = texts.len();
        if key.is_some() && self.texts(&results, &id).await?.is_some() {
            return Ok(id);
        }
        let mut texts = texts.into_iter().enumerate();
        loop {
            let some: Vec<_> = texts.by_ref().take(IN_FLIGHT).collect();
            if some.is_empty() {
                break;
            }
            try_join_all(some.into_iter().map(|(index, text)| {
                let mut message = PublishMessage::build().payload(text.into()).message_id(format!("{id}.{index}"));
                if let Some(model) = model {
                    message = message.header(MODEL, model);
                }
                self.enqueue(format!("gte.work.{id}.{index}"), message)
            }))
            .await?;
        }
        self.store_once(format!("gte.job.{id}.meta"), PublishMessage::build().payload(count.to_string().into()))
            .await?;
        Ok(id)
    }

    /// Publishes, and waits until it is stored.
    async fn publish(&self, subject: String, message: PublishMessage) -> Result<(), PublishError> {
        self.context.send_publish(subject, message).await?.await.map(|_| ())
    }

    /// Puts a text into the work queue.
    async fn enqueue(&self, subject: String, message: PublishMessage) -> Result<(), Error> {
        match self.publish(subject, message).await {
            Err(e) if e.kind() == PublishErrorKind::MaxPayloadExceeded => {
                Err(Error::field("texts", "a text is larger than the broker takes"))
            }
            // The broker has one code for every reason not to store.
            Err(e) if code(&e) == Some(ErrorCode::STREAM_STORE_FAILED) && self.is_full().await => {
                Err(Error::Overloaded { what: "the broker's stream GTE_WORK", retry_after_s: 60 })
            }
            stored => stored.map_err(broker),
        }
    }

    /// Stores what a subject has one of. Where it is there already, that is no error.
    async fn store_once(&self, subject: String, message: PublishMessage) -> Result<(), Error> {
        match self.publish(subject, message.expected_last_subject_sequence(0)).await {
            Err(e) if e.kind() == PublishErrorKind::WrongLastSequence => Ok(()),
            Err(e) if code(&e) == Some(ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT) => Ok(()),
            stored => stored.map_err(broker),
        }
    }

    /// Whether the work queue has as many texts as it may have.
    async fn is_full(&self) -> bool {
        match self.context.get_stream(WORK).await.as_ref().map(Stream::cached_info) {
            Ok(info) => info.config.max_messages > 0 && info.state.messages as i64 >= info.config.max_messages,
            Err(_) => false,
        }
    }

    /// The number of texts of a job, if there is one.
    async fn texts(&self, results: &Stream, id: &str) -> Result<Option<usize>, Error> {
        match results.direct_get_last_for_subject(format!("gte.job.{id}.meta")).await {
            Ok(message) => Ok(std::str::from_utf8(&message.payload).ok().and_then(|count| count.parse().ok())),
            Err(e) if e.kind() == stream::DirectGetErrorKind::NotFound => Ok(None),
            Err(e) => Err(broker(e)),
        }
    }

    fn found(texts: Option<usize>, id: &str) -> Result<usize, Error> {
        texts.ok_or_else(|| Error::NotFound(format!("/v1/jobs/{id}: no such job, or it is older than a day")))
    }

    /// How far a job is.
    pub(crate) async fn progress(&self, id: &str) -> Result<Progress, Error> {
        let (_, results) = self.streams().await?;
        let texts = Self::found(self.texts(&results, id).await?, id)?;
        // A consumer is told how much it has before it.
        let counter = pull::Config {
            filter_subject: format!("gte.job.{id}.text.*"),
            ack_policy: AckPolicy::None,
            inactive_threshold: Duration::from_secs(1),
            memory_storage: true,
            ..Default::default()
        };
        let consumer = results.create_consumer(counter).await.map_err(broker)?;
        Ok(Progress { texts, done: consumer.cached_info().num_pending as usize })
    }

    /// The number of texts of a job, and what became of each, as it comes to be known: each once, in no order.
    pub(crate) async fn follow(
        &self,
        id: &str,
    ) -> Result<(usize, impl futures_util::Stream<Item = Result<Outcome, Error>> + use<>), Error> {
        let (_, results) = self.streams().await?;
        let texts = Self::found(self.texts(&results, id).await?, id)?;
        let reader = pull::OrderedConfig {
            filter_subject: format!("gte.job.{id}.text.*"),
            deliver_policy: DeliverPolicy::All,
            ..Default::default()
        };
        let consumer = results.create_consumer(reader).await.map_err(broker)?;
        let messages = consumer.messages().await.map_err(broker)?;
        let outcomes = messages.map_err(broker).and_then(|message| async move { outcome(&message) });
        Ok((texts, outcomes.take(texts)))
    }

    /// Takes a job's texts out of the queue, and its results away. What a worker has in hand is still computed, and expires.
    pub(crate) async fn cancel(&self, id: &str) -> Result<(), Error> {
        let (work, results) = self.streams().await?;
        Self::found(self.texts(&results, id).await?, id)?;
        work.purge().filter(format!("gte.work.{id}.*")).await.map_err(broker)?;
        results.purge().filter(format!("gte.job.{id}.>")).await.map_err(broker)?;
        Ok(())
    }

    /// Stores what became of a text.
    async fn store(&self, job: &str, outcome: &Outcome) -> Result<(), Error> {
        let mut headers = HeaderMap::new();
        headers.insert(async_nats::header::NATS_MESSAGE_ID, format!("{job}.{}", outcome.index).as_str());
        let payload: Vec<u8> = match &outcome.result {
            Ok(computed) => {
                headers.insert("Gte-Tokens", computed.tokens.to_string());
                headers.insert("Gte-Truncated", computed.truncated.to_string());
                computed.vector.iter().flat_map(|v| v.to_le_bytes()).collect()
            }
            Err(error) => {
                // A header is one line.
                headers.insert("Gte-Error", error.replace(['\r', '\n'], " "));
                Vec::new()
            }
        };
        let message = PublishMessage::build().payload(payload.into()).headers(headers);
        self.store_once(format!("gte.job.{job}.text.{}", outcome.index), message).await
    }
}

/// Reads what [`Jobs::store`] wrote.
fn outcome(message: &jetstream::Message) -> Result<Outcome, Error> {
    let index = message.subject.rsplit('.').next().and_then(|index| index.parse().ok());
    let index = index.ok_or_else(|| broker(format_args!("a result with the subject {}", message.subject)))?;
    let header = |name: &str| message.headers.as_ref().and_then(|h| h.get(name)).map(|v| v.as_str());
    let result = match header("Gte-Error") {
        Some(error) => Err(error.to_owned()),
        None => Ok(Computed {
            vector: message.payload.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            tokens: header("Gte-Tokens").and_then(|n| n.parse().ok()).unwrap_or(0),
            truncated: header("Gte-Truncated") == Some("true"),
        }),
    };
    Ok(Outcome { index, result })
}
