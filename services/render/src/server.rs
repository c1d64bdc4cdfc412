//! The render worker: its configuration, its loop.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use clap::Args;
use likeness_blob::Uploader;
use likeness_bundle::Bundle;
use likeness_domain::{Clock as _, SystemClock, bundle::BundleSummary, render::RenderSpec};
use likeness_queue::{Delivery, PoolName, Prompts, Queue, QueueArgs, RenderPrompt};
use likeness_runtime::Lifecycle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    attempt,
    engine::{Company, Engine, Seat, default_batch, party},
    hello,
};

/// How long one look into the queue lasts.
const WAIT: Duration = Duration::from_secs(5);
/// The wait after a failure of NATS.
const PAUSE: Duration = Duration::from_millis(500);
/// The wait for a further render to paint with one that was taken: what is there at once comes along.
const MOMENT: Duration = Duration::from_millis(10);

/// The render worker's configuration. It names no database and no object storage.
#[derive(Args, Clone)]
pub struct RenderArgs {
    /// The bundle it renders with.
    #[arg(long, env = "LIKENESS_BUNDLE", value_name = "DIR")]
    pub bundle: PathBuf,
    /// Images painted at a time, at most; fewer where memory is short. Queued renders of one size, model, scheduler and
    /// number of steps are then painted together. By default 1 on the CPU, which gains nothing by it, and else 8.
    #[arg(long, env = "LIKENESS_MAX_BATCH", value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..=64))]
    pub max_batch: Option<u16>,
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
    /// Images painted at a time, at most.
    pub max_batch: usize,
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
        let max_batch = args.max_batch.map_or_else(default_batch, usize::from);
        Self::from_services(queue, args.bundle, max_batch).await
    }

    /// With a queue that is connected already.
    ///
    /// # Errors
    /// A bundle that cannot be loaded.
    pub async fn from_services(
        queue: Queue,
        bundle: PathBuf,
        max_batch: usize,
    ) -> anyhow::Result<Self> {
        let load = move || Engine::start(Bundle::open(&bundle)?, max_batch);
        let loading = tokio::task::spawn_blocking(load);
        let (engine, bundle) = loading.await.context("loading the bundle")??;
        Ok(Self {
            queue,
            uploader: Uploader::new()?,
            engine,
            max_batch,
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
            let attempts = TaskTracker::new();
            let taking = self.take_prompts(&attempts, &hard);
            let ended = soft.run_until_cancelled(Box::pin(taking)).await;
            attempts.close();
            attempts.wait().await;
            ended.unwrap_or(Ok(()))
        });
    }

    /// Takes prompts for ever, one party after the other. A party is taken only when it can be worked on at once.
    async fn take_prompts(
        &self,
        attempts: &TaskTracker,
        hard: &CancellationToken,
    ) -> anyhow::Result<()> {
        // One party on the models, one uploading.
        let places = Arc::new(Semaphore::new(2 * self.max_batch));
        let models = Arc::new(Semaphore::new(1));
        let mut prompts = self.queue.render_prompts(&self.pool);
        loop {
            let place = places.clone().acquire_owned().await?;
            let turn = models.clone().acquire_owned().await?;
            let (seat, gathering) = party(&self.engine, turn);
            attempts.spawn(gathering);
            let mut table = Table {
                render: self,
                attempts,
                hard,
                places: &places,
                seat,
            };
            table.fill(&mut prompts, place).await;
        }
    }
}

/// Where a party is put together.
struct Table<'a> {
    render: &'a Render,
    attempts: &'a TaskTracker,
    hard: &'a CancellationToken,
    places: &'a Arc<Semaphore>,
    seat: Seat,
}

impl Table<'_> {
    /// Waits for a first render and takes those that are there with it, until there are enough.
    async fn fill(&mut self, prompts: &mut Prompts<RenderPrompt>, first: OwnedSemaphorePermit) {
        let mut company = Company::new(self.render.max_batch);
        let (mut place, mut wait) = (first, WAIT);
        loop {
            let prompt = match prompts.next(wait).await {
                Ok(Some(prompt)) => prompt,
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(%error, "no prompts");
                    return tokio::time::sleep(PAUSE).await;
                }
            };
            match self.sit(prompt, place).await {
                Some(spec) if !company.take(&spec) => return,
                Some(_) => wait = MOMENT,
                None => {}
            }
            let Ok(next) = self.places.clone().try_acquire_owned() else {
                return;
            };
            place = next;
        }
    }

    /// Begins to work on a prompt, and says what was claimed. The work goes on by itself: whoever stops waiting here
    /// leaves no claim behind.
    async fn sit(
        &self,
        prompt: Delivery<RenderPrompt>,
        place: OwnedSemaphorePermit,
    ) -> Option<RenderSpec> {
        let (told, claimed) = oneshot::channel();
        let (render, seat, hard) = (self.render.clone(), self.seat.clone(), self.hard.clone());
        self.attempts.spawn(async move {
            attempt::work_on(&render, prompt, seat, told, &hard).await;
            drop(place);
        });
        claimed.await.ok()
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
