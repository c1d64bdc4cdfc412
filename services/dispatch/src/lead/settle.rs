//! What is overdue: lapsed leases and renders past their `expire_time`.

use likeness_domain::Error;
use likeness_registry::{leaders::Leadership, renders};

use crate::{events, server::Dispatch};

/// Rows expired in one round.
const MOST: i64 = 500;

/// Expires what is too late, then takes renders back from workers that have gone.
pub async fn settle(dispatch: &Dispatch, leadership: &Leadership) -> Result<(), Error> {
    let now = dispatch.clock.now();
    let mut tx = dispatch.begin().await?;
    let mut settled = renders::expire(&mut tx, leadership, MOST, now).await?;
    settled.extend(renders::reap(&mut tx, leadership, &dispatch.policy.retry, now).await?);
    dispatch.commit(tx).await?;
    for settled in settled {
        tracing::info!(render = %settled.render.render, state = %settled.state, "settled");
        events::render_changed(dispatch, settled.render.render, settled.state).await;
    }
    Ok(())
}
