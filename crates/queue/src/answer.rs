//! Answering requests.

use std::{future::Future, num::NonZeroUsize, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use async_nats::{HeaderMap, Subject, Subscriber};
use futures::{FutureExt as _, StreamExt as _};
use tokio::{sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::{
    codec::{CodecError, Message, Parcel},
    connection::Queue,
    error::{QueueError, ServiceError},
    request::{ERROR, PATIENCE, header_of, headers},
    subjects::Endpoint,
};

/// How long a request may wait for its turn when it does not say how long its asker waits.
const DEFAULT_PATIENCE: Duration = Duration::from_secs(5);

impl Queue {
    /// Answers the requests of an endpoint until `shutdown`, then those that have already come. All services that
    /// serve it under the same `group` share the requests; `concurrency` are worked on at once here, the others
    /// wait for their turn as long as their askers do.
    ///
    /// A request that cannot be read is answered with an error, and so is one whose handler panics.
    ///
    /// # Errors
    /// When the subscription cannot be made or ends unasked.
    pub async fn serve<Req, Rep, H, Fut>(
        &self,
        endpoint: &Endpoint<Req, Rep>,
        group: &'static str,
        concurrency: NonZeroUsize,
        shutdown: CancellationToken,
        handler: H,
    ) -> Result<(), QueueError>
    where
        Req: Message,
        Rep: Message + Sync,
        H: Fn(Req) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Rep, ServiceError>> + Send + 'static,
    {
        let subject = endpoint.subject().to_owned();
        let requests = self
            .client
            .queue_subscribe(subject.clone(), group.to_owned())
            .await
            .map_err(|error| QueueError::nats("listen for requests", error))?;
        let turns = Semaphore::new(concurrency.get());
        let desk = Arc::new(Desk {
            queue: self.clone(),
            subject,
            turns,
            handler,
        });
        answer_all(desk, requests, shutdown).await
    }
}

struct Desk<H> {
    queue: Queue,
    subject: String,
    turns: Semaphore,
    handler: H,
}

async fn answer_all<Req, Rep, H, Fut>(
    desk: Arc<Desk<H>>,
    mut requests: Subscriber,
    shutdown: CancellationToken,
) -> Result<(), QueueError>
where
    Req: Message,
    Rep: Message + Sync,
    H: Fn(Req) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Rep, ServiceError>> + Send + 'static,
{
    let mut at_work = JoinSet::new();
    let mut draining = false;
    loop {
        tokio::select! {
            () = shutdown.cancelled(), if !draining => {
                draining = true;
                requests.drain().await.map_err(|error| QueueError::nats("stop listening", error))?;
            }
            Some(_) = at_work.join_next() => {}
            request = requests.next() => match request {
                Some(request) => {
                    let desk = Arc::clone(&desk);
                    at_work.spawn(async move { desk.answer(request).await });
                }
                None => break,
            },
        }
    }
    while at_work.join_next().await.is_some() {}
    if draining {
        Ok(())
    } else {
        Err(QueueError::nats(
            "keep listening for requests",
            "the connection was closed",
        ))
    }
}

impl<H> Desk<H> {
    async fn answer<Req, Rep, Fut>(&self, request: async_nats::Message)
    where
        Req: Message,
        Rep: Message + Sync,
        H: Fn(Req) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Rep, ServiceError>> + Send + 'static,
    {
        let answer = self.work_out(&request).await;
        let Some(reply) = request.reply else { return };
        let encoded = match answer {
            Ok(answer) => answer.encode().map(|parcel| (headers(&parcel), parcel)),
            Err(error) => error.encode().map(|parcel| (error_headers(), parcel)),
        };
        if let Err(error) = self.send(reply, encoded).await {
            error!(subject = self.subject, %error, "cannot send an answer");
        }
    }

    async fn work_out<Req, Rep, Fut>(
        &self,
        request: &async_nats::Message,
    ) -> Result<Rep, ServiceError>
    where
        Req: Message,
        H: Fn(Req) -> Fut,
        Fut: Future<Output = Result<Rep, ServiceError>>,
    {
        let header = |name| header_of(request.headers.as_ref(), name);
        let decoded = Req::decode(&header, &request.payload).map_err(|error| {
            warn!(subject = self.subject, %error, "a request that cannot be read");
            ServiceError::bad_request(error.to_string())
        })?;
        let patience = header(PATIENCE).and_then(|text| text.parse().ok());
        let patience = patience.map_or(DEFAULT_PATIENCE, Duration::from_millis);
        let Ok(Ok(_turn)) = tokio::time::timeout(patience, self.turns.acquire()).await else {
            return Err(ServiceError::busy());
        };
        let handled = AssertUnwindSafe(async { (self.handler)(decoded).await }).catch_unwind();
        handled.await.unwrap_or_else(|_| {
            error!(subject = self.subject, "the handler of a request panicked");
            Err(ServiceError::internal())
        })
    }

    async fn send(
        &self,
        reply: Subject,
        encoded: Result<(HeaderMap, Parcel), CodecError>,
    ) -> Result<(), QueueError> {
        let (headers, parcel) = encoded.map_err(|error| QueueError::codec(&self.subject, error))?;
        self.queue
            .client
            .publish_with_headers(reply, headers, parcel.body)
            .await
            .map_err(|error| QueueError::nats("publish an answer", error))
    }
}

fn error_headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(ERROR, "1");
    headers
}
