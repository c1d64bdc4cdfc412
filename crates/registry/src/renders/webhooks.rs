//! Webhooks: whom to tell that a render is over.

use chrono::{DateTime, TimeDelta, Utc};
use likeness_domain::{ApiKeyId, Error, RenderId, RenderState, names::RenderName};
use sqlx::PgConnection;

use super::{RenderError, read::error_of, read::state_of};
use crate::error::database;

/// A webhook that is to be called now.
#[derive(Clone, PartialEq, Eq)]
pub struct DueWebhook {
    /// Of which render.
    pub render: RenderName,
    /// Its last state.
    pub state: RenderState,
    /// When it reached it.
    pub finished_at: DateTime<Utc>,
    /// Why it FAILED.
    pub error: Option<RenderError>,
    /// Whom to call.
    pub url: String,
    /// The key whose secret signs.
    pub key: ApiKeyId,
    /// SHA-256 of that secret.
    pub key_sha256: Vec<u8>,
    /// Which try this is, from 1.
    pub number: i32,
}

/// Takes webhooks that are due, at most `per_tenant` of each tenant and `limit` in all. Until `lease` has passed nobody
/// else takes them; one whose outcome is not noted by then is due again.
///
/// # Errors
/// The database fails or holds what cannot be read.
pub async fn take_due(
    conn: &mut PgConnection,
    per_tenant: i64,
    limit: i64,
    lease: TimeDelta,
    now: DateTime<Utc>,
) -> Result<Vec<DueWebhook>, Error> {
    let rows = sqlx::query!(
        r#"WITH ranked AS (
               SELECT id, webhook_due,
                   row_number() OVER (PARTITION BY tenant_id ORDER BY webhook_due, id) AS turn
               FROM renders WHERE webhook_due IS NOT NULL AND webhook_due <= $1),
           due AS (
               SELECT r.id FROM renders r
               WHERE r.id IN (SELECT id FROM ranked WHERE turn <= $2
                              ORDER BY webhook_due LIMIT $3)
                   AND r.webhook_due <= $1
               FOR UPDATE SKIP LOCKED)
           UPDATE renders r SET webhook_due = $4, webhook_tries = webhook_tries + 1
           FROM due, api_keys k
           WHERE r.id = due.id AND k.id = r.webhook_key
           RETURNING r.id, r.tenant_id, r.state, r.finished_at AS "finished_at!", r.error_reason,
               r.error_message, r.webhook_url AS "url!", k.id AS key, k.secret_sha256,
               r.webhook_tries"#,
        now,
        per_tenant,
        limit,
        now + lease
    )
    .fetch_all(conn)
    .await
    .map_err(database)?;
    let mut due = Vec::with_capacity(rows.len());
    for row in rows {
        due.push(DueWebhook {
            render: RenderName {
                tenant: row.tenant_id.into(),
                render: row.id.into(),
            },
            state: state_of(&row.state, row.id)?,
            finished_at: row.finished_at,
            error: error_of(row.error_reason, row.error_message),
            url: row.url,
            key: row.key.into(),
            key_sha256: row.secret_sha256,
            number: row.webhook_tries,
        });
    }
    Ok(due)
}

/// Notes how a try ended and when the next one is due; none: it was the last.
///
/// # Errors
/// The database fails.
pub async fn delivered(
    conn: &mut PgConnection,
    render: RenderId,
    number: i32,
    status: i16,
    next: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    sqlx::query!(
        "WITH noted AS (
             INSERT INTO webhook_deliveries (render_id, number, at, status)
             SELECT id, $2, $5, $3 FROM renders WHERE id = $1
             ON CONFLICT (render_id, number) DO NOTHING)
         UPDATE renders SET webhook_due = $4 WHERE id = $1 AND webhook_tries = $2",
        render.0,
        number,
        status,
        next,
        now
    )
    .execute(conn)
    .await
    .map_err(database)?;
    Ok(())
}
