//! The enrolment worker: its configuration, its stores, its tasks.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use chrono::{DateTime, TimeDelta, Utc};
use clap::Args;
use likeness_blob::{Blob, BlobArgs};
use likeness_bundle::Bundle;
use likeness_domain::{SharedClock, SystemClock};
use likeness_queue::{Queue, QueueArgs};
use likeness_registry::{KeyRing, PgPool};
use likeness_runtime::Lifecycle;

use crate::{claim, engine::Engine, hello};

/// How long one look into the queue lasts.
const WAIT: Duration = Duration::from_secs(5);
/// The wait after a failure of NATS or Postgres.
const PAUSE: Duration = Duration::from_millis(500);

/// The enrolment worker's configuration.
#[derive(Args, Clone)]
pub struct EnrollArgs {
    /// Postgres: `postgres://user:password@host/database`.
    #[arg(long, env = "LIKENESS_DATABASE_URL", hide_env_values = true)]
    pub database_url: String,
    /// The keys that coefficients are sealed with, `id:base64` each; the first one seals.
    #[arg(long, env = "LIKENESS_SEALING_KEYS", hide_env_values = true)]
    pub sealing_keys: String,
    /// The bundle whose encoder it runs.
    #[arg(long, env = "LIKENESS_BUNDLE", value_name = "DIR")]
    pub bundle: PathBuf,
    /// The queue.
    #[command(flatten)]
    pub queue: QueueArgs,
    /// Where photos are.
    #[command(flatten)]
    pub blob: BlobArgs,
}

/// One enrolment worker.
#[derive(Clone)]
pub struct Enroll {
    /// The registry.
    pub pool: PgPool,
    /// The queue's messages.
    pub queue: Queue,
    /// Where photos are.
    pub blob: Blob,
    /// The time.
    pub clock: SharedClock,
    /// Seals coefficients.
    pub keys: Arc<KeyRing>,
    /// The models.
    pub engine: Engine,
    /// The digest of the encoder that coefficients are stored under.
    pub encoder: String,
    /// The least cosine of a photo's face to the identity's other photos.
    pub same_person: f32,
    /// This worker among the others.
    pub worker: String,
    /// How long a claim holds without renewal.
    pub lease: TimeDelta,
    /// When it started.
    pub started_at: DateTime<Utc>,
}

impl Enroll {
    /// Connects to everything the configuration names, and loads the models.
    ///
    /// # Errors
    /// What cannot be reached or loaded.
    pub async fn from_args(args: EnrollArgs) -> anyhow::Result<Self> {
        let pool = likeness_registry::connect(&args.database_url, 4).await?;
        likeness_registry::check_migrated(&pool).await?;
        let queue = Queue::connect(&args.queue).await?;
        let blob = Blob::connect(&args.blob)?;
        let keys = KeyRing::parse(&args.sealing_keys)?;
        Self::from_services(pool, queue, blob, keys, Arc::new(SystemClock), args.bundle).await
    }

    /// With stores that are connected already.
    ///
    /// # Errors
    /// A bundle that cannot be loaded.
    pub async fn from_services(
        pool: PgPool,
        queue: Queue,
        blob: Blob,
        keys: KeyRing,
        clock: SharedClock,
        bundle: PathBuf,
    ) -> anyhow::Result<Self> {
        let loading = tokio::task::spawn_blocking(move || {
            let bundle = Bundle::open(&bundle)?;
            let engine = Engine::start(&bundle)?;
            anyhow::Ok((engine, bundle.encoder_digest()?, bundle.face()?.same_person))
        });
        let (engine, encoder, same_person) = loading.await.context("loading the bundle")??;
        let worker = format!("enroll-{}", uuid::Uuid::now_v7().simple());
        let started_at = clock.now();
        let lease = TimeDelta::seconds(30);
        let keys = Arc::new(keys);
        Ok(Self {
            pool,
            queue,
            blob,
            clock,
            keys,
            engine,
            encoder,
            same_person,
            worker,
            lease,
            started_at,
        })
    }

    /// Enrols photos until the lifecycle's soft stop; the one at hand is finished.
    pub fn spawn(self, lifecycle: &Lifecycle) {
        hello::spawn(&self, lifecycle);
        let soft = lifecycle.soft().clone();
        lifecycle.spawn("enroll", async move {
            self.queue.ensure_streams().await?;
            let mut prompts = self.queue.photo_prompts();
            while let Some(next) = soft.run_until_cancelled(Box::pin(prompts.next(WAIT))).await {
                match next {
                    Ok(Some(prompt)) => claim::work_on(&self, prompt).await,
                    Ok(None) => {}
                    Err(error) => {
                        tracing::warn!(%error, "no prompts");
                        let _ = soft.run_until_cancelled(tokio::time::sleep(PAUSE)).await;
                    }
                }
            }
            Ok(())
        });
    }
}
