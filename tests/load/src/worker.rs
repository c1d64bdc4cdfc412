//! Simulated workers: they announce themselves, pull, claim, renew, upload and finish as real ones do. Their model
//! sleeps.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures::{StreamExt as _, future};
use likeness_blob::Uploader;
use likeness_domain::{
    Clock as _, RenderId, SystemClock, WorkerKind,
    render::{RenderTimings, RenderedImage},
};
use likeness_queue::{
    CancelNotice, ClaimReply, ClaimRequest, Delivery, FinishRequest, Grant, Hello, Queue,
    RenderPrompt, RenewRequest, WorkOutcome,
};
use sha2::{Digest as _, Sha256};
use tokio::{sync::Semaphore, task::JoinSet};

use crate::{
    journal::Journal,
    stage::{Stage, bundle, pool},
};

const WAIT: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(5);
const HELLO: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(100);
/// Workers that share a connection to NATS.
const SHARED: usize = 10;
/// Renders that a worker holds: one on the model, one uploading.
const PLACES: usize = 2;

/// What a worker's model does.
#[derive(Clone)]
pub struct Model {
    pub takes: Duration,
    /// The file of every image; without one, nothing is uploaded.
    pub image: Option<Bytes>,
}

impl Model {
    pub fn taking(takes: Duration) -> Self {
        Self { takes, image: None }
    }
}

/// Workers; dropping them ends them on the spot.
pub struct Crew {
    pub journal: Journal,
    _tasks: JoinSet<()>,
}

#[derive(Clone)]
struct Worker {
    name: String,
    queue: Queue,
    uploader: Uploader,
    model: Arc<Model>,
    journal: Journal,
}

impl Crew {
    /// Starts `count` workers and waits until each has been heard.
    pub async fn start(stage: &Stage, count: usize, model: Model) -> Result<Self> {
        let (journal, model) = (Journal::default(), Arc::new(model));
        let uploader = Uploader::new()?;
        let mut workers = Vec::with_capacity(count);
        let mut queue = stage.queue().await?;
        for number in 0..count {
            if number > 0 && number % SHARED == 0 {
                queue = stage.queue().await?;
            }
            workers.push(Worker {
                name: format!("load-{}", uuid::Uuid::now_v7().simple()),
                queue: queue.clone(),
                uploader: uploader.clone(),
                model: model.clone(),
                journal: journal.clone(),
            });
        }
        queue.ensure_streams().await?;
        future::try_join_all(workers.iter().map(Worker::announce)).await?;
        let mut tasks = JoinSet::new();
        for worker in workers {
            tasks.spawn(worker.clone().stay_known());
            tasks.spawn(async move { worker.work().await });
        }
        Ok(Self {
            journal,
            _tasks: tasks,
        })
    }
}

impl Worker {
    async fn announce(&self) -> Result<()> {
        tokio::time::timeout(Duration::from_secs(30), async {
            while self.say_hello().await.is_err() {
                tokio::time::sleep(PAUSE).await;
            }
        })
        .await
        .context("no dispatcher heard a worker")
    }

    async fn stay_known(self) {
        loop {
            tokio::time::sleep(HELLO).await;
            // The next one counts as well.
            let _ = self.say_hello().await;
        }
    }

    async fn say_hello(&self) -> Result<()> {
        let hello = Hello {
            worker: self.name.clone(),
            kind: WorkerKind::Render,
            pool: Some(pool()?),
            device: "simulated".to_owned(),
            device_class: "none".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: SystemClock.now(),
            draining: false,
            bundle: Some(bundle()),
        };
        let endpoint = self.queue.subjects().hello();
        self.queue.request(&endpoint, &hello, TIMEOUT).await?;
        Ok(())
    }

