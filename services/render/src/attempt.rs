//! One attempt: claim, fetch coefficients, paint, upload, finish. A prompt is acknowledged only when Postgres knows how
//! the attempt ended.

use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::StreamExt as _;
use likeness_domain::{
    Clock as _, RenderId, SystemClock,
    coefficients::Coefficients,
    render::{RenderProgress, RenderSpec, RenderedImage},
};
use likeness_queue::{
    CancelNotice, ClaimReply, ClaimRequest, CoefficientsReply, CoefficientsRequest, Delivery,
    FinishRequest, Grant, Preview, Progress, QueueError, Refusal, RenderPrompt, RenewReply,
    RenewRequest, Set, Upload, WorkOutcome,
};
use likeness_sdxl::Init;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::{
    engine::{Failure, Job, Painted, Slide, Slot, start},
    server::Render,
    stop::{Stop, StopReason},
};

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long reading a picture to start from may take: the models wait for it.
const FETCH_TIMEOUT: Duration = Duration::from_secs(20);
/// The first and the longest wait between two tries of a report.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Works on one prompt. `slot` is its place at the models and is given up as soon as they are done, so that uploading
/// overlaps the next renders. `claimed` hears what was claimed, or is dropped where nothing was.
pub async fn work_on(
    render: &Render,
    prompt: Delivery<RenderPrompt>,
    slot: Slot,
    claimed: oneshot::Sender<RenderSpec>,
    hard: &CancellationToken,
) {
    let message = *prompt.message();
    let asked = Instant::now();
    let told = match claim(render, &message).await {
        Ok(ClaimReply::Granted(grant)) => {
            let _ = claimed.send(grant.spec.clone());
            let attempt = Attempt::new(render, message.render, *grant, asked);
            attempt.run(&prompt, slot, hard).await;
            prompt.ack().await
        }
        Ok(ClaimReply::Refused { reason }) => {
            drop(slot);
            tracing::info!(render = %message.render, ?reason, "claim refused");
            prompt.ack().await
        }
        Err(error) => {
            drop(slot);
            tracing::warn!(render = %message.render, %error, "not claimed");
            prompt.nak(Duration::from_secs(1)).await
        }
    };
    if let Err(error) = told {
        tracing::debug!(%error, "a prompt was not acknowledged; it will come again");
    }
}

async fn claim(render: &Render, prompt: &RenderPrompt) -> Result<ClaimReply, QueueError> {
    let request = ClaimRequest {
        render: prompt.render,
        publication: prompt.publication,
        worker: render.worker.clone(),
        stacks: true,
    };
    render
        .queue
        .request(&render.queue.subjects().claim(), &request, TIMEOUT)
        .await
}

/// What came of asking for a longer lease.
enum Renewal {
    /// It holds until then.
    Held(Instant),
    /// It may still hold.
    Unanswered,
    /// Somebody else may have the render.
    Lost,
}

/// A claim that was granted.
struct Attempt<'a> {
    render: &'a Render,
    id: RenderId,
    grant: Grant,
    /// When the claim was asked for: the lease is counted from here, so that ours never ends after the true one.
    asked: Instant,
    stop: Stop,
}

impl<'a> Attempt<'a> {
    fn new(render: &'a Render, id: RenderId, grant: Grant, asked: Instant) -> Self {
        Self {
            render,
            id,
            grant,
            asked,
            stop: Stop::default(),
        }
    }

    /// Runs the attempt to its end, and reports it, while the lease is kept and cancels are heard.
    async fn run(&self, prompt: &Delivery<RenderPrompt>, slot: Slot, hard: &CancellationToken) {
        let work = async {
            let outcome = self.outcome(slot).await;
            if self.stop.reason() != Some(StopReason::LeaseLost) {
                self.finish(outcome, hard).await;
            }
        };
        tokio::select! {
            () = work => {}
            () = self.keep_lease(prompt) => {}
            () = self.hear_cancel() => {}
            () = self.heed_deadline() => {}
            () = self.heed_hard_stop(hard) => {}
        }
    }

