//! The ledger of GPU time: what tenants' attempts took, written with the end of each.

use chrono::{DateTime, Utc};
use likeness_domain::{Error, TenantId};
use sqlx::PgConnection;

use crate::error::database;

/// A tenant's GPU time in a period, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Attempts whose images were delivered.
    pub delivered: f64,
    /// Attempts that were repeated, aborted or cancelled.
    pub wasted: f64,
}

/// Sums up what ended at `from` or later and before `until`.
///
/// # Errors
/// The database fails.
pub async fn sum(
    conn: &mut PgConnection,
    tenant: TenantId,
    from: DateTime<Utc>,
    until: DateTime<Utc>,
) -> Result<Usage, Error> {
    sqlx::query_as!(
        Usage,
        r#"SELECT coalesce(sum(seconds) FILTER (WHERE outcome = 'SUCCEEDED'), 0) AS "delivered!",
               coalesce(sum(seconds) FILTER (WHERE outcome <> 'SUCCEEDED'), 0) AS "wasted!"
           FROM usage WHERE tenant_id = $1 AND ended_at >= $2 AND ended_at < $3"#,
        tenant.0,
        from,
        until
    )
    .fetch_one(conn)
    .await
    .map_err(database)
}
