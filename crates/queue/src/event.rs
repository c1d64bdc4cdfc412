//! Events: published to whoever listens, stored nowhere.

use std::{
    fmt,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use async_nats::{PublishErrorKind, Request, Subscriber};
use futures::Stream;
use tracing::warn;

use crate::{
    codec::Message,
    connection::Queue,
    error::QueueError,
    request::{header_of, headers},
    subjects::Topic,
};

/// How long a new subscription may take to reach the server.
const SUBSCRIBE_LIMIT: Duration = Duration::from_secs(2);

impl Queue {
    /// Tells whoever listens. While the connection is away, events wait in this process for a time.
    ///
    /// # Errors
    /// A message that cannot be written or is too large.
    pub async fn publish_event<T: Message>(
        &self,
        topic: &Topic<T>,
        event: &T,
    ) -> Result<(), QueueError> {
        let subject = topic.subject();
        let parcel = event
            .encode()
            .map_err(|error| QueueError::codec(subject, error))?;
        let sent = if parcel.headers.is_empty() {
            self.client.publish(subject.to_owned(), parcel.body).await
        } else {
            self.client
                .publish_with_headers(subject.to_owned(), headers(&parcel), parcel.body)
                .await
        };
        sent.map_err(|error| match error.kind() {
            PublishErrorKind::MaxPayloadExceeded => QueueError::TooLarge {
                subject: subject.to_owned(),
            },
            _ => QueueError::nats("publish an event", error),
        })
    }

    /// Listens. Every event published after this returns arrives, unless the connection breaks: whoever listens
    /// reads the truth after subscribing, and again now and then.
    ///
    /// # Errors
    /// When the subscription cannot be made.
    pub async fn subscribe<T: Message>(&self, topic: &Topic<T>) -> Result<Events<T>, QueueError> {
        let messages = self
            .client
            .subscribe(topic.subject().to_owned())
            .await
            .map_err(|error| QueueError::nats("subscribe to events", error))?;
        self.reach_server().await;
        Ok(Events {
            messages,
            carries: PhantomData,
        })
    }

    /// Waits until the server has seen all that was sent before: it answers a request that nobody serves at once.
    async fn reach_server(&self) {
        let request = Request::new().timeout(Some(SUBSCRIBE_LIMIT));
        let _nobody = self
            .client
            .send_request(self.client.new_inbox(), request)
            .await;
    }
}

/// A stream of events; those that cannot be read are logged and left out.
pub struct Events<T> {
    messages: Subscriber,
    carries: PhantomData<fn() -> T>,
}

impl<T: Message> Stream for Events<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        while let Some(message) = ready!(Pin::new(&mut self.messages).poll_next(context)) {
            let header = |name| header_of(message.headers.as_ref(), name);
            match T::decode(&header, &message.payload) {
                Ok(event) => return Poll::Ready(Some(event)),
                Err(error) => {
                    warn!(subject = %message.subject, %error, "an event that cannot be read");
                }
            }
        }
        Poll::Ready(None)
    }
}

impl<T> fmt::Debug for Events<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Events")
    }
}
