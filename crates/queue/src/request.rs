//! Asking a service and waiting for its answer.

use std::time::Duration;

use async_nats::{HeaderMap, Request, RequestErrorKind};

use crate::{
    codec::{Message, Parcel},
    connection::Queue,
    error::{QueueError, ServiceError},
    subjects::Endpoint,
};

/// Marks an answer that is a [`ServiceError`].
pub(crate) const ERROR: &str = "Likeness-Error";
/// How many milliseconds the asker waits: no use to answer later.
pub(crate) const PATIENCE: &str = "Likeness-Patience-Ms";

impl Queue {
    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// [`QueueError::NoResponders`] at once when nobody serves the endpoint; [`QueueError::Timeout`] when the answer
    /// or the connection did not come in time, and the request may yet have its effect; [`QueueError::Service`]
    /// when the service refused.
    pub async fn request<Req: Message, Rep: Message>(
        &self,
        endpoint: &Endpoint<Req, Rep>,
        request: &Req,
        timeout: Duration,
    ) -> Result<Rep, QueueError> {
        let subject = endpoint.subject();
        let parcel = request
            .encode()
            .map_err(|error| QueueError::codec(subject, error))?;
        let mut headers = headers(&parcel);
        headers.insert(PATIENCE, timeout.as_millis().to_string());
        let request = Request::new()
            .headers(headers)
            .payload(parcel.body)
            .timeout(Some(timeout));
        let answer = self
            .client
            .send_request(subject.to_owned(), request)
            .await
            .map_err(|error| failure(subject, error))?;
        read_answer(subject, &answer)
    }
}

fn read_answer<Rep: Message>(
    subject: &str,
    answer: &async_nats::Message,
) -> Result<Rep, QueueError> {
    let header = |name| header_of(answer.headers.as_ref(), name);
    let codec = |error| QueueError::codec(subject, error);
    if header(ERROR).is_some() {
        let error = ServiceError::decode(&header, &answer.payload).map_err(codec)?;
        return Err(QueueError::Service(error));
    }
    Rep::decode(&header, &answer.payload).map_err(codec)
}

fn failure(subject: &str, error: async_nats::RequestError) -> QueueError {
    let subject = subject.to_owned();
    match error.kind() {
        RequestErrorKind::NoResponders => QueueError::NoResponders { subject },
        RequestErrorKind::TimedOut => QueueError::Timeout { subject },
        RequestErrorKind::MaxPayloadExceeded => QueueError::TooLarge { subject },
        RequestErrorKind::InvalidSubject | RequestErrorKind::Other => {
            QueueError::nats("send a request", error)
        }
    }
}

/// A header's text.
pub(crate) fn header_of(headers: Option<&HeaderMap>, name: &'static str) -> Option<String> {
    headers?.get(name).map(|value| value.as_str().to_owned())
}

/// A parcel's headers as NATS takes them.
pub(crate) fn headers(parcel: &Parcel) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in &parcel.headers {
        headers.insert(*name, value.as_str());
    }
    headers
}
