//! The processes of a run: the services as their own programs start them, around a worker whose model is instant.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Result;
use bytes::Bytes;
use chrono::TimeDelta;
use clap::{Args, Subcommand};
use likeness_api::{ApiArgs, Server};
use likeness_blob::{Blob, BlobArgs, Downloader, Uploader};
use likeness_dispatch::{Dispatch, DispatchArgs};
use likeness_domain::{
    Clock as _, SystemClock,
    bundle::{BundleSummary, RenderDefaults},
    coefficients::{Coefficients, StoredCoefficients},
    embedding::FaceEmbedding,
    photo::QualityReport,
    render::{RenderTimings, RenderedImage, Scheduler},
};
use likeness_enroll::{Enroll, Enrolled, Verdict};
use likeness_queue::{Queue, QueueArgs};
use likeness_registry::KeyRing;
use likeness_render::{ComputeArgs, Engine, Failure, Job, Painted, Render};
use likeness_runtime::{Lifecycle, RuntimeArgs};
use sha2::{Digest as _, Sha256};

use crate::{
    broken::{self, Rule},
    fleet::LEASE_SECONDS,
};

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
    /// An enrolment worker without models
    Enroll {
        #[command(flatten)]
        runtime: RuntimeArgs,
        #[command(flatten)]
        stores: Stores,
    },
    /// A worker without models
    Worker {
        #[command(flatten)]
        runtime: RuntimeArgs,
        #[command(flatten)]
        queue: QueueArgs,
    },
}

/// What an enrolment worker talks to.
#[derive(Args)]
pub struct Stores {
    #[arg(long, env = "LIKENESS_DATABASE_URL")]
    database_url: String,
    #[arg(long, env = "LIKENESS_SEALING_KEYS")]
    sealing_keys: String,
    #[command(flatten)]
    queue: QueueArgs,
    #[command(flatten)]
    blob: BlobArgs,
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
            Self::Enroll { runtime, stores } => {
                likeness_runtime::main(&runtime, |lifecycle| async move {
                    enroller(&stores).await?.spawn(&lifecycle);
                    Ok(())
                })
            }
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
    note_instance(&test.journal, &dispatch.instance)?;
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

/// Writes down which instance this process is, beside the journal.
fn note_instance(journal: &Path, instance: &str) -> Result<()> {
    Ok(std::fs::write(
        instance_file(journal, std::process::id()),
        instance,
    )?)
}

/// Where a dispatcher writes down which instance it is.
pub fn instance_file(journal: &Path, process: u32) -> PathBuf {
    journal.with_file_name(format!("instance-{process}"))
}

async fn enroller(stores: &Stores) -> Result<Enroll> {
    let pool = likeness_registry::connect(&stores.database_url, 4).await?;
    Ok(Enroll {
        pool,
        queue: Queue::connect(&stores.queue).await?,
        blob: Blob::connect(&stores.blob)?,
        clock: Arc::new(SystemClock),
        keys: Arc::new(KeyRing::parse(&stores.sealing_keys)?),
        engine: likeness_enroll::Engine::answering(|_, _| enrolled())?,
        encoder: bundle().encoder,
        same_person: 0.5,
        worker: format!("enroll-{}", uuid::Uuid::now_v7().simple()),
        lease: TimeDelta::seconds(LEASE_SECONDS.into()),
        started_at: SystemClock.now(),
    })
}

/// The same person on every photo.
fn enrolled() -> Result<Verdict> {
    let (tokens, k) = (bundle().tokens as usize, bundle().k as usize);
    let coefficients = Coefficients::new(tokens, k, vec![0.5; tokens * k])?;
    // Of unit length, or no photo would ever be accepted.
    let embedding = vec![512f32.sqrt().recip(); 512];
    Ok(Verdict::Accepted(Box::new(Enrolled {
        quality: QualityReport {
            width: 64,
            height: 64,
            faces_found: 1,
            face: None,
            same_person: None,
        },
        coefficients: StoredCoefficients::from_coefficients(&coefficients),
        embedding: FaceEmbedding::new(embedding)?,
        base: None,
    })))
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
