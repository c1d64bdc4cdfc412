//! The streams and consumers, and making them again when a server has lost them.

use std::time::Duration;

use async_nats::jetstream::{
    consumer::{AckPolicy, PullConsumer, pull},
    stream::{Config, ConsumerError, DiscardPolicy, RetentionPolicy, StorageType},
};

use crate::{connection::Queue, error::QueueError};

/// How long a prompt's id is remembered.
const DUPLICATE_WINDOW: Duration = Duration::from_mins(2);
/// How long a delivery may go without an ack or a progress ack before it is delivered again.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// Above any window of admitted renders.
const MAX_ACK_PENDING: i64 = 100_000;
/// Above the workers of any pool.
const MAX_WAITING: i64 = 8_192;
/// Prompts are some hundred bytes; the bound keeps a dead letter within what the server takes.
const MAX_PROMPT_BYTES: i32 = 64 * 1024;
const DEAD_AGE: Duration = Duration::from_hours(30 * 24);
const DEAD_BYTES: i64 = 256 * 1024 * 1024;

/// A stream of prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    Renders,
    Photos,
}

impl Work {
    pub(crate) const fn stream(self) -> &'static str {
        match self {
            Self::Renders => "RENDER",
            Self::Photos => "PHOTO",
        }
    }

    /// The last token of its dead letters' subject.
    pub(crate) const fn dead_kind(self) -> &'static str {
        match self {
            Self::Renders => "render",
            Self::Photos => "photo",
        }
    }
}

impl Queue {
    /// Makes the streams, or brings them to the present configuration. Idempotent.
    ///
    /// # Errors
    /// When JetStream is off, away, or refuses.
    pub async fn ensure_streams(&self) -> Result<(), QueueError> {
        let subjects = self.subjects();
        for config in [
            self.work_stream(Work::Renders, subjects.all_render_work()),
            self.work_stream(Work::Photos, subjects.photo_work()),
            self.dead_stream(),
        ] {
            self.jetstream
                .create_or_update_stream(config)
                .await
                .map_err(|error| QueueError::nats("make a JetStream stream", error))?;
        }
        Ok(())
    }

    fn work_stream(&self, work: Work, subject: String) -> Config {
        Config {
            name: self.namespace.stream(work.stream()),
            subjects: vec![subject],
            retention: RetentionPolicy::WorkQueue,
            storage: StorageType::File,
            duplicate_window: DUPLICATE_WINDOW,
            num_replicas: self.replicas,
            max_message_size: MAX_PROMPT_BYTES,
            ..Config::default()
        }
    }

    fn dead_stream(&self) -> Config {
        Config {
            name: self.namespace.stream("DEAD"),
            subjects: vec![self.subjects().dead("*")],
            retention: RetentionPolicy::Limits,
            storage: StorageType::File,
            discard: DiscardPolicy::Old,
            max_age: DEAD_AGE,
            max_bytes: DEAD_BYTES,
            duplicate_window: DUPLICATE_WINDOW,
            num_replicas: self.replicas,
            ..Config::default()
        }
    }

    /// Makes a work stream's durable consumer; the streams too, if the server has lost them. Idempotent.
    pub(crate) async fn ensure_consumer(
        &self,
        work: Work,
        name: &str,
        filter: &str,
    ) -> Result<PullConsumer, QueueError> {
        if let Ok(consumer) = self.make_consumer(work, name, filter).await {
            return Ok(consumer);
        }
        self.ensure_streams().await?;
        self.make_consumer(work, name, filter)
            .await
            .map_err(|error| QueueError::nats("make a JetStream consumer", error))
    }

    async fn make_consumer(
        &self,
        work: Work,
        name: &str,
        filter: &str,
    ) -> Result<PullConsumer, ConsumerError> {
        let stream = self.namespace.stream(work.stream());
        self.jetstream
            .create_consumer_on_stream(consumer_config(name, filter), stream)
            .await
    }
}

/// One per pool: explicit acks and unlimited deliveries, since only Postgres counts attempts.
fn consumer_config(name: &str, filter: &str) -> pull::Config {
    pull::Config {
        durable_name: Some(name.to_owned()),
        filter_subject: filter.to_owned(),
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        max_deliver: -1,
        max_ack_pending: MAX_ACK_PENDING,
        max_waiting: MAX_WAITING,
        ..pull::Config::default()
    }
}
