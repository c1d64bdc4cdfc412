//! Admission: which queued renders go into the bounded window that JetStream carries.
//!
//! All of it is counted from rows; no counter can leak.

use chrono::{DateTime, TimeDelta, Utc};
use likeness_domain::{Error, RenderId, TenantId};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    error::database,
    leaders::{self, Leadership},
};

/// How far [`pools_with_work`] counts.
const COUNTED: i64 = 1000;

/// One publishing of a render, committed and still to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// Which render.
    pub render: RenderId,
    /// Whose.
    pub tenant: TenantId,
    /// Its number: a claim must name the latest.
    pub publication: i32,
    /// Which pool may claim it.
    pub pool: String,
}

/// What a pool's workers have before them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Window {
    /// Handed out and not yet claimed.
    pub dispatched: i64,
    /// At work.
    pub running: i64,
    /// Estimated seconds of work in both.
    pub seconds: f32,
}

/// A pool that has queued renders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolWork {
    /// Its name.
    pub pool: String,
    /// The digest of its bundle.
    pub bundle: String,
    /// Nothing is admitted.
    pub paused: bool,
    /// How many renders wait, counted up to 1000.
    pub queued: i64,
}

/// Admits queued renders of a pool, in the caller's transaction, until the estimates of those admitted reach
/// `room_seconds` (the last may overshoot, so that a long render gets in at all) or they are `max_rows`. In the order in
/// which they are to be published.
///
/// The next render is always one of the tenant with the fewest seconds at work in this pool per weight; ties go to the
/// one least recently served; a tenant's own go by priority, then age. Suspended tenants, tenants with `max_running`
/// dispatched and running anywhere, paused pools, and renders that are not due yet or have expired stay where they are.
///
/// The cost grows with the number of waiting tenants and the square of `max_rows`, not with the length of the queue: take
/// 50 or so, and call again while there is room and as many come back.
///
/// # Errors
/// `Aborted` if the leadership is lost; the database fails.
pub async fn admit(
    conn: &mut PgConnection,
    leadership: &Leadership,
    pool: &str,
    room_seconds: f32,
    max_rows: i64,
    now: DateTime<Utc>,
) -> Result<Vec<Publication>, Error> {
    leaders::check(conn, leadership, now).await?;
    let picked = pick(conn, pool, room_seconds, max_rows, now).await?;
    dispatch(conn, &picked, now).await
}

