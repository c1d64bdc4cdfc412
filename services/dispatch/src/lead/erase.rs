//! The sweep: deletes objects that a change in the registry has orphaned.

use chrono::{DateTime, Utc};
use likeness_domain::Error;
use likeness_registry::{acquire, erasures, idempotency};

use super::step;
use crate::server::Dispatch;

/// Prefixes erased in one round.
const MOST: i64 = 50;

/// Erases what is due. Deleting twice is harmless, so every instance may do it.
pub async fn erase(dispatch: &Dispatch) -> Result<(), Error> {
    let as_of = dispatch.clock.now();
    let mut conn = acquire(&dispatch.pool).await?;
    idempotency::sweep(&mut conn, as_of).await?;
    let due = erasures::due(&mut conn, MOST, as_of).await?;
    drop(conn);
    for prefix in due {
        // One that fails must not keep the later ones waiting.
        step("erase one", erase_one(dispatch, prefix, as_of).await);
    }
    Ok(())
}

async fn erase_one(dispatch: &Dispatch, prefix: String, as_of: DateTime<Utc>) -> Result<(), Error> {
    dispatch
        .blob
        .delete_prefix(&prefix.parse().map_err(Error::internal)?)
        .await?;
    let mut conn = acquire(&dispatch.pool).await?;
    erasures::done(&mut conn, &[prefix], as_of).await
}
