//! Admission: which queued renders go into the bounded window that JetStream carries.
//!
//! All of it is counted from rows; no counter can leak.

use std::collections::HashMap;

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
/// How long a tenant's higher priorities may hold up a lower one of which nothing is at work.
pub const PATIENCE: TimeDelta = TimeDelta::minutes(5);
/// Scheduled renders that one admission lets into the queue.
const STARTED_AT_ONCE: i64 = 1000;

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
    /// It shares its worker with no other.
    pub alone: bool,
    /// What renders must have in common to be painted together.
    pub kind: String,
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
    /// Estimated seconds of what is not yet claimed.
    pub dispatched_seconds: f32,
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
/// one least recently served; a tenant's own go by priority, then age, except that a priority of which nothing is at work
/// goes first once it has waited for [`PATIENCE`]. Suspended tenants, tenants with `max_running` dispatched and running
/// anywhere, paused pools, and renders that are not due yet or have expired stay where they are.
///
/// Renders that can be painted together are published next to each other, within what is admitted here.
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
    start_scheduled(conn, now).await?;
    let picked = pick(conn, pool, room_seconds, max_rows, now).await?;
    let admitted = dispatch(conn, &picked, now).await?;
    Ok(together(admitted))
}

/// Brings publications of one kind next to each other, where the first of the kind stood.
fn together(mut publications: Vec<Publication>) -> Vec<Publication> {
    let mut firsts: HashMap<String, usize> = HashMap::new();
    for (place, publication) in publications.iter().enumerate() {
        firsts.entry(publication.kind.clone()).or_insert(place);
    }
    publications.sort_by_key(|publication| firsts.get(&publication.kind).copied());
    publications
}

/// Lets renders whose time has come into the queue.
async fn start_scheduled(conn: &mut PgConnection, now: DateTime<Utc>) -> Result<(), Error> {
    sqlx::query!(
        "WITH due AS (
             SELECT id FROM renders
             WHERE state = 'QUEUED' AND run_after IS NOT NULL AND run_after <= $1
             ORDER BY run_after LIMIT $2 FOR UPDATE SKIP LOCKED)
         UPDATE renders r SET run_after = NULL FROM due WHERE r.id = due.id",
        now,
        STARTED_AT_ONCE
    )
    .execute(conn)
    .await
    .map_err(database)?;
    Ok(())
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
                ORDER BY tenant_id, scheduled, priority, id LIMIT 1)
               UNION ALL
               SELECT (SELECT r.tenant_id FROM renders r
                       WHERE r.state = 'QUEUED' AND r.pool = $1 AND r.tenant_id > w.tenant_id
                       ORDER BY r.tenant_id, r.scheduled, r.priority, r.id LIMIT 1)
               FROM waiting w WHERE w.tenant_id IS NOT NULL),
           at_work AS (
               SELECT tenant_id, count(*) AS renders,
                   array_agg(DISTINCT priority) FILTER (WHERE pool = $1) AS priorities,
                   coalesce(sum(cost_seconds::float8) FILTER (WHERE pool = $1), 0) AS seconds
               FROM renders WHERE state IN ('DISPATCHED', 'RUNNING') GROUP BY tenant_id),
           contenders AS (
               SELECT t.id, t.weight::float8 AS weight, t.served_at, a.priorities,
                   coalesce(a.seconds, 0) AS seconds,
                   least($3, t.max_running - coalesce(a.renders, 0)) AS allowance
               FROM waiting w
               JOIN tenants t ON t.id = w.tenant_id
               LEFT JOIN at_work a ON a.tenant_id = t.id
               WHERE t.state = 'ACTIVE'
                   AND (t.max_running IS NULL OR coalesce(a.renders, 0) < t.max_running)
                   AND (SELECT true FROM renders r
                        WHERE r.state = 'QUEUED' AND r.pool = $1 AND r.tenant_id = t.id
                            AND NOT r.scheduled AND r.expire_time > $4
                        ORDER BY r.scheduled, r.priority, r.id LIMIT 1)
               ORDER BY coalesce(a.seconds, 0) / t.weight, t.served_at NULLS FIRST, t.id
               LIMIT $3),
           -- The first of each priority that has waited long enough while nothing of it is at work.
           starving AS (
               SELECT c.id AS tenant_id, first.id
               FROM contenders c CROSS JOIN unnest(ARRAY[1, 2]) AS class (priority)
               CROSS JOIN LATERAL (
                   SELECT id, created_at FROM renders r
                   WHERE r.state = 'QUEUED' AND r.pool = $1 AND r.tenant_id = c.id
                       AND NOT r.scheduled AND r.priority = class.priority AND r.expire_time > $4
                   ORDER BY r.scheduled, r.priority, r.id LIMIT 1) AS first
               WHERE class.priority <> ALL (coalesce(c.priorities, '{}'))
                   AND first.created_at <= $5),
           turns AS (
               SELECT r.id, r.priority, r.cost_seconds::float8 AS seconds, c.id AS tenant_id,
                   c.served_at, c.seconds AS at_work, c.weight, c.allowance,
                   row_number() OVER own AS turn,
                   sum(r.cost_seconds::float8) OVER own - r.cost_seconds AS own_before
               FROM contenders c CROSS JOIN LATERAL (
                   (SELECT id, priority, cost_seconds FROM renders r
                    WHERE r.state = 'QUEUED' AND r.pool = $1 AND r.tenant_id = c.id
                        AND NOT r.scheduled AND r.expire_time > $4
                    ORDER BY r.scheduled, r.priority, r.id LIMIT c.allowance)
                   UNION
                   SELECT r.id, r.priority, r.cost_seconds
                   FROM starving s JOIN renders r ON r.id = s.id WHERE s.tenant_id = c.id) r
               WINDOW own AS (PARTITION BY c.id
                              ORDER BY r.id IN (SELECT id FROM starving) DESC, r.priority, r.id
                              ROWS UNBOUNDED PRECEDING)),
           ordered AS (
               SELECT id, row_number() OVER fair AS place, sum(seconds) OVER fair - seconds AS before
               FROM turns WHERE turn <= allowance
               WINDOW fair AS (ORDER BY (at_work + own_before) / weight, served_at NULLS FIRST,
                                   priority, tenant_id, turn
                               ROWS UNBOUNDED PRECEDING))
           SELECT id AS "id!" FROM ordered
           WHERE before < $2 AND place <= $3 AND NOT (SELECT paused FROM pools WHERE name = $1)
           ORDER BY place"#,
        pool,
        f64::from(room_seconds),
        max_rows,
        now,
        now - PATIENCE
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
               RETURNING r.id, r.tenant_id, r.publication, r.pool, r.alone,
                   concat_ws(' ', r.spec ->> 'model', r.spec ->> 'width', r.spec ->> 'height',
                       r.spec ->> 'steps', r.spec ->> 'scheduler', r.spec ->> 'init_strength',
                       (r.spec ->> 'guidance')::float8 > 1) AS kind),
           served AS (
               UPDATE tenants SET served_at = $2
               WHERE id IN (SELECT tenant_id FROM admitted))
           SELECT id AS "id!", tenant_id AS "tenant_id!", publication AS "publication!",
               pool AS "pool!", alone AS "alone!", kind AS "kind!"
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
    alone: bool,
    kind: String,
}

