//! The render worker: its configuration, its loop.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use clap::Args;
use likeness_blob::Uploader;
use likeness_bundle::Bundle;
use likeness_domain::{Clock as _, SystemClock, bundle::BundleSummary};
use likeness_queue::{PoolName, Queue, QueueArgs};
use likeness_runtime::Lifecycle;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::{attempt, engine::Engine, hello};

/// How long one look into the queue lasts.
const WAIT: Duration = Duration::from_secs(5);
/// The wait after a failure of NATS.
const PAUSE: Duration = Duration::from_millis(500);
/// Attempts at hand: one on the models, one uploading.
const AT_HAND: usize = 2;

/// The render worker's configuration. It names no database and no object storage.
#[derive(Args, Clone)]
pub struct RenderArgs {
    /// The bundle it renders with.
    #[arg(long, env = "LIKENESS_BUNDLE", value_name = "DIR")]
    pub bundle: PathBuf,
    /// The queue.
    #[command(flatten)]
    pub queue: QueueArgs,
}

/// One render worker.
#[derive(Clone)]
pub struct Render {
    /// The queue's messages.
    pub queue: Queue,
    /// Puts images into storage.
    pub uploader: Uploader,
    /// The models.
    pub engine: Engine,
    /// The bundle as announced.
    pub bundle: BundleSummary,
    /// The pool it serves.
    pub pool: PoolName,
    /// This worker among the others.
    pub worker: String,
    /// When it started.
    pub started_at: DateTime<Utc>,
}

impl Render {
    /// Connects to the queue and loads the models.
    ///
    /// # Errors
    /// What cannot be reached or loaded.
    pub async fn from_args(args: RenderArgs) -> anyhow::Result<Self> {
        let queue = Queue::connect(&args.queue).await?;
        Self::from_services(queue, args.bundle).await
    }

    /// With a queue that is connected already.
    ///
    /// # Errors
    /// A bundle that cannot be loaded.
    pub async fn from_services(queue: Queue, bundle: PathBuf) -> anyhow::Result<Self> {
        let loading = tokio::task::spawn_blocking(move || Engine::start(Bundle::open(&bundle)?));
        let (engine, bundle) = loading.await.context("loading the bundle")??;
        Ok(Self {
            queue,
            uploader: Uploader::new()?,
            engine,
            pool: pool_of(&bundle, "cpu")?,
            bundle,
            worker: format!("render-{}", uuid::Uuid::now_v7().simple()),
            started_at: SystemClock.now(),
        })
    }

    /// Renders until the lifecycle's soft stop; what is at hand is finished, or handed back at the hard stop.
    pub fn spawn(self, lifecycle: &Lifecycle) {
        hello::spawn(&self, lifecycle);
        self.watch_models(lifecycle);
        let (soft, hard) = (lifecycle.soft().clone(), lifecycle.hard().clone());
        lifecycle.spawn("render", async move {
            self.queue.ensure_streams().await?;
            let at_hand = Arc::new(Semaphore::new(AT_HAND));
            let models = Arc::new(Semaphore::new(1));
            let attempts = TaskTracker::new();
            let mut prompts = self.queue.render_prompts(&self.pool);
            let next = async {
                loop {
                    // A prompt is taken only when it can be worked on at once.
                    let place = at_hand.clone().acquire_owned().await?;
                    let turn = models.clone().acquire_owned().await?;
                    match prompts.next(WAIT).await {
                        Ok(Some(prompt)) => {
                            let (render, hard) = (self.clone(), hard.clone());
                            attempts.spawn(async move {
                                attempt::work_on(&render, prompt, turn, &hard).await;
                                drop(place);
                            });
                        }
                        Ok(None) => {}
                        Err(error) => {
                            tracing::warn!(%error, "no prompts");
                            tokio::time::sleep(PAUSE).await;
                        }
                    }
                }
            };
            let ended: Option<anyhow::Result<()>> = soft.run_until_cancelled(Box::pin(next)).await;
            attempts.close();
            attempts.wait().await;
            ended.unwrap_or(Ok(()))
        });
    }
}

impl Render {
    /// Ends the process when the models' thread has: a worker without models would only fail what it claims.
    fn watch_models(&self, lifecycle: &Lifecycle) {
        let (engine, soft) = (self.engine.clone(), lifecycle.soft().clone());
        lifecycle.spawn("models", async move {
            match soft.run_until_cancelled(engine.ended()).await {
                Some(()) => anyhow::bail!("the models' thread has ended"),
                None => Ok(()),
            }
        });
    }
}

/// A pool is a bundle on a class of device.
fn pool_of(bundle: &BundleSummary, device_class: &str) -> anyhow::Result<PoolName> {
    let digest = bundle
        .digest
        .get(..12)
        .context("the bundle's digest is too short")?;
    format!("{digest}-{device_class}")
        .parse()
        .context("the pool's name")
}