    async fn outcome(&self, slot: Slot) -> WorkOutcome {
        let painted = match self.paint(slot).await {
            Ok(painted) => painted,
            Err(failure) => return outcome_of(failure),
        };
        match self.upload(painted).await {
            Ok(outcome) => outcome,
            Err(failure) => outcome_of(failure),
        }
    }

    async fn paint(&self, slot: Slot) -> Result<Painted, Failure> {
        let coefficients = async { tokio::try_join!(self.sets(), self.sliders(), self.base()) };
        let ((sets, sliders, base), init) = tokio::try_join!(coefficients, self.init())?;
        let (progress, steps) = mpsc::unbounded_channel();
        let job = Job {
            spec: self.grant.spec.clone(),
            sets,
            sliders,
            base,
            reference: self.grant.reference.clone(),
            init,
            alone: self.grant.alone,
            stop: self.stop.clone(),
            progress,
        };
        let mut painting = std::pin::pin!(slot.paint(job));
        let mut telling = std::pin::pin!(self.tell(steps));
        tokio::select! {
            painted = &mut painting => painted,
            () = &mut telling => painting.await,
        }
    }

    /// Passes progress on as it comes; only the latest step counts where NATS is slow.
    async fn tell(&self, mut steps: mpsc::UnboundedReceiver<(RenderProgress, Option<Bytes>)>) {
        let topic = self.render.queue.subjects().render_progress(self.id);
        while let Some((progress, preview)) = steps.recv().await {
            if !steps.is_empty() {
                continue;
            }
            let preview = preview.map(|bytes| Preview {
                content_type: "image/jpeg".to_owned(),
                bytes: bytes.to_vec(),
            });
            let message = Progress {
                attempt: self.grant.attempt,
                progress,
                preview,
            };
            if let Err(error) = self.render.queue.publish_event(&topic, &message).await {
                tracing::debug!(%error, "progress was not sent");
            }
        }
    }

    /// The picture to start from, as the model takes it.
    async fn init(&self) -> Result<Option<Init>, Failure> {
        let Some(strength) = self.grant.spec.init_strength else {
            return Ok(None);
        };
        let file = self.start_picture().await?;
        let spec = self.grant.spec.clone();
        let decoded = tokio::task::spawn_blocking(move || start::init(&file, &spec, strength));
        let decoded = decoded.await.map_err(|error| Failure::Transient {
            reason: "START_PICTURE_NOT_DECODED",
            message: error.to_string(),
        });
        decoded?.map(Some)
    }

    async fn start_picture(&self) -> Result<Bytes, Failure> {
        let transient = |message: String| Failure::Transient {
            reason: "START_PICTURE_NOT_FETCHED",
            message,
        };
        let Some(url) = &self.grant.start_url else {
            return Err(transient("the claim came without its link".to_owned()));
        };
        let fetch = self.render.downloader.get(url, start::most_bytes());
        let fetched = tokio::select! {
            fetched = tokio::time::timeout(FETCH_TIMEOUT, fetch) => fetched,
            reason = self.stop.asked() => return Err(Failure::Stopped(reason)),
        };
        let Ok(fetched) = fetched else {
            return Err(transient(format!("not read within {FETCH_TIMEOUT:?}")));
        };
        fetched.map_err(|error| match error {
            error if error.is_retryable() => transient(error.to_string()),
            error => Failure::Permanent {
                reason: "START_PICTURE_GONE",
                message: format!("the picture to start from: {error}; create the render again"),
            },
        })
    }

    /// Who is shown.
    async fn sets(&self) -> Result<Vec<(Coefficients, f32)>, Failure> {
        self.blend(Set::Identity).await
    }

    /// Everything around who is shown, where it is asked for.
    async fn base(&self) -> Result<Vec<(Coefficients, f32)>, Failure> {
        if self.grant.spec.base_scale > 0.0 {
            self.blend(Set::Base).await
        } else {
            Ok(Vec::new())
        }
    }

