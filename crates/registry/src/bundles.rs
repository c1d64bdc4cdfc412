//! Bundles that workers announced, and the pools that serve them.

use chrono::{DateTime, Utc};
use likeness_domain::{Error, ErrorKind, bundle::BundleSummary};
use sqlx::{PgConnection, types::Json};

use crate::error::database;

/// Where a render of a model goes.
#[derive(Clone, Debug, PartialEq)]
pub struct Placement {
    /// The bundle that it will be pinned to.
    pub bundle: BundleSummary,
    /// The pool that serves it.
    pub pool: String,
    /// The model by the bundle's name for it.
    pub model: String,
}

/// Stores what a worker says of its bundle; it is the latest from now on.
///
/// # Errors
/// The database fails.
pub async fn announce(
    conn: &mut PgConnection,
    bundle: &BundleSummary,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    sqlx::query!(
        "INSERT INTO bundles (digest, encoder, summary, announced_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (digest) DO UPDATE SET summary = excluded.summary,
             announced_at = greatest(bundles.announced_at, excluded.announced_at)",
        bundle.digest,
        bundle.encoder,
        Json(bundle) as _,
        now
    )
    .execute(conn)
    .await
    .map_err(database)?;
    Ok(())
}

/// Makes a pool where there is none of this name.
///
/// # Errors
/// `FailedPrecondition` if the pool serves another bundle or class of device; the database fails.
pub async fn ensure_pool(
    conn: &mut PgConnection,
    name: &str,
    digest: &str,
    device_class: &str,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    sqlx::query!(
        "INSERT INTO pools (name, bundle, device_class, created_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (name) DO NOTHING",
        name,
        digest,
        device_class,
        now
    )
    .execute(&mut *conn)
    .await
    .map_err(database)?;
    let same = sqlx::query_scalar!(
        r#"SELECT bundle = $2 AND device_class = $3 AS "same!" FROM pools WHERE name = $1"#,
        name,
        digest,
        device_class
    )
    .fetch_one(conn)
    .await
    .map_err(database)?;
    if same { Ok(()) } else { Err(pool_taken(name)) }
}

fn pool_taken(name: &str) -> Error {
    let message = format!(
        "the pool {name} serves another bundle or class of device; give this worker another pool"
    );
    Error::new(ErrorKind::FailedPrecondition, "POOL_TAKEN", message)
}

/// Stops or resumes admission to a pool.
///
/// # Errors
/// `NotFound` if there is no such pool; the database fails.
pub async fn set_paused(conn: &mut PgConnection, pool: &str, paused: bool) -> Result<(), Error> {
    let done = sqlx::query!("UPDATE pools SET paused = $2 WHERE name = $1", pool, paused)
        .execute(conn)
        .await
        .map_err(database)?;
    if done.rows_affected() == 0 {
        Err(Error::not_found("pool", pool))
    } else {
        Ok(())
    }
}

/// Where a render of `model` goes: to the latest bundle that offers it and has a pool, and there to the pool whose
/// worker was seen last; a paused pool only where there is no other. An empty `model` is the latest bundle's default.
///
/// # Errors
/// The database fails, or holds a summary that cannot be read.
pub async fn resolve(conn: &mut PgConnection, model: &str) -> Result<Option<Placement>, Error> {
    let row = sqlx::query!(
        r#"SELECT p.name AS pool, b.summary AS "bundle: Json<BundleSummary>"
           FROM bundles b JOIN pools p ON p.bundle = b.digest
           WHERE b.summary -> 'models' ? $1 OR ($1 = '' AND b.summary -> 'models' -> 0 IS NOT NULL)
           ORDER BY b.announced_at DESC, b.digest, p.paused,
               (SELECT max(w.seen_at) FROM workers w WHERE w.pool = p.name) DESC NULLS LAST, p.name
           LIMIT 1"#,
        model
    )
    .fetch_optional(conn)
    .await
    .map_err(database)?;
    Ok(row.and_then(|row| place(row.bundle.0, row.pool, model)))
}

fn place(bundle: BundleSummary, pool: String, model: &str) -> Option<Placement> {
    let model = match model {
        "" => bundle.models.first()?.clone(),
        model => model.to_owned(),
    };
    Some(Placement {
        bundle,
        pool,
        model,
    })
}

/// One bundle by its digest.
///
/// # Errors
/// The database fails, or holds a summary that cannot be read.
pub async fn get(conn: &mut PgConnection, digest: &str) -> Result<Option<BundleSummary>, Error> {
    let summary = sqlx::query_scalar!(
        r#"SELECT summary AS "summary: Json<BundleSummary>" FROM bundles WHERE digest = $1"#,
        digest
    )
    .fetch_optional(conn)
    .await
    .map_err(database)?;
    Ok(summary.map(|summary| summary.0))
}

/// Every bundle, the latest first.
///
/// # Errors
/// The database fails, or holds a summary that cannot be read.
pub async fn list(conn: &mut PgConnection) -> Result<Vec<BundleSummary>, Error> {
    let summaries = sqlx::query_scalar!(
        r#"SELECT summary AS "summary: Json<BundleSummary>" FROM bundles
           ORDER BY announced_at DESC, digest"#
    )
    .fetch_all(conn)
    .await
    .map_err(database)?;
    Ok(summaries.into_iter().map(|summary| summary.0).collect())
}