impl From<PublicationRow> for Publication {
    fn from(row: PublicationRow) -> Self {
        Self {
            render: row.id.into(),
            tenant: row.tenant_id.into(),
            publication: row.publication,
            pool: row.pool,
            alone: row.alone,
            kind: row.kind,
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
               coalesce(sum(cost_seconds), 0) AS "seconds!",
               coalesce(sum(cost_seconds) FILTER (WHERE state = 'DISPATCHED'), 0)
                   AS "dispatched_seconds!"
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

/// Takes back into the queue, in the caller's transaction, at most `limit` renders that were dispatched before
/// `older_than` and not claimed, where no worker of their pool was seen since `live_since`: else they would be published
/// again and again for nobody. Says how many.
///
/// # Errors
/// `Aborted` if the leadership is lost; the database fails.
pub async fn withdraw(
    conn: &mut PgConnection,
    leadership: &Leadership,
    older_than: DateTime<Utc>,
    live_since: DateTime<Utc>,
    limit: i64,
    now: DateTime<Utc>,
) -> Result<u64, Error> {
    leaders::check(conn, leadership, now).await?;
    let done = sqlx::query!(
        "WITH abandoned AS (
             SELECT id FROM renders r
             WHERE state = 'DISPATCHED' AND dispatched_at <= $1 AND NOT EXISTS (
                 SELECT FROM workers w WHERE w.pool = r.pool AND w.seen_at >= $2 AND NOT w.draining)
             ORDER BY dispatched_at LIMIT $3 FOR UPDATE SKIP LOCKED)
         UPDATE renders r SET state = 'QUEUED', dispatched_at = NULL, published_at = NULL
         FROM abandoned WHERE r.id = abandoned.id",
        older_than,
        live_since,
        limit
    )
    .execute(conn)
    .await
    .map_err(database)?;
    Ok(done.rows_affected())
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
        r#"WITH due AS (
             SELECT id FROM renders
             WHERE state = 'DISPATCHED' AND expire_time > $3
                 AND ((published_at IS NULL AND dispatched_at <= $1) OR published_at <= $2)
             ORDER BY dispatched_at LIMIT $4 FOR UPDATE SKIP LOCKED)
         UPDATE renders r SET publication = publication + 1, dispatched_at = $3, published_at = NULL
         FROM due WHERE r.id = due.id
         RETURNING r.id, r.tenant_id, r.publication, r.pool, r.alone, '' AS "kind!""#,
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
