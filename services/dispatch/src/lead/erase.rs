//! The sweep: deletes objects that a change in the registry has orphaned.

use likeness_domain::Error;
use likeness_registry::{acquire, erasures, idempotency};

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
        dispatch
            .blob
            .delete_prefix(&prefix.parse().map_err(Error::internal)?)
            .await?;
        let mut conn = acquire(&dispatch.pool).await?;
        erasures::done(&mut conn, &[prefix], as_of).await?;
    }
    Ok(())
}
