//! What a render would wait for, for those who ask before they create one.

use chrono::{DateTime, Utc};
use likeness_domain::{Error, TenantId, render::Priority};
use sqlx::PgConnection;

use crate::error::database;

/// How many renders of another tenant are looked at, at most.
const LOOK: i64 = 1000;
/// How many of the pool's last attempts tell its pace.
const PACED_BY: i64 = 100;

/// What is ahead of a new render.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Queue {
    /// Renders.
    pub place: i64,
    /// Seconds of a worker's time in them, as estimated.
    pub seconds: f64,
    /// How many seconds an estimated second has taken of late; 1 where nothing is known.
    pub pace: f64,
    /// Workers that take work.
    pub workers: i64,
}

/// What is ahead of a new render of a tenant: all that is at work in its pool, the tenant's own of its priority and
/// above, and of every other tenant's as much as its weight lets pass meanwhile. An estimate: tenants come and go.
///
/// # Errors
/// The database fails.
pub async fn queue_ahead(
    conn: &mut PgConnection,
    tenant: TenantId,
    pool: &str,
    priority: Priority,
    live_since: DateTime<Utc>,
) -> Result<Queue, Error> {
    sqlx::query_as!(
        Queue,
        r#"WITH RECURSIVE waiting (tenant_id) AS (
               (SELECT tenant_id FROM renders WHERE state = 'QUEUED' AND pool = $1
                ORDER BY tenant_id, scheduled, priority, id LIMIT 1)
               UNION ALL
               SELECT (SELECT r.tenant_id FROM renders r
                       WHERE r.state = 'QUEUED' AND r.pool = $1 AND r.tenant_id > w.tenant_id
                       ORDER BY r.tenant_id, r.scheduled, r.priority, r.id LIMIT 1)
               FROM waiting w WHERE w.tenant_id IS NOT NULL),
           at_work AS (
               SELECT count(*) AS renders, coalesce(sum(cost_seconds::float8), 0) AS seconds
               FROM renders WHERE pool = $1 AND state IN ('DISPATCHED', 'RUNNING')),
           own AS (
               SELECT count(*) AS renders, coalesce(sum(cost_seconds::float8), 0) AS seconds
               FROM renders WHERE pool = $1 AND tenant_id = $2 AND state = 'QUEUED'
                   AND NOT scheduled AND priority <= $3),
           others AS (
               SELECT r.cost_seconds::float8 AS seconds
               FROM waiting w
               JOIN tenants t ON t.id = w.tenant_id AND t.state = 'ACTIVE' AND t.id <> $2
               CROSS JOIN LATERAL (
                   SELECT q.cost_seconds,
                       sum(q.cost_seconds::float8) OVER (ROWS UNBOUNDED PRECEDING) AS so_far
                   FROM (SELECT cost_seconds FROM renders r
                         WHERE r.state = 'QUEUED' AND r.pool = $1 AND r.tenant_id = t.id
                             AND NOT r.scheduled
                         ORDER BY r.scheduled, r.priority, r.id LIMIT $4) AS q) AS r
               WHERE r.so_far - r.cost_seconds
                   <= (SELECT seconds FROM own) * t.weight
                       / (SELECT weight FROM tenants WHERE id = $2)),
           recent AS (
               SELECT seconds, estimated_seconds FROM usage
               WHERE pool = $1 AND outcome = 'SUCCEEDED' ORDER BY ended_at DESC LIMIT $5)
           SELECT at_work.renders + own.renders + (SELECT count(*) FROM others) AS "place!",
               at_work.seconds + own.seconds
                   + coalesce((SELECT sum(seconds) FROM others), 0) AS "seconds!",
               coalesce((SELECT sum(seconds) / sum(estimated_seconds) FROM recent), 1) AS "pace!",
               (SELECT count(*) FROM workers
                WHERE pool = $1 AND seen_at >= $6 AND NOT draining) AS "workers!"
           FROM at_work, own"#,
        pool,
        tenant.0,
        priority.rank(),
        LOOK,
        PACED_BY,
        live_since
    )
    .fetch_one(conn)
    .await
    .map_err(database)
}
