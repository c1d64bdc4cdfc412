//! Counts of the queue, for operators.

use std::time::Duration;

use chrono::{DateTime, Utc};
use likeness_domain::{Error, RenderState};
use sqlx::PgConnection;

use crate::error::{corrupt, database};

/// The queue's counts at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueStats {
    /// Renders by state, every state once, in the order of a render's life.
    pub renders: Vec<(RenderState, i64)>,
    /// Pools by name.
    pub pools: Vec<PoolStats>,
    /// Photos not yet in a last state.
    pub pending_photos: i64,
    /// The age of the oldest queued render.
    pub oldest_queued: Option<Duration>,
}

/// One pool's counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolStats {
    /// Its name.
    pub pool: String,
    /// The digest of its bundle.
    pub bundle: String,
    /// Live workers that take work.
    pub workers: i64,
    /// Waiting.
    pub queued: i64,
    /// Handed out and not yet claimed.
    pub dispatched: i64,
    /// At work.
    pub running: i64,
    /// Nothing more is admitted.
    pub paused: bool,
}

/// Counts everything. A worker counts as live if it was seen at `live_since` or later.
///
/// # Errors
/// The database fails, or holds a state that this version does not know.
pub async fn queue(
    conn: &mut PgConnection,
    live_since: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<QueueStats, Error> {
    let oldest = oldest_queued(conn).await?;
    Ok(QueueStats {
        renders: renders_by_state(conn).await?,
        pools: pools(conn, live_since).await?,
        pending_photos: pending_photos(conn).await?,
        oldest_queued: oldest.map(|since| (now - since).to_std().unwrap_or_default()),
    })
}

async fn renders_by_state(conn: &mut PgConnection) -> Result<Vec<(RenderState, i64)>, Error> {
    let rows = sqlx::query!(
        r#"SELECT state, count(*) AS "count!", min(id::text) AS "any!" FROM renders GROUP BY state"#
    )
    .fetch_all(conn)
    .await
    .map_err(database)?;
    let mut counts: Vec<_> = RenderState::ALL.iter().map(|state| (*state, 0)).collect();
    for row in rows {
        let state: RenderState = row
            .state
            .parse()
            .map_err(|_| corrupt("renders", "state", &row.any))?;
        for (counted, count) in &mut counts {
            if *counted == state {
                *count = row.count;
            }
        }
    }
    Ok(counts)
}

async fn pools(
    conn: &mut PgConnection,
    live_since: DateTime<Utc>,
) -> Result<Vec<PoolStats>, Error> {
    sqlx::query_as!(
        PoolStats,
        r#"SELECT p.name AS pool, p.bundle, p.paused,
               (SELECT count(*) FROM workers w
                WHERE w.pool = p.name AND w.seen_at >= $1 AND NOT w.draining) AS "workers!",
               (SELECT count(*) FROM renders r
                WHERE r.pool = p.name AND r.state = 'QUEUED') AS "queued!",
               (SELECT count(*) FROM renders r
                WHERE r.pool = p.name AND r.state = 'DISPATCHED') AS "dispatched!",
               (SELECT count(*) FROM renders r
                WHERE r.pool = p.name AND r.state = 'RUNNING') AS "running!"
           FROM pools p ORDER BY p.name"#,
        live_since
    )
    .fetch_all(conn)
    .await
    .map_err(database)
}

async fn pending_photos(conn: &mut PgConnection) -> Result<i64, Error> {
    sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM photos WHERE state IN ('PENDING', 'RUNNING')"#
    )
    .fetch_one(conn)
    .await
    .map_err(database)
}

async fn oldest_queued(conn: &mut PgConnection) -> Result<Option<DateTime<Utc>>, Error> {
    sqlx::query_scalar!("SELECT min(created_at) FROM renders WHERE state = 'QUEUED'")
        .fetch_one(conn)
        .await
        .map_err(database)
}
