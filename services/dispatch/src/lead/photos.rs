//! Photos wait for enrolment in the same way as renders for their workers.

use likeness_domain::Error;
use likeness_queue::PhotoPrompt;
use likeness_registry::photos::queue::{self, PhotoPublication};

use super::succeeded;
use crate::{events, server::Dispatch};

/// Rows published in one round.
const MOST: i64 = 200;

/// Takes photos back from workers that have gone, and publishes those that wait.
pub async fn publish(dispatch: &Dispatch) -> Result<(), Error> {
    let policy = &dispatch.policy;
    let now = dispatch.clock.now();
    let mut tx = dispatch.begin().await?;
    let reaped = queue::reap(&mut tx, policy.photo_attempts, policy.photo_backoff, now).await?;
    let due = queue::publish_due(&mut tx, MOST, policy.unclaimed, now).await?;
    dispatch.commit(tx).await?;
    for (name, _) in reaped {
        events::identity_changed(dispatch, name.identity).await;
    }
    if due.is_empty() {
        return Ok(());
    }
    let sent = succeeded(&due, |publication| send(dispatch, publication)).await;
    let mut tx = dispatch.begin().await?;
    queue::mark_published(&mut tx, &sent, dispatch.clock.now()).await?;
    dispatch.commit(tx).await
}

async fn send(
    dispatch: &Dispatch,
    publication: PhotoPublication,
) -> Result<(), likeness_queue::QueueError> {
    let prompt = PhotoPrompt {
        photo: publication.photo,
        publication: u32::try_from(publication.publication).unwrap_or(0),
    };
    dispatch.queue.publish_photo(&prompt).await
}
