//! Jobs: texts wait on a broker (NATS JetStream) for workers, and their vectors wait there for the
//! client.
//!
//! Each text is one message with the key (job, index). The texts of a job are published with this
//! key as their message id, and a result is stored under it as a subject that takes only one
//! message. Anything that is sent or computed twice, by a client that repeats its request or by a
//! worker that takes over from one that was killed, therefore counts once. A text leaves the work
//! queue when its result is stored.
//!
//! | stream | subject | content |
//! |---|---|---|
//! | `GTE_WORK`, a work queue | `gte.work.JOB.INDEX` | the text in UTF-8; header `Gte-Model` if the job names a model |
//! | `GTE_RESULTS`, kept for a day | `gte.job.JOB.text.INDEX` | the unit vector, little-endian f32; headers `Gte-Tokens`, `Gte-Truncated`; or only a header `Gte-Error` |
//! | | `gte.job.JOB.meta` | the number of texts; stored last, so that every visible job is complete |
//!
//! Existing streams are used as they are. To have replicas or another retention, create the streams
//! before the server starts.

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
/// The consumer that all workers share. An autoscaler can watch its backlog.
const WORKERS: &str = "gte-workers";

/// The header of a text that names its model.
const MODEL: &str = "Gte-Model";

/// How long the broker remembers a message id and drops duplicates.
const DUPLICATES: Duration = Duration::from_secs(600);
/// How long results are kept.
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// Maximum number of waiting texts of all jobs.
const MAX_WAITING: i64 = 10_000_000;
/// A worker that has not reported on a text for this long is considered dead.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// Number of messages that may be on their way to the broker at the same time.
const IN_FLIGHT: usize = 256;

/// The broker.
#[derive(Clone)]
pub struct Jobs {
    context: Context,
}

/// The progress of a job.
pub(crate) struct JobProgress {
    pub(crate) texts: usize,
    pub(crate) done: usize,
}

/// The result of one text.
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

/// An error of the broker, or a missing answer.
fn broker(e: impl std::fmt::Display) -> Error {
    tracing::warn!("NATS: {e}");
    Error::Broker
}

/// The broker's error code.
fn code(e: &PublishError) -> Option<ErrorCode> {
    e.source()?.downcast_ref::<jetstream::Error>().map(jetstream::Error::error_code)
}

impl Jobs {
    /// Connects to the broker in the background, and reconnects whenever the broker comes back.
    /// Returns at once, even if there is no broker yet.
    ///
    /// # Errors
    /// An invalid address.
    pub(crate) async fn connect(address: &str) -> Result<Self, String> {
        let client = ConnectOptions::new()
            .name("gte-server")
            .retry_on_initial_connect()
            .reconnect_delay_callback(|attempt| Duration::from_millis(100 << attempt.min(5)))
            .event_callback(|event| async move { tracing::info!("NATS: {event}") })
            .connect(address)
            .await
            // The message leaves out the address, which may contain a password.
            .map_err(|e| format!("--nats or --worker: {e}"))?;
        let context = ContextBuilder::new()
            .timeout(Duration::from_secs(5))
            .ack_timeout(Duration::from_secs(10))
            .max_ack_inflight(4 * IN_FLIGHT)
            .backpressure_on_inflight(true)
            .build(client);
        Ok(Self { context })
    }

    /// The two streams, which are created if they are missing.
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

    /// The largest text in bytes that fits into a message.
    fn max_text(&self) -> usize {
        self.context.client().max_payload().saturating_sub(1024)
    }

    /// Publishes the texts of a job for `model`, and returns the job's id. With the same `key`, the
    /// same texts have the same id and are one job, however often they are sent.
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
                format_args!("{} bytes, the limit of the broker is {limit}", texts[i].len()),
            ));
        }
        let mut hash = Sha256::new();
        match key {
            Some(key) => hash.update(key),
            // A name that is unique among all connections.
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

    /// Publishes a message and waits until the broker has stored it.
    async fn publish(&self, subject: String, message: PublishMessage) -> Result<(), PublishError> {
        self.context.send_publish(subject, message).await?.await.map(|_| ())
    }

    /// Puts a text into the work queue.
    async fn enqueue(&self, subject: String, message: PublishMessage) -> Result<(), Error> {
        match self.publish(subject, message).await {
            Err(e) if e.kind() == PublishErrorKind::MaxPayloadExceeded => {
                Err(Error::field("texts", "a text exceeds the broker's limit"))
            }
            // The broker uses a single code for every reason not to store a message.
            Err(e) if code(&e) == Some(ErrorCode::STREAM_STORE_FAILED) && self.is_full().await => {
                Err(Error::Overloaded { what: "the broker's stream GTE_WORK", retry_after_s: 60 })
            }
            stored => stored.map_err(broker),
        }
    }

    /// Stores a message under a subject that takes only one. It is no error if a message is already
    /// there.
    async fn store_once(&self, subject: String, message: PublishMessage) -> Result<(), Error> {
        match self.publish(subject, message.expected_last_subject_sequence(0)).await {
            Err(e) if e.kind() == PublishErrorKind::WrongLastSequence => Ok(()),
            Err(e) if code(&e) == Some(ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT) => Ok(()),
            stored => stored.map_err(broker),
        }
    }

    /// Whether the work queue has reached its limit.
    async fn is_full(&self) -> bool {
        match self.context.get_stream(WORK).await.as_ref().map(Stream::cached_info) {
            Ok(info) => info.config.max_messages > 0 && info.state.messages as i64 >= info.config.max_messages,
            Err(_) => false,
        }
    }

    /// The number of texts of a job.
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

    /// The progress of a job.
    pub(crate) async fn progress(&self, id: &str) -> Result<JobProgress, Error> {
        let (_, results) = self.streams().await?;
        let texts = Self::found(self.texts(&results, id).await?, id)?;
        // A new consumer is told how many messages it has to read.
        let counter = pull::Config {
            filter_subject: format!("gte.job.{id}.text.*"),
            ack_policy: AckPolicy::None,
            inactive_threshold: Duration::from_secs(1),
            memory_storage: true,
            ..Default::default()
        };
        let consumer = results.create_consumer(counter).await.map_err(broker)?;
        Ok(JobProgress { texts, done: consumer.cached_info().num_pending as usize })
    }

    /// The number of texts of a job, and the result of each text as soon as it is known: each once,
    /// in any order.
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

    /// Removes the texts of a job from the queue, and deletes its results. Texts that a worker is
    /// computing are still computed, and their results expire.
    pub(crate) async fn cancel(&self, id: &str) -> Result<(), Error> {
        let (work, results) = self.streams().await?;
        Self::found(self.texts(&results, id).await?, id)?;
        work.purge().filter(format!("gte.work.{id}.*")).await.map_err(broker)?;
        results.purge().filter(format!("gte.job.{id}.>")).await.map_err(broker)?;
        Ok(())
    }

    /// Stores the result of a text.
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
                // A header must be a single line.
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
