//! Uploads by link, for workers that hold no storage key.

use std::{fmt, time::Duration};

use bytes::Bytes;
use reqwest::{Client, StatusCode, header::CONTENT_TYPE, redirect::Policy};
use tracing::warn;

/// How often an upload or a download is tried.
pub(crate) const ATTEMPTS: u32 = 5;
pub(crate) const FIRST_DELAY: Duration = Duration::from_millis(200);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ATTEMPT_TIMEOUT: Duration = Duration::from_mins(1);

/// An upload that failed. The link is never in it.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// No HTTP client can be made.
    #[error("cannot start an HTTP client")]
    Client(#[source] reqwest::Error),
    /// What was given is no link.
    #[error("not an upload link; ask for a new one")]
    Link,
    /// The storage refuses: the link has ended, or is not for this upload.
    #[error(
        "storage refuses the upload with HTTP {status}; the link has ended or is not for this file"
    )]
    Refused {
        /// The HTTP status.
        status: u16,
    },
    /// The storage was away, or at fault, each time.
    #[error("storage failed {attempts} times with HTTP {status}; try again later")]
    Failing {
        /// The last HTTP status.
        status: u16,
        /// How often it was tried.
        attempts: u32,
    },
    /// The storage could not be reached.
    #[error("storage could not be reached in {attempts} tries")]
    Away {
        /// How often it was tried.
        attempts: u32,
        /// The last failure.
        #[source]
        source: reqwest::Error,
    },
}

impl UploadError {
    /// Whether a later attempt, with new links, may succeed.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Refused { .. } | Self::Failing { .. } | Self::Away { .. }
        )
    }
}

/// An HTTP client for links.
pub(crate) fn link_client() -> Result<Client, reqwest::Error> {
    Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(ATTEMPT_TIMEOUT)
        // A link is for its own host alone.
        .redirect(Policy::none())
        .build()
}

/// Uploads by link; clones share the connections.
#[derive(Clone)]
pub struct Uploader {
    client: Client,
}

impl Uploader {
    /// An uploader.
    ///
    /// # Errors
    /// When the system's certificates cannot be loaded.
    pub fn new() -> Result<Self, UploadError> {
        let client = link_client().map_err(UploadError::Client)?;
        Ok(Self { client })
    }

    /// Stores a file by a presigned link; transient failures are tried again for some seconds. Repeating a whole
    /// upload is harmless. May be dropped at any point.
    ///
    /// # Errors
    /// A refusal at once; otherwise the last failure.
    pub async fn put(
        &self,
        url: &str,
        content_type: &str,
        bytes: Bytes,
    ) -> Result<(), UploadError> {
        let mut delay = FIRST_DELAY;
        let mut attempt = 1;
        loop {
            let failure = match self
                .try_put(url, content_type, bytes.clone(), attempt)
                .await
            {
                Err(failure @ (UploadError::Failing { .. } | UploadError::Away { .. }))
                    if attempt < ATTEMPTS =>
                {
                    failure
                }
                done => return done,
            };
            warn!(attempt, "an upload failed: {failure}");
            tokio::time::sleep(delay).await;
            delay *= 2;
            attempt += 1;
        }
    }

    async fn try_put(
        &self,
        url: &str,
        content_type: &str,
        bytes: Bytes,
        attempts: u32,
    ) -> Result<(), UploadError> {
        let request = self
            .client
            .put(url)
            .header(CONTENT_TYPE, content_type)
            .body(bytes);
        let response = request.send().await.map_err(|error| {
            if error.is_builder() {
                return UploadError::Link;
            }
            UploadError::Away {
                attempts,
                source: error.without_url(),
            }
        })?;
        let status = response.status();
        match status {
            _ if status.is_success() => Ok(()),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                Err(UploadError::Failing {
                    status: status.as_u16(),
                    attempts,
                })
            }
            _ if status.is_server_error() => Err(UploadError::Failing {
                status: status.as_u16(),
                attempts,
            }),
            _ => Err(UploadError::Refused {
                status: status.as_u16(),
            }),
        }
    }
}

impl fmt::Debug for Uploader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Uploader")
    }
}