/// The renders whose turn it is, in order. Nothing is locked yet.
async fn pick(
    conn: &mut PgConnection,
    pool: &str,
    room_seconds: f32,
    max_rows: i64,
    now: DateTime<Utc>,
) -> Result<Vec<Uuid>, Error> {
    // `waiting` hops from tenant to tenant over the index of queued renders; each ORDER BY is the one that only this
    // index serves. Since `max_rows` are taken at most, only so many tenants have a turn, with so many renders each.
    sqlx::query_scalar!(
        r#"WITH RECURSIVE waiting (tenant_id) AS (
               (SELECT tenant_id FROM renders WHERE state = 'QUEUED' AND pool = $1
                ORDER BY tenant_id, priority, id LIMIT 1)
               UNION ALL
               SELECT (SELECT r.tenant_id FROM renders r
                       WHERE r.state = 'QUEUED' AND r.pool = $1 AND r.tenant_id > w.tenant_id
                       ORDER BY r.tenant_id, r.priority, r.id LIMIT 1)
               FROM waiting w WHERE w.tenant_id IS NOT NULL),
           at_work AS (
               SELECT tenant_id, count(*) AS renders,
                   coalesce(sum(cost_seconds::float8) FILTER (WHERE pool = $1), 0) AS seconds
               FROM renders WHERE state IN ('DISPATCHED', 'RUNNING') GROUP BY tenant_id),
           contenders AS (
               SELECT t.id, t.weight::float8 AS weight, t.served_at,
                   coalesce(a.seconds, 0) AS seconds,
                   least($3, t.max_running - coalesce(a.renders, 0)) AS allowance
               FROM waiting w
               JOIN tenants t ON t.id = w.tenant_id
               LEFT JOIN at_work a ON a.tenant_id = t.id
               WHERE t.state = 'ACTIVE'
                   AND (t.max_running IS NULL OR coalesce(a.renders, 0) < t.max_running)
                   AND (SELECT true FROM renders r
                        WHERE r.state = 'QUEUED' AND r.pool = $1 AND r.tenant_id = t.id
                            AND (r.run_after IS NULL OR r.run_after <= $4) AND r.expire_time > $4
                        ORDER BY r.priority, r.id LIMIT 1)
               ORDER BY coalesce(a.seconds, 0) / t.weight, t.served_at NULLS FIRST, t.id
               LIMIT $3),
           candidates AS (
               SELECT r.id, r.priority, r.cost_seconds::float8 AS seconds, c.served_at,
                   (c.seconds + coalesce(sum(r.cost_seconds::float8) OVER (
                       PARTITION BY c.id ORDER BY r.priority, r.id
                       ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0)) / c.weight AS share
               FROM contenders c CROSS JOIN LATERAL (
                   SELECT id, priority, cost_seconds FROM renders r
                   WHERE r.state = 'QUEUED' AND r.pool = $1 AND r.tenant_id = c.id
                       AND (r.run_after IS NULL OR r.run_after <= $4) AND r.expire_time > $4
                   ORDER BY r.priority, r.id LIMIT c.allowance) r),
           ordered AS (
               SELECT id, row_number() OVER fair AS place, sum(seconds) OVER fair - seconds AS before
               FROM candidates
               WINDOW fair AS (ORDER BY share, served_at NULLS FIRST, priority, id
                               ROWS UNBOUNDED PRECEDING))
           SELECT id FROM ordered
           WHERE before < $2 AND place <= $3 AND NOT (SELECT paused FROM pools WHERE name = $1)
           ORDER BY place"#,
        pool,
        f64::from(room_seconds),
        max_rows,
        now
    )
    .fetch_all(conn)
    .await
    .map_err(database)
}

/// Dispatches those of the picked renders that are still queued and in nobody else's hands. On its own, because only so
/// the planner knows that it is few rows.
async fn dispatch(
    conn: &mut PgConnection,
    picked: &[Uuid],
    now: DateTime<Utc>,
) -> Result<Vec<Publication>, Error> {
    if picked.is_empty() {
        return Ok(Vec::new());
    }
    let rows = sqlx::query_as!(
        PublicationRow,
        r#"WITH free AS (
               SELECT id FROM renders WHERE id = ANY ($1) AND state = 'QUEUED'
               FOR UPDATE SKIP LOCKED),
           admitted AS (
               UPDATE renders r SET state = 'DISPATCHED', publication = publication + 1,
                   dispatched_at = $2, published_at = NULL
               FROM free WHERE r.id = free.id
               RETURNING r.id, r.tenant_id, r.publication, r.pool),
           served AS (
               UPDATE tenants SET served_at = $2
               WHERE id IN (SELECT tenant_id FROM admitted))
           SELECT id AS "id!", tenant_id AS "tenant_id!", publication AS "publication!",
               pool AS "pool!"
           FROM admitted ORDER BY array_position($1, id)"#,
        picked,
        now
    )
    .fetch_all(conn)
    .await
    .map_err(database)?;
    Ok(rows.into_iter().map(Publication::from).collect())
}

struct PublicationRow {
    id: Uuid,
    tenant_id: Uuid,
    publication: i32,
    pool: String,
}

impl From<PublicationRow> for Publication {
    fn from(row: PublicationRow) -> Self {
        Self {
            render: row.id.into(),
            tenant: row.tenant_id.into(),
            publication: row.publication,
            pool: row.pool,
        }
    }
}

