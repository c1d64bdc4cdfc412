//! Dispatchers that break one rule each, so that the checker is seen to find it. They exist in this test program alone.

use std::{
    fs::File,
    io::Write as _,
    sync::{
        OnceLock,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use chrono::TimeDelta;
use clap::ValueEnum;
use likeness_dispatch::{Dispatch, Policy};
use likeness_domain::{Error, RenderId, RenderState};
use likeness_queue::{FinishReply, FinishRequest, RenderPrompt, WorkOutcome};
use likeness_registry::{
    leaders,
    renders::{self, Publication},
};
use likeness_runtime::Lifecycle;

use crate::{
    checker::Breach,
    fleet::LEASE_SECONDS,
    schedule::{Fault, Mix},
};

/// A rule of the queue that a dispatcher may break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Rule {
    /// A worker hears that its report is committed only when it is: here it hears so before, and forgets the render
    CommitFirst,
    /// Only the current attempt finishes a render: here any may
    Fence,
    /// What nobody confirmed or claimed is published again: here it is not
    Reconcile,
    /// Room in the window is counted from rows: here by a counter in memory
    CountRows,
}

impl Rule {
    pub const ALL: [Self; 4] = [
        Self::CommitFirst,
        Self::Fence,
        Self::Reconcile,
        Self::CountRows,
    ];

    /// The faults under which breaking it shows.
    pub fn provocation(self) -> Mix {
        let of = |victims, processes, servers| Mix {
            processes,
            victims,
            servers,
        };
        match self {
            Self::CommitFirst => of("dispatch", &[Fault::Kill], &[]),
            Self::Reconcile => of("worker", &[Fault::Kill], &[Fault::NatsWiped]),
            Self::Fence | Self::CountRows => of("worker", &[Fault::Kill], &[]),
        }
    }

    /// What the check must call it.
    pub fn breach(self) -> Breach {
        match self {
            Self::CommitFirst | Self::Fence => Breach::Duplicated,
            Self::Reconcile | Self::CountRows => Breach::Stuck,
        }
    }

    /// As the command line takes it.
    pub fn name(self) -> String {
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }
}

static JOURNAL: OnceLock<File> = OnceLock::new();

/// Where this process writes down which attempts it told to have won.
pub fn keep_journal(file: File) {
    let _ = JOURNAL.set(file);
}

/// As it should be, with the answer written down.
pub async fn finish(dispatch: Dispatch, request: FinishRequest) -> Result<FinishReply, Error> {
    let won = matches!(request.outcome, WorkOutcome::Succeeded { .. });
    let (render, attempt) = (request.render, request.attempt);
    let reply = likeness_dispatch::finish(dispatch, request).await?;
    if let FinishReply::Applied { state } | FinishReply::Repeated { state } = reply
        && won
        && state == RenderState::Succeeded
    {
        note_win(render, attempt);
    }
    Ok(reply)
}

fn note_win(render: RenderId, attempt: u32) {
    if let Some(mut journal) = JOURNAL.get() {
        // One write, so that lines of several processes do not mix.
        let _ = journal.write_all(format!("{render} {attempt}\n").as_bytes());
    }
}

/// Answers, and commits a little later.
pub async fn finish_later(
    dispatch: Dispatch,
    request: FinishRequest,
) -> Result<FinishReply, Error> {
    let won = matches!(request.outcome, WorkOutcome::Succeeded { .. });
    let (render, attempt) = (request.render, request.attempt);
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(200)).await;
        likeness_dispatch::finish(dispatch, request).await
    });
    let state = if won {
        note_win(render, attempt);
        RenderState::Succeeded
    } else {
        RenderState::Queued
    };
    Ok(FinishReply::Applied { state })
}

/// Reports so far.
static REPORTS: AtomicI64 = AtomicI64::new(0);

