//! The processes of a run: the services as their own programs start them, around a worker whose model is instant.

use std::{fs::File, path::PathBuf, time::Duration};

use anyhow::Result;
use bytes::Bytes;
use chrono::TimeDelta;
use clap::{Args, Subcommand};
use likeness_api::{ApiArgs, Server};
use likeness_blob::{Downloader, Uploader};
use likeness_dispatch::{Dispatch, DispatchArgs};
use likeness_domain::{
    Clock as _, SystemClock,
    bundle::{BundleSummary, RenderDefaults},
    render::{RenderTimings, RenderedImage, Scheduler},
};
use likeness_queue::{Queue, QueueArgs};
use likeness_render::{ComputeArgs, Engine, Failure, Job, Painted, Render};
use likeness_runtime::{Lifecycle, RuntimeArgs};
use sha2::{Digest as _, Sha256};

use crate::broken::{self, Rule};

/// How long one denoising step of the pretended model takes; a render of a single step takes none.
const STEP: Duration = Duration::from_millis(25);

#[derive(Subcommand)]
pub enum Service {
    /// The gRPC front
    Api {
        #[command(flatten)]
        runtime: RuntimeArgs,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// The dispatcher, which keeps a journal of what it answered
    Dispatch {
        #[command(flatten)]
        runtime: RuntimeArgs,
        #[command(flatten)]
        dispatch: Box<DispatchArgs>,
        #[command(flatten)]
        test: TestArgs,
    },
    /// A worker without models
    Worker {
        #[command(flatten)]
        runtime: RuntimeArgs,
        #[command(flatten)]
        queue: QueueArgs,
    },
}

/// What only a run under faults says.
#[derive(Args)]
pub struct TestArgs {
    /// Where answers are written down
    #[arg(long)]
    journal: PathBuf,
    /// The rule that this dispatcher breaks
    #[arg(long)]
    rule: Option<Rule>,
    /// Seconds until what nobody claimed is published again
    #[arg(long)]
    unclaimed: Option<u32>,
}

impl Service {
    pub fn main(self) -> Result<()> {
        match self {
            Self::Api { runtime, api } => {
                likeness_runtime::main(&runtime, |lifecycle| async move {
                    Server::from_args(api).await?.spawn(&lifecycle);
                    Ok(())
                })
            }
            Self::Dispatch {
                runtime,
                dispatch,
                test,
            } => likeness_runtime::main(&runtime, |lifecycle| async move {
                dispatcher(*dispatch, test, &lifecycle).await
            }),
            Self::Worker { runtime, queue } => {
                likeness_runtime::main(&runtime, |lifecycle| async move {
                    worker(&queue).await?.spawn(&lifecycle);
                    Ok(())
                })
            }
        }
    }
}

async fn dispatcher(args: DispatchArgs, test: TestArgs, lifecycle: &Lifecycle) -> Result<()> {
    let mut dispatch = Dispatch::from_args(args).await?;
    if let Some(seconds) = test.unclaimed {
        dispatch.policy.unclaimed = TimeDelta::seconds(seconds.into());
    }
    if test.rule == Some(Rule::Reconcile) {
        broken::no_reconcile(&mut dispatch.policy);
    }
    let journal = File::options()
        .create(true)
        .append(true)
        .open(test.journal)?;
    broken::keep_journal(journal);
    if test.rule == Some(Rule::CountRows) {
        broken::lead(&dispatch, lifecycle);
    } else {
        dispatch.lead(lifecycle);
    }
    match test.rule {
        Some(Rule::Fence) => dispatch.answer(lifecycle, broken::finish_unfenced),
        Some(Rule::CommitFirst) => dispatch.answer(lifecycle, broken::finish_later),
        Some(Rule::CountRows) => dispatch.answer(lifecycle, broken::finish_counted),
        Some(Rule::Reconcile) | None => dispatch.answer(lifecycle, broken::finish),
    }
    Ok(())
}

async fn worker(queue: &QueueArgs) -> Result<Render> {
    let max_batch = 4;
    let bundle = bundle();
    Ok(Render {
        queue: Queue::connect(queue).await?,
        uploader: Uploader::new()?,
        downloader: Downloader::new()?,
        engine: Engine::painting(max_batch, paint)?,
        max_batch,
        compute: ComputeArgs::default().open()?,
        pool: format!("{}-none", &bundle.digest[..12]).parse()?,
        bundle,
        worker: format!("render-{}", uuid::Uuid::now_v7().simple()),
        started_at: SystemClock.now(),
    })
}

/// A bundle without files.
fn bundle() -> BundleSummary {
    BundleSummary {
        digest: "0f".repeat(32),
        name: "instant".to_owned(),
        version: "1".to_owned(),
        encoder: "e0".repeat(32),
        tokens: 4,
        k: 4,
        models: vec!["instant".to_owned()],
        defaults: RenderDefaults {
            scheduler: Scheduler::Euler,
            steps: 1,
            guidance: 1.0,
            id_scale: 0.8,
            width: 64,
            height: 64,
        },
        base: false,
    }
}

/// "Images" say which render they are of.
pub fn says(seed: i64) -> String {
    format!("the image of seed {seed}, ")
}

fn paint(job: &Job) -> Result<Painted, Failure> {
    for _ in 1..job.spec.steps {
        if let Some(reason) = job.stop.reason() {
            return Err(Failure::Stopped(reason));
        }
        std::thread::sleep(STEP);
    }
    let images = (0..i64::from(job.spec.image_count)).map(|position| {
        let seed = job.spec.seed + position;
        // No two attempts make the same file: whoever mixes them up is seen.
        let file = format!("{}made once: {}", says(seed), uuid::Uuid::now_v7()).into_bytes();
        let image = RenderedImage {
            format: job.spec.output_format,
            width: job.spec.width,
            height: job.spec.height,
            size_bytes: file.len() as u64,
            sha256: hex::encode(Sha256::digest(&file)),
            seed,
            likeness: None,
        };
        (Bytes::from(file), image)
    });
    Ok(Painted {
        images: images.collect(),
        timings: RenderTimings::default(),
    })
}
