//! A worker renews its lease, and hears of a cancel.

use likeness_domain::Error;
use likeness_queue::{RenewReply, RenewRequest};
use likeness_registry::renders::{self, Renewal};

use super::signed;
use crate::server::Dispatch;

/// Lengthens the lease of the present attempt.
pub async fn renew(dispatch: Dispatch, request: RenewRequest) -> Result<RenewReply, Error> {
    let attempt = signed("attempt", request.attempt)?;
    let mut tx = dispatch.begin().await?;
    let lease = dispatch.policy.lease;
    let renewal = renders::renew(
        &mut tx,
        request.render,
        attempt,
        lease,
        dispatch.clock.now(),
    )
    .await?;
    dispatch.commit(tx).await?;
    Ok(match renewal {
        Renewal::Held { cancel, .. } => RenewReply::Held {
            lease_seconds: u32::try_from(lease.num_seconds()).unwrap_or(0),
            cancel,
        },
        Renewal::Lost => RenewReply::Lost,
    })
}