/// Takes any attempt's report for the current one's. Every fourth comes late, as by a slow network: its worker may be gone
/// by then and another at work.
pub async fn finish_unfenced(
    dispatch: Dispatch,
    request: FinishRequest,
) -> Result<FinishReply, Error> {
    if REPORTS.fetch_add(1, Ordering::SeqCst) % 4 == 0 {
        tokio::time::sleep(2 * Duration::from_secs(LEASE_SECONDS.into())).await;
    }
    let mut conn = likeness_registry::acquire(&dispatch.pool).await?;
    let render = renders::get_any(&mut conn, request.render).await?;
    drop(conn);
    let attempt = u32::try_from(render.attempt).unwrap_or(request.attempt);
    let told = request.attempt;
    let reply = finish(dispatch, FinishRequest { attempt, ..request }).await?;
    if told != attempt
        && matches!(
            reply,
            FinishReply::Applied { .. } | FinishReply::Repeated { .. }
        )
    {
        note_win(render.id, told);
    }
    Ok(reply)
}

/// Nothing is ever published again.
pub fn no_reconcile(policy: &mut Policy) {
    policy.unconfirmed = TimeDelta::days(365);
    policy.unclaimed = TimeDelta::days(365);
}

/// Renders in the window.
const WINDOW: i64 = 8;
/// Handed out and not yet reported, as far as this process has heard.
static OUTSTANDING: AtomicI64 = AtomicI64::new(0);

/// Reports free a place in this process's window.
pub async fn finish_counted(
    dispatch: Dispatch,
    request: FinishRequest,
) -> Result<FinishReply, Error> {
    let reply = finish(dispatch, request).await?;
    OUTSTANDING.fetch_sub(1, Ordering::SeqCst);
    Ok(reply)
}

/// Leads by that counter.
pub fn lead(dispatch: &Dispatch, lifecycle: &Lifecycle) {
    let (dispatch, soft) = (dispatch.clone(), lifecycle.soft().clone());
    lifecycle.spawn("leader", async move {
        let pause = || tokio::time::sleep(Duration::from_millis(100));
        while soft.run_until_cancelled(pause()).await.is_some() {
            if let Err(error) = round(&dispatch).await {
                tracing::warn!(?error, "a round failed");
            }
        }
        Ok(())
    });
}

async fn round(dispatch: &Dispatch) -> Result<(), Error> {
    let (policy, now) = (&dispatch.policy, dispatch.clock.now());
    let mut tx = likeness_registry::begin(&dispatch.pool).await?;
    let ttl = policy.leadership;
    let leader = leaders::acquire(&mut tx, "dispatch", &dispatch.instance, ttl, now).await?;
    let Some(leader) = leader else {
        return likeness_registry::commit(tx).await;
    };
    renders::expire(&mut tx, &leader, 500, now).await?;
    renders::reap(&mut tx, &leader, &policy.retry, now).await?;
    let (unconfirmed, unclaimed) = (policy.unconfirmed, policy.unclaimed);
    let mut due =
        renders::republish_due(&mut tx, &leader, unconfirmed, unclaimed, 200, now).await?;
    for pool in renders::pools_with_work(&mut tx).await? {
        let room = WINDOW - OUTSTANDING.load(Ordering::SeqCst);
        if room > 0 {
            let admitted =
                renders::admit(&mut tx, &leader, &pool.pool, f32::MAX, room, now).await?;
            OUTSTANDING.fetch_add(admitted.len() as i64, Ordering::SeqCst);
            due.extend(admitted);
        }
    }
    likeness_registry::commit(tx).await?;
    publish(dispatch, &due).await
}

async fn publish(dispatch: &Dispatch, due: &[Publication]) -> Result<(), Error> {
    let mut sent = Vec::new();
    for publication in due {
        let prompt = RenderPrompt {
            render: publication.render,
            publication: u32::try_from(publication.publication).unwrap_or(0),
            alone: publication.alone,
        };
        let pool = publication.pool.parse().map_err(Error::internal)?;
        if dispatch.queue.publish_render(&pool, &prompt).await.is_ok() {
            sent.push(publication.clone());
        }
    }
    let mut tx = likeness_registry::begin(&dispatch.pool).await?;
    renders::mark_published(&mut tx, &sent, dispatch.clock.now()).await?;
    likeness_registry::commit(tx).await
}
