//! Downloads by link, for workers that hold no storage key.

use std::fmt;

use bytes::{Bytes, BytesMut};
use reqwest::{Client, Response, StatusCode};
use tracing::warn;

use crate::upload::{ATTEMPTS, FIRST_DELAY, link_client};

/// A download that failed. The link is never in it.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// No HTTP client can be made.
    #[error("cannot start an HTTP client")]
    Client(#[source] reqwest::Error),
    /// What was given is no link.
    #[error("not a download link; ask for a new one")]
    Link,
    /// There is no such object any more.
    #[error("the file has been erased")]
    Gone,
    /// The storage refuses: the link has ended.
    #[error("storage refuses the download with HTTP {status}; the link has ended")]
    Refused {
        /// The HTTP status.
        status: u16,
    },
    /// The file is larger than whoever reads it can use.
    #[error("the file has more than {limit} bytes")]
    TooLarge {
        /// The most that was asked for.
        limit: usize,
    },
    /// The storage was at fault each time.
    #[error("storage failed {attempts} times with HTTP {status}; try again later")]
    Failing {
        /// The last HTTP status.
        status: u16,
        /// How often it was tried.
        attempts: u32,
    },
    /// The storage could not be reached, or broke off.
    #[error("storage could not be read in {attempts} tries")]
    Away {
        /// How often it was tried.
        attempts: u32,
        /// The last failure.
        #[source]
        source: reqwest::Error,
    },
}

impl DownloadError {
    /// Whether a later attempt, with a new link, may succeed.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Refused { .. } | Self::Failing { .. } | Self::Away { .. }
        )
    }
}

/// Downloads by link; clones share the connections.
#[derive(Clone)]
pub struct Downloader {
    client: Client,
}

impl Downloader {
    /// A downloader.
    ///
    /// # Errors
    /// When the system's certificates cannot be loaded.
    pub fn new() -> Result<Self, DownloadError> {
        let client = link_client().map_err(DownloadError::Client)?;
        Ok(Self { client })
    }

    /// Reads a file of at most `max_bytes` by a presigned link; transient failures are tried again for some seconds.
    /// May be dropped at any point.
    ///
    /// # Errors
    /// What another try would not change, at once; otherwise the last failure.
    pub async fn get(&self, url: &str, max_bytes: usize) -> Result<Bytes, DownloadError> {
        let mut delay = FIRST_DELAY;
        let mut attempt = 1;
        loop {
            let failure = match self.try_get(url, max_bytes, attempt).await {
                Err(failure @ (DownloadError::Failing { .. } | DownloadError::Away { .. }))
                    if attempt < ATTEMPTS =>
                {
                    failure
                }
                done => return done,
            };
            warn!(attempt, "a download failed: {failure}");
            tokio::time::sleep(delay).await;
            delay *= 2;
            attempt += 1;
        }
    }

    async fn try_get(
        &self,
        url: &str,
        max_bytes: usize,
        attempts: u32,
    ) -> Result<Bytes, DownloadError> {
        let away = |error: reqwest::Error| {
            if error.is_builder() {
                return DownloadError::Link;
            }
            DownloadError::Away {
                attempts,
                source: error.without_url(),
            }
        };
        let response = self.client.get(url).send().await.map_err(away)?;
        let mut response = successful(response, attempts)?;
        let announced = response.content_length().unwrap_or(0);
        let too_large = DownloadError::TooLarge { limit: max_bytes };
        if announced > max_bytes as u64 {
            return Err(too_large);
        }
        let mut bytes = BytesMut::with_capacity(announced as usize);
        while let Some(chunk) = response.chunk().await.map_err(away)? {
            if bytes.len() + chunk.len() > max_bytes {
                return Err(too_large);
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.freeze())
    }
}

fn successful(response: Response, attempts: u32) -> Result<Response, DownloadError> {
    let status = response.status();
    match status {
        _ if status.is_success() => Ok(response),
        StatusCode::NOT_FOUND | StatusCode::GONE => Err(DownloadError::Gone),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
            Err(DownloadError::Failing {
                status: status.as_u16(),
                attempts,
            })
        }
        _ if status.is_server_error() => Err(DownloadError::Failing {
            status: status.as_u16(),
            attempts,
        }),
        _ => Err(DownloadError::Refused {
            status: status.as_u16(),
        }),
    }
}

impl fmt::Debug for Downloader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Downloader")
    }
}
