//! What a `request_id` did, so that a repeated request returns the same resources for 24 hours.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use likeness_domain::{Error, ErrorKind, TenantId, key::digests_equal};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::error::database;

/// How long a `request_id` is remembered.
const LIFETIME: TimeDelta = TimeDelta::hours(24);

/// What tells one request from another.
type Key = (Uuid, String, String);

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

    fn owned(&self) -> Key {
        let (method, request_id) = (self.method.to_owned(), self.request_id.to_owned());
        (self.tenant(), method, request_id)
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
        return Err(reused());
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

/// Claims several `request_id`s at once, no two of them alike, each with the one resource that it is about to make: nothing
/// is left to record. Twins wait as for [`begin`].
///
/// # Errors
/// Of all, if the database fails. Of one, as for [`begin`].
pub async fn begin_all(
    conn: &mut PgConnection,
    asked: &[(IdempotencyKey<'_>, Uuid)],
    now: DateTime<Utc>,
) -> Result<Vec<Result<Replay, Error>>, Error> {
    let columns = Columns::of(asked);
    let resources: Vec<Uuid> = asked.iter().map(|(_, resource)| *resource).collect();
    let payloads: Vec<Vec<u8>> = asked
        .iter()
        .map(|(key, _)| key.payload_sha256.to_vec())
        .collect();
    // In order, so that no two such statements wait for each other.
    let taken = sqlx::query!(
        "INSERT INTO idempotency
             (tenant_id, method, request_id, payload_sha256, resource_ids, created_at)
         SELECT tenant_id, method, request_id, payload, ARRAY[resource], $6
         FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bytea[], $5::uuid[])
             AS asked (tenant_id, method, request_id, payload, resource)
         ORDER BY tenant_id, method, request_id
         ON CONFLICT (tenant_id, method, request_id) DO UPDATE
         SET payload_sha256 = excluded.payload_sha256, resource_ids = excluded.resource_ids,
             created_at = excluded.created_at
         WHERE idempotency.created_at <= $7",
        &columns.tenants,
        &columns.methods,
        &columns.request_ids,
        &payloads,
        &resources,
        now,
        now - LIFETIME
    )
    .execute(&mut *conn)
    .await
    .map_err(database)?;
    if taken.rows_affected() as usize == asked.len() {
        return Ok(asked.iter().map(|_| Ok(Replay::New)).collect());
    }
    let found = remembered(conn, &columns).await?;
    let replays = asked.iter().map(|(key, resource)| {
        let known = found.get(&key.owned());
        let known =
            known.ok_or_else(|| Error::internal("a request id was taken and is not there"))?;
        replay(key, *resource, known)
    });
    Ok(replays.collect())
}

/// The parts of several keys, each in its column.
struct Columns {
    tenants: Vec<Uuid>,
    methods: Vec<String>,
    request_ids: Vec<String>,
}

impl Columns {
    fn of(asked: &[(IdempotencyKey<'_>, Uuid)]) -> Self {
        let keys = || asked.iter().map(|(key, _)| key);
        Self {
            tenants: keys().map(IdempotencyKey::tenant).collect(),
            methods: keys().map(|key| key.method.to_owned()).collect(),
            request_ids: keys().map(|key| key.request_id.to_owned()).collect(),
        }
    }
}

/// What is remembered under a `request_id`.
struct Remembered {
    payload_sha256: Vec<u8>,
    resource_ids: Vec<Uuid>,
}

/// What is remembered of each, the new ones included.
async fn remembered(
    conn: &mut PgConnection,
    columns: &Columns,
) -> Result<HashMap<Key, Remembered>, Error> {
    let rows = sqlx::query!(
        "SELECT tenant_id, method, request_id, payload_sha256, resource_ids FROM idempotency
         WHERE (tenant_id, method, request_id) IN (
             SELECT tenant_id, method, request_id
             FROM unnest($1::uuid[], $2::text[], $3::text[])
                 AS asked (tenant_id, method, request_id))",
        &columns.tenants,
        &columns.methods,
        &columns.request_ids
    )
    .fetch_all(conn)
    .await
    .map_err(database)?;
    let rows = rows.into_iter().map(|row| {
        let remembered = Remembered {
            payload_sha256: row.payload_sha256,
            resource_ids: row.resource_ids,
        };
        ((row.tenant_id, row.method, row.request_id), remembered)
    });
    Ok(rows.collect())
}

/// Whether what is remembered is this request itself, the same one before, or another.
fn replay(key: &IdempotencyKey<'_>, resource: Uuid, known: &Remembered) -> Result<Replay, Error> {
    if !digests_equal(&known.payload_sha256, &key.payload_sha256) {
        return Err(reused());
    }
    if known.resource_ids == [resource] {
        return Ok(Replay::New);
    }
    Ok(Replay::Same(known.resource_ids.clone()))
}

fn reused() -> Error {
    let message = "this request_id came with another request in the last 24 hours; take a new one";
    Error::new(ErrorKind::AlreadyExists, "REQUEST_ID_REUSED", message)
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