/// Counts what a pool's workers have before them.
///
/// # Errors
/// The database fails.
pub async fn window(conn: &mut PgConnection, pool: &str) -> Result<Window, Error> {
    sqlx::query_as!(
        Window,
        r#"SELECT count(*) FILTER (WHERE state = 'DISPATCHED') AS "dispatched!",
               count(*) FILTER (WHERE state = 'RUNNING') AS "running!",
               coalesce(sum(cost_seconds), 0) AS "seconds!"
           FROM renders WHERE pool = $1 AND state IN ('DISPATCHED', 'RUNNING')"#,
        pool
    )
    .fetch_one(conn)
    .await
    .map_err(database)
}

/// Notes that JetStream has confirmed these publications. One that is in other hands at this moment is passed over.
///
/// # Errors
/// The database fails.
pub async fn mark_published(
    conn: &mut PgConnection,
    publications: &[Publication],
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let ids: Vec<Uuid> = publications
        .iter()
        .map(|publication| publication.render.0)
        .collect();
    let numbers: Vec<i32> = publications
        .iter()
        .map(|publication| publication.publication)
        .collect();
    sqlx::query!(
        "WITH confirmed AS (
             SELECT r.id FROM renders r
             JOIN unnest($1::uuid[], $2::integer[]) AS sent (id, publication)
                 ON sent.id = r.id AND sent.publication = r.publication
             WHERE r.state = 'DISPATCHED'
             FOR UPDATE OF r SKIP LOCKED)
         UPDATE renders r SET published_at = $3 FROM confirmed WHERE r.id = confirmed.id",
        &ids,
        &numbers,
        now
    )
    .execute(conn)
    .await
    .map_err(database)?;
    Ok(())
}

/// Publishes anew, in the caller's transaction, at most `limit` DISPATCHED renders whose publication was not confirmed
/// within `unconfirmed_after`, or not claimed within `unclaimed_after` of its confirmation. Claims of the publications
/// before are refused from now on.
///
/// # Errors
/// `Aborted` if the leadership is lost; the database fails.
pub async fn republish_due(
    conn: &mut PgConnection,
    leadership: &Leadership,
    unconfirmed_after: TimeDelta,
    unclaimed_after: TimeDelta,
    limit: i64,
    now: DateTime<Utc>,
) -> Result<Vec<Publication>, Error> {
    leaders::check(conn, leadership, now).await?;
    let rows = sqlx::query_as!(
        PublicationRow,
        "WITH due AS (
             SELECT id FROM renders
             WHERE state = 'DISPATCHED' AND expire_time > $3
                 AND ((published_at IS NULL AND dispatched_at <= $1) OR published_at <= $2)
             ORDER BY dispatched_at LIMIT $4 FOR UPDATE SKIP LOCKED)
         UPDATE renders r SET publication = publication + 1, dispatched_at = $3, published_at = NULL
         FROM due WHERE r.id = due.id
         RETURNING r.id, r.tenant_id, r.publication, r.pool",
        now - unconfirmed_after,
        now - unclaimed_after,
        now,
        limit
    )
    .fetch_all(conn)
    .await
    .map_err(database)?;
    Ok(rows.into_iter().map(Publication::from).collect())
}

/// The pools that have queued renders, by name.
///
/// # Errors
/// The database fails.
pub async fn pools_with_work(conn: &mut PgConnection) -> Result<Vec<PoolWork>, Error> {
    sqlx::query_as!(
        PoolWork,
        r#"SELECT p.name AS pool, p.bundle, p.paused, counted.queued AS "queued!"
           FROM pools p CROSS JOIN LATERAL (
               SELECT count(*) AS queued FROM (
                   SELECT FROM renders r WHERE r.pool = p.name AND r.state = 'QUEUED' LIMIT $1)
                   AS waiting) AS counted
           WHERE counted.queued > 0 ORDER BY p.name"#,
        COUNTED
    )
    .fetch_all(conn)
    .await
    .map_err(database)
}