    async fn blend(&self, of: fn(usize) -> Set) -> Result<Vec<(Coefficients, f32)>, Failure> {
        let mut sets = Vec::with_capacity(self.grant.coefficient_sets.len());
        for (at, weight) in self.grant.coefficient_sets.iter().enumerate() {
            sets.push((self.coefficient_set(of(at)).await?, *weight));
        }
        Ok(sets)
    }

    /// The sliders that move anything.
    async fn sliders(&self) -> Result<Vec<Slide>, Failure> {
        let mut sliders = Vec::with_capacity(self.grant.sliders.len());
        for (at, &scale) in self.grant.sliders.iter().enumerate() {
            if scale != 0.0 {
                sliders.push(Slide {
                    before: self.coefficient_set(Set::Before(at)).await?,
                    after: self.coefficient_set(Set::After(at)).await?,
                    scale,
                });
            }
        }
        Ok(sliders)
    }

    async fn coefficient_set(&self, set: Set) -> Result<Coefficients, Failure> {
        let (identities, sliders) = (&self.grant.coefficient_sets, &self.grant.sliders);
        let request = CoefficientsRequest {
            render: self.id,
            attempt: self.grant.attempt,
            set: set.number(identities.len(), sliders.len()),
        };
        let endpoint = self.render.queue.subjects().coefficients();
        match self
            .render
            .queue
            .request(&endpoint, &request, TIMEOUT)
            .await
        {
            Ok(CoefficientsReply::Set(coefficients)) => Ok(coefficients),
            Ok(CoefficientsReply::Refused {
                reason: Refusal::StaleAttempt,
            }) => Err(Failure::Stopped(StopReason::LeaseLost)),
            Ok(CoefficientsReply::Refused { reason }) => Err(Failure::Permanent {
                reason: "COEFFICIENTS_REFUSED",
                message: format!("the coefficients were refused: {reason:?}"),
            }),
            Err(error) => Err(Failure::Transient {
                reason: "COEFFICIENTS_NOT_FETCHED",
                message: error.to_string(),
            }),
        }
    }

    async fn upload(&self, painted: Painted) -> Result<WorkOutcome, Failure> {
        let begun = Instant::now();
        if painted.images.len() != self.grant.uploads.len() {
            return Err(Failure::Permanent {
                reason: "UPLOADS_MISMATCH",
                message: "the claim gave another number of upload links than images".to_owned(),
            });
        }
        let files = painted.images.iter().zip(&self.grant.uploads);
        let uploads = files.map(|((file, _), upload)| self.put(file.clone(), upload));
        futures::future::try_join_all(uploads).await?;
        let images: Vec<RenderedImage> = painted.images.into_iter().map(|(_, told)| told).collect();
        let mut timings = painted.timings;
        timings.upload = begun.elapsed().as_secs_f64();
        Ok(WorkOutcome::Succeeded { images, timings })
    }

    async fn put(&self, file: Bytes, upload: &Upload) -> Result<(), Failure> {
        self.render
            .uploader
            .put(&upload.url, &upload.content_type, file)
            .await
            .map_err(|error| Failure::Transient {
                reason: "UPLOAD_FAILED",
                message: error.to_string(),
            })
    }

