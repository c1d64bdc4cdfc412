//! Workers: what they are, when they were last seen and what they hold.

use chrono::{DateTime, Utc};
use likeness_domain::{Error, WorkerKind};
use sqlx::PgConnection;

use crate::error::{corrupt, database};

/// What a worker says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presence {
    /// Chosen by the worker; another one for each process.
    pub id: String,
    /// What it does.
    pub kind: WorkerKind,
    /// The pool it serves; render workers have one, enrolment workers none.
    pub pool: Option<String>,
    /// What it runs on.
    pub device: String,
    /// The service's version.
    pub version: String,
    /// It takes nothing more.
    pub draining: bool,
    /// When it started.
    pub started_at: DateTime<Utc>,
}

/// A worker that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    /// What it said last.
    pub presence: Presence,
    /// When it said so.
    pub seen_at: DateTime<Utc>,
    /// The names of the renders and photos that it holds.
    pub holding: Vec<String>,
}

/// The workers' columns and what they hold, once, with what follows the table's name.
macro_rules! select_workers {
    ($rest:tt, $($argument:expr),*) => {
        sqlx::query_as!(
            WorkerRow,
            r#"SELECT w.id, w.kind, w.pool, w.device, w.version, w.draining, w.started_at, w.seen_at,
                   ARRAY(SELECT concat('tenants/', r.tenant_id, '/renders/', r.id) FROM renders r
                         WHERE r.worker = w.id AND r.state = 'RUNNING' ORDER BY r.id) AS "renders!",
                   ARRAY(SELECT concat('tenants/', p.tenant_id, '/identities/', p.identity_id,
                                       '/photos/', p.id) FROM photos p
                         WHERE p.worker = w.id AND p.state = 'RUNNING' ORDER BY p.id) AS "photos!"
               FROM workers w "# + $rest,
            $($argument),*
        )
    };
}

/// Stores a worker's word of itself, and tells whether an operator asked it to drain. Its pool must be there
/// ([`crate::bundles::ensure_pool`]).
///
/// # Errors
/// `InvalidArgument` for a render worker without a pool or an enrolment worker with one; the database fails.
pub async fn seen(
    conn: &mut PgConnection,
    presence: &Presence,
    now: DateTime<Utc>,
) -> Result<bool, Error> {
    check(presence)?;
    sqlx::query_scalar!(
        "INSERT INTO workers (id, kind, pool, device, version, draining, started_at, seen_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
         ON CONFLICT (id) DO UPDATE SET kind = excluded.kind, pool = excluded.pool,
             device = excluded.device, version = excluded.version,
             draining = excluded.draining OR workers.drain_requested,
             started_at = excluded.started_at,
             seen_at = greatest(workers.seen_at, excluded.seen_at)
         RETURNING drain_requested",
        presence.id,
        presence.kind.as_str(),
        presence.pool,
        presence.device,
        presence.version,
        presence.draining,
        presence.started_at,
        now
    )
    .fetch_one(conn)
    .await
    .map_err(database)
}

/// Asks a worker to take nothing more. It counts as draining at once and hears of it with its next hello.
///
/// # Errors
/// `NotFound`; the database fails, or holds a kind that this version does not know.
pub async fn drain(conn: &mut PgConnection, id: &str) -> Result<Worker, Error> {
    sqlx::query!(
        "UPDATE workers SET drain_requested = true, draining = true WHERE id = $1",
        id
    )
    .execute(&mut *conn)
    .await
    .map_err(database)?;
    let found = select_workers!("WHERE w.id = $1", id)
        .fetch_optional(conn)
        .await
        .map_err(database)?;
    found
        .map(Worker::try_from)
        .ok_or_else(|| Error::not_found("worker", id))?
}

fn check(presence: &Presence) -> Result<(), Error> {
    if !(1..=100).contains(&presence.id.len()) {
        return Err(Error::invalid_field("worker.id", "expected 1 to 100 bytes"));
    }
    match (presence.kind, &presence.pool) {
        (WorkerKind::Render, Some(_)) | (WorkerKind::Enroll, None) => Ok(()),
        (WorkerKind::Render, None) => Err(Error::invalid_field(
            "worker.pool",
            "expected a render worker's pool",
        )),
        (WorkerKind::Enroll, Some(_)) => Err(Error::invalid_field(
            "worker.pool",
            "expected none for an enrolment worker",
        )),
    }
}

/// Workers seen at `since` or later, by id from the one behind `after` (empty: from the first), at most `limit`.
///
/// # Errors
/// The database fails, or holds a kind that this version does not know.
pub async fn list(
    conn: &mut PgConnection,
    since: DateTime<Utc>,
    after: &str,
    limit: i64,
) -> Result<Vec<Worker>, Error> {
    let rows = select_workers!(
        "WHERE w.seen_at >= $1 AND w.id > $2 ORDER BY w.id LIMIT $3",
        since,
        after,
        limit
    )
    .fetch_all(conn)
    .await
    .map_err(database)?;
    rows.into_iter().map(Worker::try_from).collect()
}

struct WorkerRow {
    id: String,
    kind: String,
    pool: Option<String>,
    device: String,
    version: String,
    draining: bool,
    started_at: DateTime<Utc>,
    seen_at: DateTime<Utc>,
    renders: Vec<String>,
    photos: Vec<String>,
}

impl TryFrom<WorkerRow> for Worker {
    type Error = Error;

    fn try_from(row: WorkerRow) -> Result<Self, Error> {
        let presence = Presence {
            kind: row
                .kind
                .parse()
                .map_err(|_| corrupt("workers", "kind", &row.id))?,
            id: row.id,
            pool: row.pool,
            device: row.device,
            version: row.version,
            draining: row.draining,
            started_at: row.started_at,
        };
        Ok(Self {
            presence,
            seen_at: row.seen_at,
            holding: [row.renders, row.photos].concat(),
        })
    }
}

/// How many workers of a pool were seen at `since` or later and still take work.
///
/// # Errors
/// The database fails.
pub async fn live(conn: &mut PgConnection, pool: &str, since: DateTime<Utc>) -> Result<i64, Error> {
    sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM workers
           WHERE pool = $1 AND seen_at >= $2 AND NOT draining"#,
        pool,
        since
    )
    .fetch_one(conn)
    .await
    .map_err(database)
}

/// Forgets workers that were last seen before `older_than`; says how many.
///
/// # Errors
/// The database fails.
pub async fn forget(conn: &mut PgConnection, older_than: DateTime<Utc>) -> Result<u64, Error> {
    let done = sqlx::query!("DELETE FROM workers WHERE seen_at < $1", older_than)
        .execute(conn)
        .await
        .map_err(database)?;
    Ok(done.rows_affected())
}
