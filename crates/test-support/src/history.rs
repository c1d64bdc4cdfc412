//! What happened to renders and what is left of them, for tests that check a whole run afterwards.

use anyhow::Result;
use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgPool};
use uuid::Uuid;

/// A change of a render's state.
#[derive(Clone, Debug, FromRow)]
pub struct Transition {
    /// Whose.
    pub render: Uuid,
    /// Before.
    pub before: String,
    /// After.
    pub after: String,
}

/// A render's row.
#[derive(Clone, Debug, FromRow)]
pub struct StoredRender {
    /// Which.
    pub id: Uuid,
    /// Whose.
    pub tenant: Uuid,
    /// Where it stands.
    pub state: String,
    /// The present attempt, or the last.
    pub attempt: i32,
    /// The seed that its images are drawn from.
    pub seed: i64,
    /// Why it failed.
    pub error_reason: Option<String>,
}

/// An attempt that ended.
#[derive(Clone, Debug, FromRow)]
pub struct EndedAttempt {
    /// At which render.
    pub render: Uuid,
    /// Its number.
    pub attempt: i32,
    /// How it ended.
    pub outcome: String,
}

/// An image that a render is said to have.
#[derive(Clone, Debug, FromRow)]
pub struct StoredImage {
    /// Of which render.
    pub render: Uuid,
    /// By which attempt.
    pub attempt: i32,
    /// Its SHA-256 in hex.
    pub sha256: String,
}

/// A photo's row.
#[derive(Clone, Debug, FromRow)]
pub struct StoredPhoto {
    /// Which.
    pub id: Uuid,
    /// Whose.
    pub tenant: Uuid,
    /// Of whom.
    pub identity: Uuid,
    /// Where it stands.
    pub state: String,
    /// How many attempts were made.
    pub attempt: i32,
    /// How many sets of coefficients it has.
    pub coefficients: i64,
}

/// Begins to record every change of a render's state.
///
/// # Errors
/// The database fails.
pub async fn record(pool: &PgPool) -> Result<()> {
    for statement in [
        "CREATE TABLE recorded_transitions (
             place bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
             render uuid NOT NULL, before text NOT NULL, after text NOT NULL)",
        "CREATE FUNCTION record_transition() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             INSERT INTO recorded_transitions (render, before, after)
             VALUES (NEW.id, OLD.state, NEW.state);
             RETURN NULL;
         END $$",
        "CREATE TRIGGER record_transition AFTER UPDATE OF state ON renders
             FOR EACH ROW WHEN (OLD.state <> NEW.state) EXECUTE FUNCTION record_transition()",
    ] {
        sqlx::query(statement).execute(pool).await?;
    }
    Ok(())
}

/// Every change of state since [`record`], in order.
///
/// # Errors
/// The database fails.
pub async fn transitions(pool: &PgPool) -> Result<Vec<Transition>> {
    let all = "SELECT render, before, after FROM recorded_transitions ORDER BY place";
    Ok(sqlx::query_as(all).fetch_all(pool).await?)
}

/// Every render.
///
/// # Errors
/// The database fails.
pub async fn renders(pool: &PgPool) -> Result<Vec<StoredRender>> {
    let all = "SELECT id, tenant_id AS tenant, state, attempt, (spec->>'seed')::bigint AS seed,
                   error_reason FROM renders ORDER BY id";
    Ok(sqlx::query_as(all).fetch_all(pool).await?)
}

/// How many renders and photos have not reached a last state.
///
/// # Errors
/// The database fails.
pub async fn living(pool: &PgPool) -> Result<i64> {
    let count = "SELECT (SELECT count(*) FROM renders
                        WHERE state IN ('QUEUED', 'DISPATCHED', 'RUNNING'))
                   + (SELECT count(*) FROM photos WHERE state IN ('PENDING', 'RUNNING'))";
    Ok(sqlx::query_scalar(count).fetch_one(pool).await?)
}

/// Every attempt that ended.
///
/// # Errors
/// The database fails.
pub async fn attempts(pool: &PgPool) -> Result<Vec<EndedAttempt>> {
    let all = "SELECT render_id AS render, attempt, outcome FROM render_attempts
               WHERE outcome IS NOT NULL ORDER BY render_id, attempt";
    Ok(sqlx::query_as(all).fetch_all(pool).await?)
}

/// Every image that a render is said to have.
///
/// # Errors
/// The database fails.
pub async fn images(pool: &PgPool) -> Result<Vec<StoredImage>> {
    let all = "SELECT render_id AS render, attempt, sha256 FROM render_images
               ORDER BY render_id, position";
    Ok(sqlx::query_as(all).fetch_all(pool).await?)
}

/// Every photo.
///
/// # Errors
/// The database fails.
pub async fn photos(pool: &PgPool) -> Result<Vec<StoredPhoto>> {
    let all = "SELECT id, tenant_id AS tenant, identity_id AS identity, state, attempt,
                   (SELECT count(*) FROM photo_coefficients c WHERE c.photo_id = p.id) AS coefficients
               FROM photos p ORDER BY id";
    Ok(sqlx::query_as(all).fetch_all(pool).await?)
}

/// Which instance leads a role at present.
///
/// # Errors
/// The database fails.
pub async fn leader(pool: &PgPool, role: &str) -> Result<Option<String>> {
    let holder = "SELECT holder FROM leaders WHERE role = $1 AND lease_until > now()";
    let holder = sqlx::query_scalar(holder).bind(role);
    Ok(holder.fetch_optional(pool).await?)
}

/// Whether a render has been admitted since then.
///
/// # Errors
/// The database fails.
pub async fn admitted_since(pool: &PgPool, since: DateTime<Utc>) -> Result<bool> {
    let found = "SELECT EXISTS (SELECT FROM renders WHERE dispatched_at > $1)";
    Ok(sqlx::query_scalar(found)
        .bind(since)
        .fetch_one(pool)
        .await?)
}

/// Makes every erasure due, as if its time had come, and returns how many wait.
///
/// # Errors
/// The database fails.
pub async fn erase_now(pool: &PgPool) -> Result<u64> {
    let due = "UPDATE erasures SET not_before = now() - interval '1 second'";
    Ok(sqlx::query(due).execute(pool).await?.rows_affected())
}