    /// Takes prompts for ever, each when the model is free; uploading overlaps the next render.
    async fn work(&self) {
        let Ok(pool) = pool() else { return };
        let mut prompts = self.queue.render_prompts(&pool);
        let places = Arc::new(Semaphore::new(PLACES));
        let mut ending = JoinSet::new();
        loop {
            let Ok(place) = places.clone().acquire_owned().await else {
                return;
            };
            match prompts.next(WAIT).await {
                Ok(Some(prompt)) => {
                    let painted = self.claim_and_paint(&prompt).await;
                    let worker = self.clone();
                    ending.spawn(async move {
                        worker.end(prompt, painted).await;
                        drop(place);
                    });
                    while ending.try_join_next().is_some() {}
                }
                Ok(None) => {}
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// The grant of a claim, once its model time is over; nothing where the claim was refused.
    async fn claim_and_paint(&self, prompt: &Delivery<RenderPrompt>) -> Result<Option<Grant>> {
        let message = prompt.message();
        let request = ClaimRequest {
            render: message.render,
            publication: message.publication,
            worker: self.name.clone(),
            stacks: true,
        };
        let endpoint = self.queue.subjects().claim();
        let reply = self.queue.request(&endpoint, &request, TIMEOUT).await?;
        let ClaimReply::Granted(grant) = reply else {
            return Ok(None);
        };
        self.journal.granted(message.render, Instant::now());
        tokio::select! {
            () = tokio::time::sleep(self.model.takes) => {}
            () = self.keep(message.render, &grant) => {}
        }
        self.journal.painted(message.render);
        Ok(Some(*grant))
    }

    /// Renews the lease and listens for a cancel, as a real worker does beside its work; never ends.
    async fn keep(&self, render: RenderId, grant: &Grant) {
        let topic = self.queue.subjects().render_cancel(render);
        let renewing = async {
            loop {
                let third = Duration::from_secs(grant.lease_seconds.into()) / 3;
                tokio::time::sleep(third).await;
                let request = RenewRequest {
                    render,
                    attempt: grant.attempt,
                    worker: self.name.clone(),
                };
                let endpoint = self.queue.subjects().renew();
                let _ = self.queue.request(&endpoint, &request, TIMEOUT).await;
            }
        };
        let listening = async {
            if let Ok(mut cancels) = self.queue.subscribe::<CancelNotice>(&topic).await {
                // Nobody cancels here.
                let _ = cancels.next().await;
            }
            future::pending::<()>().await;
        };
        tokio::join!(renewing, listening);
    }

    async fn end(&self, prompt: Delivery<RenderPrompt>, painted: Result<Option<Grant>>) {
        let render = prompt.message().render;
        match painted {
            Ok(Some(grant)) => {
                self.finish(render, &grant).await;
                self.journal.finished(render);
                let _ = prompt.ack().await;
            }
            Ok(None) => drop(prompt.ack().await),
            Err(_) => drop(prompt.nak(PAUSE).await),
        }
    }

    async fn finish(&self, render: RenderId, grant: &Grant) {
        let outcome = match self.upload(grant).await {
            Ok(images) => WorkOutcome::Succeeded {
                images,
                timings: RenderTimings {
                    sampling: self.model.takes.as_secs_f64(),
                    ..RenderTimings::default()
                },
            },
            Err(error) => WorkOutcome::Failed {
                reason: "UPLOAD_FAILED".to_owned(),
                message: error.to_string(),
                retryable: true,
            },
        };
        let request = FinishRequest {
            render,
            attempt: grant.attempt,
            worker: self.name.clone(),
            outcome,
        };
        let endpoint = self.queue.subjects().finish();
        while self
            .queue
            .request(&endpoint, &request, TIMEOUT)
            .await
            .is_err()
        {
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn upload(&self, grant: &Grant) -> Result<Vec<RenderedImage>> {
        let mut images = Vec::with_capacity(grant.uploads.len());
        for (position, upload) in (0..).zip(&grant.uploads) {
            let file = self.model.image.clone();
            if let Some(file) = file.clone() {
                let sent = self.uploader.put(&upload.url, &upload.content_type, file);
                sent.await?;
            }
            let file = file.unwrap_or_else(|| Bytes::from_static(b"nothing"));
            images.push(RenderedImage {
                format: grant.spec.output_format,
                width: grant.spec.width,
                height: grant.spec.height,
                size_bytes: file.len() as u64,
                sha256: hex::encode(Sha256::digest(&file)),
                seed: grant.spec.seed + position,
                likeness: None,
            });
        }
        Ok(images)
    }
}
