//! Objects to delete from storage, by key prefix.
//!
//! An erasure is requested in the transaction that orphans the objects and is done once storage has none of them
//! left: a crash in between only repeats it.

use chrono::{DateTime, TimeDelta, Utc};
use likeness_domain::Error;
use sqlx::PgConnection;

use crate::error::database;

/// The longest life of an upload link. What such a link may still write to is erased only once it has ended.
pub const UPLOAD_LINK_LIFETIME: TimeDelta = TimeDelta::hours(1);

/// Asks for the objects under `prefix` to be deleted once `not_before` has come. Of two requests the later time counts.
///
/// # Errors
/// The database fails, or the prefix lies outside `tenants/`.
pub async fn request(
    conn: &mut PgConnection,
    prefix: &str,
    not_before: DateTime<Utc>,
) -> Result<(), Error> {
    sqlx::query!(
        "INSERT INTO erasures (prefix, not_before) VALUES ($1, $2)
         ON CONFLICT (prefix) DO UPDATE
         SET not_before = greatest(erasures.not_before, excluded.not_before)",
        prefix,
        not_before
    )
    .execute(conn)
    .await
    .map_err(database)?;
    Ok(())
}

/// The prefixes whose time has come, the longest due first, at most `limit`.
///
/// # Errors
/// The database fails.
pub async fn due(
    conn: &mut PgConnection,
    limit: i64,
    now: DateTime<Utc>,
) -> Result<Vec<String>, Error> {
    sqlx::query_scalar!(
        "SELECT prefix FROM erasures WHERE not_before <= $1 ORDER BY not_before, prefix LIMIT $2",
        now,
        limit
    )
    .fetch_all(conn)
    .await
    .map_err(database)
}

/// Strikes off the prefixes that were [`due`] at `as_of` and have been deleted. One that was requested anew for a later
/// time stays.
///
/// # Errors
/// The database fails.
pub async fn done(
    conn: &mut PgConnection,
    prefixes: &[String],
    as_of: DateTime<Utc>,
) -> Result<(), Error> {
    sqlx::query!(
        "DELETE FROM erasures WHERE prefix = ANY($1) AND not_before <= $2",
        prefixes,
        as_of
    )
    .execute(conn)
    .await
    .map_err(database)?;
    Ok(())
}
