//! Pulling prompts, one at a time, and acknowledging them.

use std::{fmt, future::Future, marker::PhantomData, time::Duration};

use async_nats::jetstream::{
    self, AckKind,
    consumer::{PullConsumer, pull::Batch},
};
use futures::StreamExt as _;
use tokio::{sync::watch, time::Instant};

use crate::{
    codec::Message,
    connection::Queue,
    error::QueueError,
    messages::{PhotoPrompt, RenderPrompt},
    names::PoolName,
    request::header_of,
    streams::Work,
};

impl Queue {
    /// The prompts of one pool. Many workers share them; each prompt goes to one.
    pub fn render_prompts(&self, pool: &PoolName) -> Prompts<RenderPrompt> {
        Prompts::new(
            self,
            Work::Renders,
            pool.as_str(),
            self.subjects().render_work(pool),
        )
    }

    /// The prompts of all photos.
    pub fn photo_prompts(&self) -> Prompts<PhotoPrompt> {
        Prompts::new(self, Work::Photos, "photos", self.subjects().photo_work())
    }
}

/// How long the server keeps one pull. A server that loses one, as when its stream is deleted at that moment, says nothing:
/// then this is how long nobody notices.
const PULL: Duration = Duration::from_secs(5);

/// Prompts to pull. Nothing is fetched ahead: a prompt that waits here could be another worker's.
pub struct Prompts<T> {
    queue: Queue,
    work: Work,
    consumer_name: String,
    subject: String,
    consumer: Option<PullConsumer>,
    /// Kept over a dropped `next`, so that what the server then sends is not lost.
    pull: Option<Batch>,
    connections: watch::Receiver<u64>,
    carries: PhantomData<fn() -> T>,
}

impl<T: Message> Prompts<T> {
    fn new(queue: &Queue, work: Work, consumer_name: &str, subject: String) -> Self {
        Self {
            queue: queue.clone(),
            work,
            consumer_name: consumer_name.to_owned(),
            subject,
            consumer: None,
            pull: None,
            connections: queue.connections.clone(),
            carries: PhantomData,
        }
    }

    /// The next prompt, or `None` when none came within `wait`. Prompts that cannot be read go to the dead letters
    /// and the wait goes on. May be dropped at any point, as in `select!`: a later call goes on with the same pull.
    ///
    /// # Errors
    /// When JetStream is away. Calling again later is all there is to do.
    pub async fn next(&mut self, wait: Duration) -> Result<Option<Delivery<T>>, QueueError> {
        let deadline = Instant::now() + wait;
        while let Some(message) = self.fetch_until(deadline).await? {
            match T::decode(
                &|name| header_of(message.headers.as_ref(), name),
                &message.payload,
            ) {
                Ok(decoded) => return Ok(Some(Delivery { decoded, message })),
                Err(cause) => self.queue.bury(self.work, &message, &cause).await?,
            }
        }
        Ok(None)
    }

    /// One message before the deadline, by one pull after the other.
    async fn fetch_until(
        &mut self,
        deadline: Instant,
    ) -> Result<Option<jetstream::Message>, QueueError> {
        loop {
            let pause = deadline.min(Instant::now() + PULL);
            let message = self.fetch(pause).await?;
            let now = Instant::now();
            // A pull that ends early has its reason; asking again at once would only go round in circles.
            if message.is_some() || now < pause || now >= deadline {
                return Ok(message);
            }
        }
    }

    /// One message. A server that was restarted has forgotten the pull, one that was wiped the consumer too: both
    /// are made again, once for a failure, at once after a reconnection.
    async fn fetch(&mut self, deadline: Instant) -> Result<Option<jetstream::Message>, QueueError> {
        let mut failed_before = false;
        loop {
            let mut connections = self.connections.clone();
            let pulled = tokio::select! {
                biased;
                pulled = self.pulled(deadline) => pulled,
                Ok(()) = connections.changed() => {
                    self.connections.mark_unchanged();
                    self.forget();
                    continue;
                }
            };
            self.pull = None;
            match pulled {
                Ok(message) => return Ok(message),
                Err(error) if failed_before => return Err(error),
                Err(_) => failed_before = true,
            }
            self.forget();
        }
    }

    async fn pulled(
        &mut self,
        deadline: Instant,
    ) -> Result<Option<jetstream::Message>, QueueError> {
        let pull = match self.pull.take() {
            Some(pull) => pull,
            None => {
                self.ask(deadline.saturating_duration_since(Instant::now()))
                    .await?
            }
        };
        match self.pull.insert(pull).next().await {
            None => Ok(None),
            Some(Ok(message)) => Ok(Some(message)),
            Some(Err(error)) => Err(QueueError::nats("pull a prompt", error)),
        }
    }

    async fn ask(&mut self, wait: Duration) -> Result<Batch, QueueError> {
        let consumer = if let Some(consumer) = self.consumer.take() {
            consumer
        } else {
            let (name, subject) = (&self.consumer_name, &self.subject);
            self.queue.ensure_consumer(self.work, name, subject).await?
        };
        let pull = self
            .consumer
            .insert(consumer)
            .batch()
            .max_messages(1)
            .expires(wait);
        pull.messages()
            .await
            .map_err(|error| QueueError::nats("ask for a prompt", error))
    }

    fn forget(&mut self) {
        self.pull = None;
        self.consumer = None;
    }
}

impl<T> fmt::Debug for Prompts<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Prompts({})", self.subject)
    }
}

/// A prompt that was delivered to this process alone, until it is acknowledged or thirty seconds pass without a
/// word. Dropping it says nothing: it is delivered again then.
pub struct Delivery<T> {
    decoded: T,
    message: jetstream::Message,
}

impl<T> Delivery<T> {
    /// The prompt.
    pub fn message(&self) -> &T {
        &self.decoded
    }

    /// How many times it was delivered, this time included. For logs: attempts are counted in Postgres.
    pub fn delivered(&self) -> u64 {
        self.message
            .info()
            .map_or(1, |info| u64::try_from(info.delivered).unwrap_or(1))
    }

    /// Done with it, for good; waits until JetStream confirms.
    ///
    /// # Errors
    /// When JetStream did not confirm. It may then be delivered once more, which harms nothing.
    pub async fn ack(self) -> Result<(), QueueError> {
        acked("acknowledge a prompt", self.message.double_ack()).await
    }

    /// Not now: to be delivered again, to anyone, after `delay`.
    ///
    /// # Errors
    /// When JetStream did not confirm.
    pub async fn nak(self, delay: Duration) -> Result<(), QueueError> {
        let kind = AckKind::Nak(Some(delay).filter(|delay| !delay.is_zero()));
        acked("hand back a prompt", self.message.double_ack_with(kind)).await
    }

    /// Still at it: thirty more seconds.
    ///
    /// # Errors
    /// When the connection is away.
    pub async fn in_progress(&self) -> Result<(), QueueError> {
        acked(
            "report progress on a prompt",
            self.message.ack_with(AckKind::Progress),
        )
        .await
    }
}

impl<T: fmt::Debug> fmt::Debug for Delivery<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Delivery").field(&self.decoded).finish()
    }
}

async fn acked(
    action: &'static str,
    ack: impl Future<Output = Result<(), async_nats::Error>>,
) -> Result<(), QueueError> {
    ack.await.map_err(|error| QueueError::nats(action, error))
}
