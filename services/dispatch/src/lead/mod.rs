//! What the leader does, round by round: settle what is overdue, admit, publish, erase.
//!
//! Every step is an idempotent function of the rows, woken by a signal and by a timer; one that fails is logged and
//! done in the next round.

mod admit;
mod erase;
mod photos;
mod settle;

use std::{future::Future, time::Duration};

use futures::StreamExt as _;
use likeness_domain::Error;
use likeness_queue::Wake;
use likeness_registry::leaders::{self, Leadership};
use likeness_runtime::Lifecycle;
use tokio::time::Instant;

use crate::server::Dispatch;

/// The role that one instance has at a time.
const ROLE: &str = "dispatch";
/// A round without a signal.
const ROUND: Duration = Duration::from_millis(400);
/// Between rounds of erasing.
const ERASE: Duration = Duration::from_secs(5);

/// Starts leading whenever this instance is the leader.
pub fn spawn(dispatch: &Dispatch, lifecycle: &Lifecycle) {
    let (leader, soft) = (dispatch.clone(), lifecycle.soft().clone());
    lifecycle.spawn("leader", async move {
        let mut leadership = None;
        let mut next = Instant::now();
        while let Some(woken) = soft.run_until_cancelled(leader.work_until(next)).await {
            if woken {
                quick_round(&leader, leadership.as_ref()).await;
            } else {
                next = Instant::now() + ROUND;
                leadership = round(&leader).await;
            }
        }
        if let Some(leadership) = leadership {
            step("release", release(&leader, &leadership).await);
        }
        Ok(())
    });
    let (listener, soft) = (dispatch.clone(), lifecycle.soft().clone());
    lifecycle.spawn("wakes", async move {
        let topic = listener.queue.subjects().dispatch_wake();
        let mut wakes = listener.queue.subscribe::<Wake>(&topic).await?;
        while soft
            .run_until_cancelled(wakes.next())
            .await
            .flatten()
            .is_some()
        {
            listener.work().notify_one();
        }
        Ok(())
    });
    let (eraser, soft) = (dispatch.clone(), lifecycle.soft().clone());
    lifecycle.spawn("eraser", async move {
        while soft
            .run_until_cancelled(tokio::time::sleep(ERASE))
            .await
            .is_some()
        {
            step("erase", erase::erase(&eraser).await);
        }
        Ok(())
    });
}

impl Dispatch {
    /// Waits for a signal or until `next`; whether it was a signal.
    async fn work_until(&self, next: Instant) -> bool {
        let woken = tokio::time::timeout_at(next, self.work().notified()).await;
        woken.is_ok() && Instant::now() < next
    }
}

/// What a signal is about: something new waits, or there is room. All else has the timer's time, and so has whoever does
/// not lead by what it knows.
async fn quick_round(dispatch: &Dispatch, leadership: Option<&Leadership>) {
    let now = dispatch.clock.now();
    if let Some(leadership) = leadership.filter(|leadership| leadership.lease_until > now) {
        step("admit", admit::admit(dispatch, leadership).await);
        step("photos", photos::publish(dispatch).await);
    }
}

/// One round, if this instance leads.
async fn round(dispatch: &Dispatch) -> Option<Leadership> {
    let leadership = step("lead", lead(dispatch).await).flatten()?;
    step("settle", settle::settle(dispatch, &leadership).await);
    step("admit", admit::admit(dispatch, &leadership).await);
    step("withdraw", admit::withdraw(dispatch, &leadership).await);
    step("republish", admit::republish(dispatch, &leadership).await);
    step("photos", photos::publish(dispatch).await);
    Some(leadership)
}

async fn lead(dispatch: &Dispatch) -> Result<Option<Leadership>, Error> {
    let mut tx = dispatch.begin().await?;
    let ttl = dispatch.policy.leadership;
    let now = dispatch.clock.now();
    let leadership = leaders::acquire(&mut tx, ROLE, &dispatch.instance, ttl, now).await?;
    dispatch.commit(tx).await?;
    Ok(leadership)
}

async fn release(dispatch: &Dispatch, leadership: &Leadership) -> Result<(), Error> {
    let mut tx = dispatch.begin().await?;
    leaders::release(&mut tx, leadership, dispatch.clock.now()).await?;
    dispatch.commit(tx).await
}

/// Logs a step that failed: the next round does it again.
fn step<T>(name: &'static str, result: Result<T, Error>) -> Option<T> {
    result
        .inspect_err(|error| tracing::warn!(step = name, ?error, "a step failed"))
        .ok()
}

/// Runs a future on each item at once and keeps the items whose future succeeded.
async fn succeeded<T: Copy, E: std::fmt::Display, Fut: Future<Output = Result<(), E>>>(
    items: &[T],
    run: impl Fn(T) -> Fut,
) -> Vec<T> {
    let results = futures::future::join_all(items.iter().map(|item| run(*item))).await;
    let kept = items
        .iter()
        .zip(results)
        .filter_map(|(item, result)| match result {
            Ok(()) => Some(*item),
            Err(error) => {
                tracing::warn!(%error, "not published; it will be again");
                None
            }
        });
    kept.collect()
}
