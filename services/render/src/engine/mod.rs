//! From a render's parameters and coefficients to image files. One OS thread owns the models.

mod detail;
mod encode;
mod faces;
mod group;
mod intake;
mod likeness;
mod models;
#[cfg(test)]
mod options_tests;
mod paint;
mod stack;
#[cfg(test)]
mod stack_tests;
pub mod start;
#[cfg(test)]
mod tests;

use std::{
    cell::Cell,
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::Context as _;
use bytes::Bytes;
use likeness_bundle::Bundle;
use likeness_domain::{
    bundle::BundleSummary,
    coefficients::Coefficients,
    embedding::FaceEmbedding,
    render::{RenderProgress, RenderSpec, RenderTimings, RenderedImage},
};
use likeness_sdxl::Init;
use tokio::sync::{mpsc, oneshot};

pub use self::group::Allowance;
pub use self::intake::{Slot, intake};
use self::models::Models;
pub use self::stack::Slide;
use crate::{
    device::Compute,
    stop::{Stop, StopReason},
};

/// What to make.
pub struct Job {
    /// The parameters.
    pub spec: RenderSpec,
    /// Who to show: normalised coefficients with their weights, which sum to 1; empty for nobody.
    pub sets: Vec<(Coefficients, f32)>,
    /// What to move along.
    pub sliders: Vec<Slide>,
    /// Their base coefficients with the same weights; empty where the Base-LoRA is not asked for.
    pub base: Vec<(Coefficients, f32)>,
    /// The face that the images are compared with, where there is one.
    pub reference: Option<FaceEmbedding>,
    /// The picture to start from, of the parameters' size and strength.
    pub init: Option<Init>,
    /// Paint its images one at a time.
    pub alone: bool,
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
#[derive(Clone, Debug, thiserror::Error)]
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

/// A job, and who waits for it.
struct Order {
    job: Job,
    /// Gone once it has been told.
    answer: Cell<Option<Answer>>,
}

type Answer = oneshot::Sender<Result<Painted, Failure>>;

impl Order {
    fn new(job: Job, answer: Answer) -> Self {
        let answer = Cell::new(Some(answer));
        Self { job, answer }
    }

    /// Tells how it ended; only the first word counts. Whoever asked may have gone, which is no matter.
    fn tell(&self, end: Result<Painted, Failure>) {
        if let Some(answer) = self.answer.take() {
            let _ = answer.send(end);
        }
    }

    /// Tells of the stop that was asked for, if one was.
    fn heed_stop(&self) -> ControlFlow<()> {
        let Some(reason) = self.job.stop.reason() else {
            return ControlFlow::Continue(());
        };
        self.tell(Err(Failure::Stopped(reason)));
        ControlFlow::Break(())
    }
}

/// A handle on the thread that owns the models; it ends when the last handle is dropped.
#[derive(Clone)]
pub struct Engine {
    orders: mpsc::Sender<Vec<Order>>,
    max_batch: usize,
    memory_pixels: Arc<AtomicUsize>,
}

impl Engine {
    /// Loads the bundle's basis and default model, and starts their thread. It paints up to `max_batch` images at a
    /// time, fewer where memory is short.
    ///
    /// # Errors
    /// A section that the bundle lacks, or a file that does not fit.
    pub fn start(
        bundle: Bundle,
        compute: &Compute,
        max_batch: usize,
    ) -> anyhow::Result<(Self, BundleSummary)> {
        let models = Models::load(bundle, compute, max_batch)?;
        let summary = models.summary()?;
        Ok((Self::over(models)?, summary))
    }

    fn over(mut models: Models) -> anyhow::Result<Self> {
        let (max_batch, memory_pixels) = (models.max_batch, models.memory_pixels.clone());
        Self::on_thread(max_batch, memory_pixels, move |together| {
            models.paint(together);
        })
    }

    /// Without models: `paint` makes the images, one render after the other. For tests and measurements of the queue.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn painting(
        max_batch: usize,
        mut paint: impl FnMut(&Job) -> Result<Painted, Failure> + Send + 'static,
    ) -> anyhow::Result<Self> {
        Self::on_thread(
            max_batch,
            Arc::new(AtomicUsize::new(usize::MAX)),
            move |together| {
                for order in together {
                    order.tell(paint(&order.job));
                }
            },
        )
    }

    fn on_thread(
        max_batch: usize,
        memory_pixels: Arc<AtomicUsize>,
        mut paint: impl FnMut(Vec<Order>) + Send + 'static,
    ) -> anyhow::Result<Self> {
        let (orders, mut queue) = mpsc::channel::<Vec<Order>>(1);
        std::thread::Builder::new()
            .name("render-models".to_owned())
            .spawn(move || {
                while let Some(together) = queue.blocking_recv() {
                    paint(together);
                }
            })
            .context("cannot start the models' thread")?;
        Ok(Self {
            orders,
            max_batch,
            memory_pixels,
        })
    }

    /// How much a worker may take at a time: one batch, as far as memory was seen to hold it.
    pub fn allowance(&self) -> Allowance {
        Allowance::new(self.max_batch, self.memory_pixels.load(Ordering::Relaxed))
    }

    /// Waits until the models' thread has ended, which it does only by a panic while a handle lives.
    pub async fn ended(&self) {
        self.orders.closed().await;
    }

    /// Makes the images of one render by itself.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn paint(&self, job: Job) -> Result<Painted, Failure> {
        let (answer, painted) = oneshot::channel();
        let order = Order::new(job, answer);
        self.orders.send(vec![order]).await.map_err(intake::gone)?;
        painted.await.map_err(intake::gone)?
    }
}

/// How many images a worker paints at a time where its configuration does not say. On the CPU each is computed by
/// itself, so that a batch would only keep its first picture waiting for its last.
pub fn default_batch(compute: &Compute) -> usize {
    if compute.device.is_cpu() { 1 } else { 8 }
}
