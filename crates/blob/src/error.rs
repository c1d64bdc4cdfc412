//! What can go wrong with storage.

use std::{error::Error as StdError, time::Duration};

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use crate::{key::ObjectKey, prefix::PrefixError};

type Cause = Box<dyn StdError + Send + Sync>;

/// A failure of storage. No link and no key of the storage's own is in it.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The endpoint is no URL, or says more than where.
    #[error(
        "not a storage endpoint; expected one like https://s3.example.com, without user or query"
    )]
    Endpoint,
    /// No such object.
    #[error("no object {key}")]
    NotFound {
        /// Which.
        key: ObjectKey,
    },
    /// The object is larger than allowed.
    #[error("the object {key} is larger than {limit} bytes")]
    TooLarge {
        /// Which.
        key: ObjectKey,
        /// What was allowed.
        limit: usize,
    },
    /// A prefix that could reach too much.
    #[error(transparent)]
    Prefix(#[from] PrefixError),
    /// A link that would live too long.
    #[error("a link cannot be valid for {ttl:?}; expected 1 second to 7 days")]
    Lifetime {
        /// How long.
        ttl: Duration,
    },
    /// The storage refuses.
    #[error("storage refuses to {action}: {code}; check the bucket, the keys and their rights")]
    Refused {
        /// What was tried.
        action: &'static str,
        /// The storage's own code.
        code: String,
    },
    /// The storage is away or at fault.
    #[error("storage cannot {action}; try again")]
    Away {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: Cause,
    },
}

impl BlobError {
    /// Whether the same may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Away { .. })
    }

    pub(crate) fn away(action: &'static str, source: impl Into<Cause>) -> Self {
        Self::Away {
            action,
            source: source.into(),
        }
    }

    /// A request that failed: refused if the storage says that the request is at fault.
    pub(crate) fn request<E>(action: &'static str, error: SdkError<E>) -> Self
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        match status(&error) {
            Some(code @ 400..=499) if code != 408 && code != 429 => {
                let name = error
                    .as_service_error()
                    .and_then(ProvideErrorMetadata::code);
                Self::Refused {
                    action,
                    code: name.map_or_else(|| code.to_string(), str::to_owned),
                }
            }
            _ => Self::away(action, error.into_source().unwrap_or_else(Into::into)),
        }
    }
}

/// The HTTP status that the storage answered with.
pub(crate) fn status<E>(error: &SdkError<E>) -> Option<u16> {
    error
        .raw_response()
        .map(|response| response.status().as_u16())
}

impl From<BlobError> for likeness_domain::Error {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::Away { .. } | BlobError::Refused { .. } => {
                Self::unavailable("storage", error)
            }
            other => Self::internal(other),
        }
    }
}
