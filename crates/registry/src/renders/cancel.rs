//! Stopping renders on request.

use chrono::{DateTime, Utc};
use likeness_domain::{Error, IdentityId, RenderId, TenantId};
use sqlx::PgConnection;

use super::{
    Render, Settled, get,
    settle::{SettledRow, settled},
};
use crate::error::database;

/// Asks for a render to stop: one that waits is CANCELLED at once, one that RUNS is marked for its worker, and one
/// whose life is over stays as it stands. The answer tells which.
///
/// # Errors
/// `NotFound` if there is none, or it is another tenant's; the database fails.
pub async fn cancel(
    conn: &mut PgConnection,
    tenant: TenantId,
    id: RenderId,
    now: DateTime<Utc>,
) -> Result<Render, Error> {
    sqlx::query!(
        "UPDATE renders SET cancel_requested_at = coalesce(cancel_requested_at, $3),
             state = CASE state WHEN 'RUNNING' THEN state ELSE 'CANCELLED' END,
             finished_at = CASE state WHEN 'RUNNING' THEN NULL ELSE $3 END
         WHERE id = $1 AND tenant_id = $2 AND state IN ('QUEUED', 'DISPATCHED', 'RUNNING')",
        id.0,
        tenant.0,
        now
    )
    .execute(&mut *conn)
    .await
    .map_err(database)?;
    get(conn, tenant, id).await
}

/// Stops every render that shows an identity, or moves along a slider made from it, for its deletion, whose transaction this is: those that wait become
/// FAILED with `IDENTITY_DELETED`, those that RUN are marked for their workers and returned as RUNNING.
///
/// # Errors
/// The database fails or holds what cannot be read.
pub async fn fail_of_identity(
    conn: &mut PgConnection,
    tenant: TenantId,
    identity: IdentityId,
    now: DateTime<Utc>,
) -> Result<Vec<Settled>, Error> {
    let rows = sqlx::query_as!(
        SettledRow,
        "WITH showing AS (
             SELECT r.id FROM renders r
             WHERE r.tenant_id = $1 AND r.state IN ('QUEUED', 'DISPATCHED', 'RUNNING')
                 AND r.id IN (SELECT render_id FROM render_sources WHERE identity_id = $2)
             ORDER BY r.id FOR UPDATE)
         UPDATE renders r SET
             state = CASE state WHEN 'RUNNING' THEN state ELSE 'FAILED' END,
             finished_at = CASE state WHEN 'RUNNING' THEN NULL ELSE $3::timestamptz END,
             error_reason = CASE state WHEN 'RUNNING' THEN NULL ELSE $4 END,
             error_message = CASE state WHEN 'RUNNING' THEN NULL ELSE $5 END,
             cancel_requested_at = CASE state WHEN 'RUNNING'
                 THEN coalesce(cancel_requested_at, $3) ELSE cancel_requested_at END
         FROM showing WHERE r.id = showing.id
         RETURNING r.id, r.tenant_id, r.state",
        tenant.0,
        identity.0,
        now,
        super::claim::IDENTITY_DELETED.reason,
        super::claim::IDENTITY_DELETED.message
    )
    .fetch_all(conn)
    .await
    .map_err(database)?;
    settled(rows)
}
