//! From a render's parameters and coefficients to image files. One OS thread owns the models.

mod encode;
mod models;

use anyhow::Context as _;
use bytes::Bytes;
use likeness_bundle::Bundle;
use likeness_domain::{
    bundle::BundleSummary,
    coefficients::Coefficients,
    render::{RenderProgress, RenderSpec, RenderTimings, RenderedImage},
};
use tokio::sync::{mpsc, oneshot};

use crate::stop::{Stop, StopReason};
use models::Models;

/// What to make.
pub struct Job {
    /// The parameters.
    pub spec: RenderSpec,
    /// Who to show: normalised coefficients with their weights, which sum to 1; empty for nobody.
    pub sets: Vec<(Coefficients, f32)>,
    /// Ends the work at the next denoising step.
    pub stop: Stop,
    /// Hears of every step. Its receiver may lag or be gone.
    pub progress: mpsc::UnboundedSender<(RenderProgress, Option<Bytes>)>,
}

/// What was made.
pub struct Painted {
    /// The files in order, with what is told about them.
    pub images: Vec<(Bytes, RenderedImage)>,
    /// Where the time went; uploading is still to come.
    pub timings: RenderTimings,
}

/// Why nothing was made.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It was told to stop.
    #[error("stopped: {0:?}")]
    Stopped(StopReason),
    /// The request cannot be rendered, now or later.
    #[error("{reason}: {message}")]
    Permanent {
        /// UPPER_SNAKE, for programs.
        reason: &'static str,
        /// For people.
        message: String,
    },
    /// A fault that another attempt may not meet.
    #[error("{reason}: {message}")]
    Transient {
        /// UPPER_SNAKE, for programs.
        reason: &'static str,
        /// For people.
        message: String,
    },
}

type Answer = oneshot::Sender<Result<Painted, Failure>>;

/// A handle on the thread that owns the models; it ends when the last handle is dropped.
#[derive(Clone)]
pub struct Engine {
    jobs: mpsc::Sender<(Job, Answer)>,
}

impl Engine {
    /// Loads the bundle's basis and default model, and starts their thread.
    ///
    /// # Errors
    /// A section that the bundle lacks, or a file that does not fit.
    pub fn start(bundle: Bundle) -> anyhow::Result<(Self, BundleSummary)> {
        let mut models = Models::load(bundle)?;
        let summary = models.summary()?;
        let (jobs, mut queue) = mpsc::channel::<(Job, Answer)>(1);
        std::thread::Builder::new()
            .name("render-models".to_owned())
            .spawn(move || {
                while let Some((job, answer)) = queue.blocking_recv() {
                    // Whoever asked may have gone; the next render is what counts.
                    let _ = answer.send(models.paint(&job));
                }
            })
            .context("cannot start the models' thread")?;
        Ok((Self { jobs }, summary))
    }

    /// Waits until the models' thread has ended, which it does only by a panic while a handle lives.
    pub async fn ended(&self) {
        self.jobs.closed().await;
    }

    /// Makes the images of one render.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn paint(&self, job: Job) -> Result<Painted, Failure> {
        let gone = |()| Failure::Transient {
            reason: "ENGINE_GONE",
            message: "the worker's models have stopped".to_owned(),
        };
        let (answer, painted) = oneshot::channel();
        self.jobs.send((job, answer)).await.map_err(|_| gone(()))?;
        painted.await.map_err(|_| gone(()))?
    }
}
