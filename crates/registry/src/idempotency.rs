//! What a `request_id` did, so that a repeated request returns the same resources for 24 hours.

use chrono::{DateTime, TimeDelta, Utc};
use likeness_domain::{Error, ErrorKind, TenantId, key::digests_equal};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::error::database;

/// How long a `request_id` is remembered.
const LIFETIME: TimeDelta = TimeDelta::hours(24);

/// One request as its client numbered it.
#[derive(Clone, Copy, Debug)]
pub struct IdempotencyKey<'a> {
    /// Whose; `None` for operators.
    pub tenant: Option<TenantId>,
    /// The method's name.
    pub method: &'static str,
    /// The client's id, 1 to 128 bytes.
    pub request_id: &'a str,
    /// SHA-256 of the request without its id.
    pub payload_sha256: [u8; 32],
}

impl IdempotencyKey<'_> {
    /// Operators' requests stand under the nil tenant.
    fn tenant(&self) -> Uuid {
        self.tenant.map_or(Uuid::nil(), |tenant| tenant.0)
    }
}

/// Whether a request is the first under its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replay {
    /// It is: do it, then [`record`] what it made.
    New,
    /// It was done before and made these.
    Same(Vec<Uuid>),
}

/// Claims a `request_id` in the caller's transaction. A twin of the request that runs at the same time waits here until
/// this transaction ends, and then sees what it did.
///
/// # Errors
/// `AlreadyExists` (`REQUEST_ID_REUSED`) if the id came with another payload in the last 24 hours.
pub async fn begin(
    conn: &mut PgConnection,
    key: &IdempotencyKey<'_>,
    now: DateTime<Utc>,
) -> Result<Replay, Error> {
    if claim(conn, key, now).await? {
        return Ok(Replay::New);
    }
    let earlier = sqlx::query!(
        "SELECT payload_sha256, resource_ids FROM idempotency
         WHERE tenant_id = $1 AND method = $2 AND request_id = $3",
        key.tenant(),
        key.method,
        key.request_id
    )
    .fetch_one(conn)
    .await
    .map_err(database)?;
    if !digests_equal(&earlier.payload_sha256, &key.payload_sha256) {
        let message =
            "this request_id came with another request in the last 24 hours; take a new one";
        return Err(Error::new(
            ErrorKind::AlreadyExists,
            "REQUEST_ID_REUSED",
            message,
        ));
    }
    Ok(Replay::Same(earlier.resource_ids))
}

/// Inserts the id, or takes it over from a request older than 24 hours. An id that is still remembered is locked by the
/// conflict, so that it can be read afterwards.
async fn claim(
    conn: &mut PgConnection,
    key: &IdempotencyKey<'_>,
    now: DateTime<Utc>,
) -> Result<bool, Error> {
    let done = sqlx::query!(
        "INSERT INTO idempotency
             (tenant_id, method, request_id, payload_sha256, resource_ids, created_at)
         VALUES ($1, $2, $3, $4, '{}', $5)
         ON CONFLICT (tenant_id, method, request_id) DO UPDATE
         SET payload_sha256 = excluded.payload_sha256, resource_ids = '{}',
             created_at = excluded.created_at
         WHERE idempotency.created_at <= $6",
        key.tenant(),
        key.method,
        key.request_id,
        key.payload_sha256.as_slice(),
        now,
        now - LIFETIME
    )
    .execute(conn)
    .await
    .map_err(database)?;
    Ok(done.rows_affected() == 1)
}

/// Notes what a new request made, in the transaction that made it.
///
/// # Errors
/// The database fails.
pub async fn record(
    conn: &mut PgConnection,
    key: &IdempotencyKey<'_>,
    resources: &[Uuid],
) -> Result<(), Error> {
    sqlx::query!(
        "UPDATE idempotency SET resource_ids = $4
         WHERE tenant_id = $1 AND method = $2 AND request_id = $3",
        key.tenant(),
        key.method,
        key.request_id,
        resources
    )
    .execute(conn)
    .await
    .map_err(database)?;
    Ok(())
}

/// Forgets ids older than 24 hours; returns how many.
///
/// # Errors
/// The database fails.
pub async fn sweep(conn: &mut PgConnection, now: DateTime<Utc>) -> Result<u64, Error> {
    sqlx::query!(
        "DELETE FROM idempotency WHERE created_at <= $1",
        now - LIFETIME
    )
    .execute(conn)
    .await
    .map(|done| done.rows_affected())
    .map_err(database)
}
