//! The render worker: its configuration, its loop.

use std::path::PathBuf;

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use clap::Args;
use likeness_blob::{Downloader, Uploader};
use likeness_bundle::Bundle;
use likeness_domain::{Clock as _, SystemClock, bundle::BundleSummary};
use likeness_queue::{PoolName, Queue, QueueArgs};
use likeness_runtime::Lifecycle;
use tokio_util::task::TaskTracker;

use crate::{
    device::{Compute, ComputeArgs},
    engine::{Engine, default_batch},
    hello,
    intake::take_prompts,
};

/// The render worker's configuration. It names no database and no object storage.
#[derive(Args, Clone)]
pub struct RenderArgs {
    /// The bundle it renders with.
    #[arg(long, env = "LIKENESS_BUNDLE", value_name = "DIR")]
    pub bundle: PathBuf,
    /// Images painted at a time, at most; fewer where memory is short. Queued renders of one size, model, scheduler, number
    /// of steps, with or without guidance, are then painted together; on the CPU only those of one person in one strength.
    /// By default 1 on the CPU, which gains nothing by it, and else 8.
    #[arg(long, env = "LIKENESS_MAX_BATCH", value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..=64))]
    pub max_batch: Option<u16>,
    /// Where the models compute.
    #[command(flatten)]
    pub compute: ComputeArgs,
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
    /// Reads the pictures that renders start from.
    pub downloader: Downloader,
    /// The models.
    pub engine: Engine,
    /// Images painted at a time, at most.
    pub max_batch: usize,
    /// Where the models compute.
    pub compute: Compute,
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
        let RenderArgs {
            bundle,
            max_batch,
            compute,
            ..
        } = args;
        let load = move || {
            let compute = compute.open()?;
            let max_batch = max_batch.map_or_else(|| default_batch(&compute), usize::from);
            let (engine, bundle) = Engine::start(Bundle::open(&bundle)?, &compute, max_batch)?;
            anyhow::Ok((engine, bundle, compute, max_batch))
        };
        let loading = tokio::task::spawn_blocking(load).await;
        let (engine, bundle, compute, max_batch) = loading.context("loading the bundle")??;
        Ok(Self {
            queue,
            uploader: Uploader::new()?,
            downloader: Downloader::new()?,
            engine,
            max_batch,
            pool: pool_of(&bundle, &compute.class)?,
            compute,
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
            let taking = take_prompts(&self, &attempts, &hard);
            let ended = soft.run_until_cancelled(Box::pin(taking)).await;
            attempts.close();
            attempts.wait().await;
            ended.unwrap_or(Ok(()))
        });
    }

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
