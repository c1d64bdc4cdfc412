//! What can go wrong with the queue, and the error that one service sends another.

use std::error::Error as StdError;

use serde::{Deserialize, Serialize};

use crate::{
    codec::{CodecError, json_messages},
    names::NameError,
};

type Cause = Box<dyn StdError + Send + Sync>;

/// The answer to a request that could not be served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct ServiceError {
    /// UPPER_SNAKE, for programs.
    pub reason: String,
    /// For people; nothing personal in it.
    pub message: String,
    /// Whether the same request may succeed later.
    pub retryable: bool,
}

json_messages!(ServiceError);

impl ServiceError {
    /// The request itself is wrong.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self {
            reason: "BAD_REQUEST".to_owned(),
            message: message.into(),
            retryable: false,
        }
    }

    /// There is too much to do at the moment.
    pub fn busy() -> Self {
        Self {
            reason: "BUSY".to_owned(),
            message: "too many requests at once; try again".to_owned(),
            retryable: true,
        }
    }

    /// A fault of the service, which may pass.
    pub fn internal() -> Self {
        Self {
            reason: "INTERNAL".to_owned(),
            message: "an internal fault; it has been logged".to_owned(),
            retryable: true,
        }
    }
}

impl From<likeness_domain::Error> for ServiceError {
    fn from(error: likeness_domain::Error) -> Self {
        Self {
            reason: error.reason.to_owned(),
            retryable: error.is_retryable(),
            message: error.message,
        }
    }
}

/// A failure of the queue.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// No connection at the start.
    #[error("cannot connect to NATS; check --nats-url and that the server runs")]
    Connect(#[source] Cause),
    /// The credentials file cannot be used.
    #[error("cannot read the NATS credentials file {path}")]
    Credentials {
        /// Its path.
        path: String,
        /// Why.
        #[source]
        source: Cause,
    },
    /// A server that lacks what is used.
    #[error("the NATS server is of version {found}; expected 2.11 or later")]
    OldServer {
        /// Its version.
        found: String,
    },
    /// A name that cannot be a part of a subject.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Nobody answers requests on this subject.
    #[error("nobody answers on {subject}; try again")]
    NoResponders {
        /// The subject.
        subject: String,
    },
    /// No answer in time.
    #[error("no answer on {subject} in time; try again")]
    Timeout {
        /// The subject.
        subject: String,
    },
    /// More bytes than the server takes.
    #[error("a message for {subject} is larger than the NATS server takes")]
    TooLarge {
        /// The subject.
        subject: String,
    },
    /// A message that cannot be read or written.
    #[error("{subject}: {source}")]
    Codec {
        /// The subject.
        subject: String,
        /// What is wrong with it.
        #[source]
        source: CodecError,
    },
    /// The service that was asked refuses, or failed.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// Anything else that NATS refuses.
    #[error("cannot {action}")]
    Nats {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: Cause,
    },
}

impl QueueError {
    /// Whether the same may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::NoResponders { .. }
            | Self::Timeout { .. }
            | Self::Nats { .. }
            | Self::Connect(_) => true,
            Self::Service(error) => error.retryable,
            Self::Credentials { .. }
            | Self::OldServer { .. }
            | Self::Name(_)
            | Self::TooLarge { .. }
            | Self::Codec { .. } => false,
        }
    }

    pub(crate) fn nats(action: &'static str, source: impl Into<Cause>) -> Self {
        Self::Nats {
            action,
            source: source.into(),
        }
    }

    pub(crate) fn codec(subject: &str, source: CodecError) -> Self {
        Self::Codec {
            subject: subject.to_owned(),
            source,
        }
    }
}

impl From<QueueError> for likeness_domain::Error {
    fn from(error: QueueError) -> Self {
        if error.is_retryable() {
            Self::unavailable("the queue", error)
        } else {
            Self::internal(error)
        }
    }
}
