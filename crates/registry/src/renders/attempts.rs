//! Attempts: the history of a render's claims.

use chrono::{DateTime, Utc};
use likeness_domain::{AttemptOutcome, Error, RenderId, RenderState};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    AttemptRow, RenderError,
    read::{error_of, state_of},
};
use crate::{
    erasures::UPLOAD_LINK_LIFETIME,
    error::{corrupt, database},
};

/// Every attempt at a render, the first one first.
///
/// # Errors
/// The database fails or holds what cannot be read.
pub async fn attempts(conn: &mut PgConnection, render: RenderId) -> Result<Vec<AttemptRow>, Error> {
    let rows = sqlx::query_as!(
        StoredAttempt,
        "SELECT render_id, attempt, publication, worker, begun_at, finished_at, outcome, became,
                error_reason, error_message
         FROM render_attempts WHERE render_id = $1 ORDER BY attempt",
        render.0
    )
    .fetch_all(conn)
    .await
    .map_err(database)?;
    rows.into_iter().map(AttemptRow::try_from).collect()
}

struct StoredAttempt {
    render_id: Uuid,
    attempt: i32,
    publication: i32,
    worker: String,
    begun_at: DateTime<Utc>,
    finished_at: Option<DateTime<Utc>>,
    outcome: Option<String>,
    became: Option<String>,
    error_reason: Option<String>,
    error_message: Option<String>,
}

impl TryFrom<StoredAttempt> for AttemptRow {
    type Error = Error;

    fn try_from(row: StoredAttempt) -> Result<Self, Error> {
        let became = row.became.map(|state| state_of(&state, row.render_id));
        Ok(Self {
            attempt: row.attempt,
            publication: row.publication,
            worker: row.worker,
            begun_at: row.begun_at,
            finished_at: row.finished_at,
            outcome: row
                .outcome
                .map(|text| outcome_of(&text, row.render_id))
                .transpose()?,
            became: became.transpose()?,
            error: error_of(row.error_reason, row.error_message),
        })
    }
}

fn outcome_of(text: &str, row: Uuid) -> Result<AttemptOutcome, Error> {
    text.parse()
        .map_err(|_| corrupt("render_attempts", "outcome", row))
}

/// How one attempt ended and what its render became by it.
pub(super) struct Ending {
    pub outcome: AttemptOutcome,
    pub became: RenderState,
    pub error: Option<RenderError>,
    /// The device's time that went into it, where its worker told.
    pub device_seconds: Option<f64>,
}

/// Closes an attempt in its history and enters it into the ledger. What a losing one has uploaded, or still may, will be erased.
pub(super) async fn close(
    conn: &mut PgConnection,
    render: Uuid,
    attempt: i32,
    ending: &Ending,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let error = ending.error.as_ref();
    sqlx::query!(
        "WITH closed AS (
             UPDATE render_attempts SET outcome = $3, became = $4, error_reason = $5,
                 error_message = $6, finished_at = $7
             WHERE render_id = $1 AND attempt = $2 AND outcome IS NULL
             RETURNING render_id, attempt, outcome, begun_at),
         entered AS (
             INSERT INTO usage (render_id, attempt, tenant_id, pool, outcome, ended_at, seconds,
                                estimated_seconds)
             SELECT r.id, closed.attempt, r.tenant_id, r.pool, closed.outcome, $7,
                 greatest(coalesce($9, extract(epoch FROM $7 - closed.begun_at)::float8), 0),
                 r.cost_seconds
             FROM closed JOIN renders r ON r.id = closed.render_id)
         INSERT INTO erasures (prefix, not_before)
         SELECT concat('tenants/', r.tenant_id, '/renders/', r.id, '/', closed.attempt, '/'), $8
         FROM closed JOIN renders r ON r.id = closed.render_id WHERE closed.outcome <> 'SUCCEEDED'
         ON CONFLICT (prefix) DO UPDATE
         SET not_before = greatest(erasures.not_before, excluded.not_before)",
        render,
        attempt,
        ending.outcome.as_str(),
        ending.became.as_str(),
        error.map(|error| error.reason.as_str()),
        error.map(|error| error.message.as_str()),
        now,
        now + UPLOAD_LINK_LIFETIME,
        ending.device_seconds
    )
    .execute(conn)
    .await
    .map_err(database)?;
    Ok(())
}
