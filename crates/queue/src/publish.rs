//! Prompts into the work streams, and dead letters out of them.

use async_nats::{
    HeaderMap,
    jetstream::{
        self, AckKind,
        context::{PublishError, PublishErrorKind},
        message::PublishMessage,
    },
};
use tracing::error;

use crate::{
    codec::{CodecError, Message},
    connection::Queue,
    error::QueueError,
    messages::{PhotoPrompt, RenderPrompt},
    names::PoolName,
    streams::Work,
};

const CAUSE: &str = "Likeness-Cause";
const SUBJECT: &str = "Likeness-Subject";

impl Queue {
    /// Prompts a pool's workers to claim a render; `Ok` once JetStream has stored it, or had before. The render and
    /// publication are its id, so that a repeat within two minutes is stored once.
    ///
    /// # Errors
    /// When JetStream did not confirm: it may still have the prompt.
    pub async fn publish_render(
        &self,
        pool: &PoolName,
        prompt: &RenderPrompt,
    ) -> Result<(), QueueError> {
        let id = format!("{}.{}", prompt.render, prompt.publication);
        self.publish_prompt(self.subjects().render_work(pool), id, prompt)
            .await
    }

    /// Prompts an enrolment worker to claim a photo; as [`Queue::publish_render`].
    ///
    /// # Errors
    /// When JetStream did not confirm: it may still have the prompt.
    pub async fn publish_photo(&self, prompt: &PhotoPrompt) -> Result<(), QueueError> {
        let id = format!("{}.{}", prompt.photo, prompt.publication);
        self.publish_prompt(self.subjects().photo_work(), id, prompt)
            .await
    }

    async fn publish_prompt<T: Message>(
        &self,
        subject: String,
        id: String,
        prompt: &T,
    ) -> Result<(), QueueError> {
        let parcel = prompt
            .encode()
            .map_err(|error| QueueError::codec(&subject, error))?;
        let message = PublishMessage::build().message_id(id).payload(parcel.body);
        self.publish_stored(subject, message).await
    }

    /// Publishes into a stream and waits for the PubAck; makes the streams first if the server has lost them.
    async fn publish_stored(
        &self,
        subject: String,
        message: PublishMessage,
    ) -> Result<(), QueueError> {
        let result = self.publish_once(&subject, message.clone()).await;
        let result = match result {
            Err(error) if error.kind() == PublishErrorKind::StreamNotFound => {
                self.ensure_streams().await?;
                self.publish_once(&subject, message).await
            }
            other => other,
        };
        result.map_err(|error| match error.kind() {
            PublishErrorKind::TimedOut => QueueError::Timeout { subject },
            PublishErrorKind::MaxPayloadExceeded => QueueError::TooLarge { subject },
            _ => QueueError::nats("publish to JetStream", error),
        })
    }

    async fn publish_once(
        &self,
        subject: &str,
        message: PublishMessage,
    ) -> Result<(), PublishError> {
        self.jetstream
            .send_publish(subject.to_owned(), message)
            .await?
            .await?;
        Ok(())
    }

    /// Moves a prompt that cannot be read to the dead letters, as it came and with the cause; only once it is
    /// stored there does the work stream let go of it.
    pub(crate) async fn bury(
        &self,
        work: Work,
        message: &jetstream::Message,
        cause: &CodecError,
    ) -> Result<(), QueueError> {
        error!(subject = %message.subject, %cause, "a prompt goes to the dead letters");
        let mut headers = HeaderMap::new();
        headers.insert(CAUSE, cause.to_string());
        headers.insert(SUBJECT, message.subject.as_str());
        let mut letter = PublishMessage::build()
            .headers(headers)
            .payload(message.payload.clone());
        if let Ok(info) = message.info() {
            let written = info.published.unix_timestamp_nanos();
            letter = letter.message_id(format!(
                "{}.{}.{written}",
                work.stream(),
                info.stream_sequence
            ));
        }
        self.publish_stored(self.subjects().dead(work.dead_kind()), letter)
            .await?;
        message
            .double_ack_with(AckKind::Term)
            .await
            .map_err(|error| QueueError::nats("terminate an unreadable prompt", error))
    }
}