    /// Repeats the report until there is an answer, or the worker must end.
    async fn finish(&self, outcome: WorkOutcome, hard: &CancellationToken) {
        let request = FinishRequest {
            render: self.id,
            attempt: self.grant.attempt,
            worker: self.render.worker.clone(),
            outcome,
        };
        let endpoint = self.render.queue.subjects().finish();
        let mut pause = FIRST_PAUSE;
        loop {
            match self
                .render
                .queue
                .request(&endpoint, &request, TIMEOUT)
                .await
            {
                Ok(reply) => {
                    tracing::info!(render = %self.id, attempt = self.grant.attempt, ?reply, "finished");
                    return;
                }
                Err(error) if !error.is_retryable() => {
                    tracing::error!(render = %self.id, %error, "the report was refused for good");
                    return;
                }
                Err(error) => tracing::warn!(render = %self.id, %error, "not reported yet"),
            }
            if hard.is_cancelled() {
                return;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Renews the lease; ends only after it is lost and the work has had its time to notice.
    async fn keep_lease(&self, prompt: &Delivery<RenderPrompt>) {
        let mut until = self.asked + seconds(self.grant.lease_seconds);
        loop {
            // Never past the lease's end, however long an answer takes.
            until = match tokio::time::timeout_at(until.into(), self.renew_later()).await {
                Ok(Renewal::Held(longer)) => longer,
                Ok(Renewal::Unanswered) => until,
                Ok(Renewal::Lost) | Err(_) => break,
            };
            if let Err(error) = prompt.in_progress().await {
                tracing::debug!(%error, "no progress ack");
            }
        }
        tracing::warn!(render = %self.id, attempt = self.grant.attempt, "the lease was lost");
        self.stop.now(StopReason::LeaseLost);
        std::future::pending::<()>().await;
    }

    /// Waits for a third of the lease and renews it.
    async fn renew_later(&self) -> Renewal {
        tokio::time::sleep(seconds(self.grant.lease_seconds) / 3).await;
        let asked = Instant::now();
        match self.renew().await {
            Ok(RenewReply::Held {
                lease_seconds,
                cancel,
            }) => {
                if cancel {
                    self.stop.now(StopReason::Cancelled);
                }
                Renewal::Held(asked + seconds(lease_seconds))
            }
            Ok(RenewReply::Lost) => Renewal::Lost,
            Err(error) => {
                tracing::warn!(render = %self.id, %error, "not renewed");
                Renewal::Unanswered
            }
        }
    }

    async fn renew(&self) -> Result<RenewReply, QueueError> {
        let request = RenewRequest {
            render: self.id,
            attempt: self.grant.attempt,
            worker: self.render.worker.clone(),
        };
        let endpoint = self.render.queue.subjects().renew();
        self.render
            .queue
            .request(&endpoint, &request, TIMEOUT)
            .await
    }

    /// Stops at once when a cancel is heard; a renewal tells it too, later. Never ends by itself.
    async fn hear_cancel(&self) {
        let topic = self.render.queue.subjects().render_cancel(self.id);
        match self.render.queue.subscribe::<CancelNotice>(&topic).await {
            Ok(mut notices) => {
                if notices.next().await.is_some() {
                    self.stop.now(StopReason::Cancelled);
                }
            }
            Err(error) => tracing::warn!(%error, "cancels are heard at renewals only"),
        }
        std::future::pending::<()>().await;
    }

    /// Stops when the render's time has run out: nobody wants its images any more. Never ends by itself.
    async fn heed_deadline(&self) {
        tokio::time::sleep(until(self.grant.expire_time)).await;
        self.stop.now(StopReason::LeaseLost);
        std::future::pending::<()>().await;
    }

    /// Gives the render back when the worker must end. Never ends by itself.
    async fn heed_hard_stop(&self, hard: &CancellationToken) {
        hard.cancelled().await;
        self.stop.now(StopReason::HandBack);
        std::future::pending::<()>().await;
    }
}

fn outcome_of(failure: Failure) -> WorkOutcome {
    match failure {
        Failure::Stopped(StopReason::Cancelled) => WorkOutcome::Cancelled,
        Failure::Stopped(StopReason::HandBack | StopReason::LeaseLost) => WorkOutcome::HandedBack,
        Failure::Permanent { reason, message } => WorkOutcome::Failed {
            reason: reason.to_owned(),
            message,
            retryable: false,
        },
        Failure::Transient { reason, message } => WorkOutcome::Failed {
            reason: reason.to_owned(),
            message,
            retryable: true,
        },
    }
}

fn seconds(count: u32) -> Duration {
    Duration::from_secs(u64::from(count))
}

fn until(time: DateTime<Utc>) -> Duration {
    (time - SystemClock.now())
        .to_std()
        .unwrap_or(Duration::ZERO)
}
