//! What every handler works with.

use std::{sync::Arc, time::Duration};

use likeness_blob::Blob;
use likeness_domain::{Error, SharedClock, webhook::Reach};
use likeness_queue::Queue;
use likeness_registry::{PgPool, Postgres, Transaction};

use crate::{auth::OperatorKey, render::Intake};

/// Handles on the stores, the front's own limits, and what is being taken in. Handlers hold no other state.
#[derive(Clone)]
pub struct App {
    /// The registry.
    pub pool: PgPool,
    /// The queue's messages.
    pub queue: Queue,
    /// Photos and images.
    pub blob: Blob,
    /// The time.
    pub clock: SharedClock,
    /// Who may administer.
    pub operator: OperatorKey,
    /// What requests may ask for.
    pub limits: Limits,
    /// Renders that are taken in together.
    pub intake: Arc<Intake>,
}

/// What requests may ask for.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The bytes of a photo, or of a picture to start from.
    pub photo_bytes: usize,
    /// Photos in one request.
    pub photos_per_request: usize,
    /// How long a download link lives.
    pub download_ttl: Duration,
    /// Which addresses webhooks may name.
    pub webhooks: Reach,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // A 48-megapixel JPEG from a phone has 10 to 15 MB.
            photo_bytes: 20 << 20,
            photos_per_request: 16,
            download_ttl: Duration::from_mins(15),
            webhooks: Reach::Public,
        }
    }
}

impl App {
    /// Begins a transaction.
    ///
    /// # Errors
    /// No connection is free in time.
    pub async fn begin(&self) -> Result<Transaction<'static, Postgres>, Error> {
        likeness_registry::begin(&self.pool).await
    }

    /// Commits a transaction.
    ///
    /// # Errors
    /// The connection broke: whether it was committed is then unknown.
    pub async fn commit(&self, tx: Transaction<'static, Postgres>) -> Result<(), Error> {
        likeness_registry::commit(tx).await
    }
}
