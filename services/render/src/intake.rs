//! Takes prompts from the queue: renders that are there at the same time come along with one another.

use std::{sync::Arc, time::Duration};

use likeness_domain::render::RenderSpec;
use likeness_queue::{Delivery, Prompts, RenderPrompt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use crate::{
    attempt,
    engine::{Slot, intake},
    server::Render,
};

/// How long one look into the queue lasts.
const WAIT: Duration = Duration::from_secs(5);
/// The wait after a failure of NATS.
const PAUSE: Duration = Duration::from_millis(500);
/// The wait for a further render to paint with one that was taken: what is there at once comes along.
const MOMENT: Duration = Duration::from_millis(10);

/// Takes prompts for ever, one intake after the other, each only when it can be worked on at once.
pub async fn take_prompts(
    render: &Render,
    attempts: &TaskTracker,
    hard: &CancellationToken,
) -> anyhow::Result<()> {
    // One intake on the models, one uploading.
    let all = 2 * render.max_batch;
    let places = Arc::new(Semaphore::new(all));
    let models = Arc::new(Semaphore::new(1));
    let mut prompts = render.queue.render_prompts(&render.pool);
    let mut apart: Option<Delivery<RenderPrompt>> = None;
    loop {
        let place = places.clone().acquire_owned().await?;
        let turn = models.clone().acquire_owned().await?;
        let (slot, taking, gathering) = intake(&render.engine, turn);
        attempts.spawn(gathering);
        let intake = Intake {
            render,
            attempts,
            hard,
            places: &places,
            slot,
            _taking: taking,
        };
        apart = match apart.take() {
            None => intake.fill(&mut prompts, place).await,
            Some(prompt) => {
                // All places: what else is at hand ends first, and nothing comes beside it.
                let others = places.clone().acquire_many_owned(all as u32 - 1).await?;
                intake.begin(prompt, vec![place, others]).await;
                None
            }
        };
    }
}

/// One intake that is being put together.
struct Intake<'a> {
    render: &'a Render,
    attempts: &'a TaskTracker,
    hard: &'a CancellationToken,
    places: &'a Arc<Semaphore>,
    slot: Slot,
    /// Dropped with this, which tells those that are ready that nobody else comes.
    _taking: DropGuard,
}

impl Intake<'_> {
    /// Waits for a first render and takes those that are there with it, until there are enough or one comes that is to
    /// be alone, which it returns.
    async fn fill(
        self,
        prompts: &mut Prompts<RenderPrompt>,
        first: OwnedSemaphorePermit,
    ) -> Option<Delivery<RenderPrompt>> {
        let mut allowance = self.render.engine.allowance();
        let (mut place, mut wait) = (first, WAIT);
        loop {
            let prompt = match prompts.next(wait).await {
                Ok(Some(prompt)) if prompt.message().alone => return Some(prompt),
                Ok(Some(prompt)) => prompt,
                Ok(None) => return None,
                Err(error) => {
                    tracing::warn!(%error, "no prompts");
                    tokio::time::sleep(PAUSE).await;
                    return None;
                }
            };
            match self.begin(prompt, vec![place]).await {
                Some(spec) if !allowance.take(&spec) => return None,
                Some(_) => wait = MOMENT,
                None => {}
            }
            place = self.places.clone().try_acquire_owned().ok()?;
        }
    }

    /// Begins to work on a prompt, and says what was claimed. The work goes on by itself: whoever stops waiting here
    /// leaves no claim behind.
    async fn begin(
        &self,
        prompt: Delivery<RenderPrompt>,
        places: Vec<OwnedSemaphorePermit>,
    ) -> Option<RenderSpec> {
        let (told, claimed) = oneshot::channel();
        let (render, slot, hard) = (self.render.clone(), self.slot.clone(), self.hard.clone());
        self.attempts.spawn(async move {
            attempt::work_on(&render, prompt, slot, told, &hard).await;
            drop(places);
        });
        claimed.await.ok()
    }
}
