//! Admission: while a pool has room, queued renders are committed DISPATCHED and then published.

use likeness_domain::{Error, RenderState};
use likeness_queue::{PoolName, QueueError, RenderPrompt};
use likeness_registry::{
    acquire,
    leaders::Leadership,
    renders::{self, PoolWork, Publication},
    workers,
};

use super::step;
use crate::{events, server::Dispatch};

/// Rows withdrawn or published again in one round.
const MOST: i64 = 200;
/// Rows of one admission: its cost grows with their square.
const ADMITTED: i64 = 50;
/// Admissions of a pool in one round, so that other pools are not kept waiting.
const ADMISSIONS: usize = 4;

/// Admits into every pool that has work, a live worker and room.
pub async fn admit(dispatch: &Dispatch, leadership: &Leadership) -> Result<(), Error> {
    let mut conn = acquire(&dispatch.pool).await?;
    let pools = renders::pools_with_work(&mut conn).await?;
    drop(conn);
    for pool in pools.iter().filter(|pool| !pool.paused && pool.queued > 0) {
        // One that fails must not keep the others waiting.
        step("admit one", admit_one(dispatch, leadership, pool).await);
    }
    Ok(())
}

async fn admit_one(
    dispatch: &Dispatch,
    leadership: &Leadership,
    pool: &PoolWork,
) -> Result<(), Error> {
    for _ in 0..ADMISSIONS {
        let admitted = admit_into(dispatch, leadership, pool).await?;
        publish(dispatch, &admitted).await?;
        let more = admitted.len() as i64 == ADMITTED;
        for publication in admitted {
            events::render_changed(dispatch, publication.render, RenderState::Dispatched).await;
        }
        if !more {
            break;
        }
    }
    Ok(())
}

async fn admit_into(
    dispatch: &Dispatch,
    leadership: &Leadership,
    pool: &PoolWork,
) -> Result<Vec<Publication>, Error> {
    let now = dispatch.clock.now();
    let mut tx = dispatch.begin().await?;
    let live = workers::live(&mut tx, &pool.pool, now - dispatch.policy.silence).await?;
    let window = renders::window(&mut tx, &pool.pool).await?;
    let room = dispatch.policy.ahead(live, &window) - window.dispatched_seconds;
    if room <= 0.0 {
        return Ok(Vec::new());
    }
    let admitted = renders::admit(&mut tx, leadership, &pool.pool, room, ADMITTED, now).await?;
    dispatch.commit(tx).await?;
    Ok(admitted)
}

/// Takes back what was dispatched to pools whose workers have all gone.
pub async fn withdraw(dispatch: &Dispatch, leadership: &Leadership) -> Result<(), Error> {
    let policy = &dispatch.policy;
    let now = dispatch.clock.now();
    let (older_than, live_since) = (now - policy.unclaimed, now - policy.unclaimed);
    let mut tx = dispatch.begin().await?;
    let count = renders::withdraw(&mut tx, leadership, older_than, live_since, MOST, now).await?;
    dispatch.commit(tx).await?;
    if count > 0 {
        tracing::info!(
            count,
            "renders of pools without workers wait in the queue again"
        );
    }
    Ok(())
}

/// Publishes again what JetStream has not confirmed or nobody has claimed in time, under a new number.
pub async fn republish(dispatch: &Dispatch, leadership: &Leadership) -> Result<(), Error> {
    let policy = &dispatch.policy;
    let now = dispatch.clock.now();
    let mut tx = dispatch.begin().await?;
    let due = renders::republish_due(
        &mut tx,
        leadership,
        policy.unconfirmed,
        policy.unclaimed,
        MOST,
        now,
    )
    .await?;
    dispatch.commit(tx).await?;
    publish(dispatch, &due).await
}

async fn publish(dispatch: &Dispatch, publications: &[Publication]) -> Result<(), Error> {
    if publications.is_empty() {
        return Ok(());
    }
    let sent = futures::future::join_all(publications.iter().map(|one| send(dispatch, one))).await;
    let confirmed: Vec<Publication> = publications
        .iter()
        .zip(sent)
        .filter_map(|(publication, sent)| match sent {
            Ok(()) => Some(publication.clone()),
            Err(error) => {
                tracing::warn!(%error, "a render was not published; it will be again");
                None
            }
        })
        .collect();
    let mut tx = dispatch.begin().await?;
    renders::mark_published(&mut tx, &confirmed, dispatch.clock.now()).await?;
    dispatch.commit(tx).await
}

async fn send(dispatch: &Dispatch, publication: &Publication) -> Result<(), QueueError> {
    let pool: PoolName = publication.pool.parse()?;
    let prompt = RenderPrompt {
        render: publication.render,
        publication: u32::try_from(publication.publication).unwrap_or(0),
        alone: publication.alone,
    };
    dispatch.queue.publish_render(&pool, &prompt).await
}
