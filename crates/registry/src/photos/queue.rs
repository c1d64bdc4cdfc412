//! How enrolment workers get photos: publications, claims, leases, outcomes.
//!
//! A claim must name the photo's present publication and gives a new attempt; an outcome must name the present attempt.
//! Whatever names another changes nothing.

use chrono::{DateTime, TimeDelta, Utc};
use likeness_domain::{
    Error, IdentityId, PhotoId, PhotoState, TenantId,
    names::PhotoName,
    photo::{FaceChoice, QualityReport, Rejection},
};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    coefficients,
    error::{corrupt, database},
    sealing::SealedCoefficients,
};

/// Attempts before a photo is given up.
pub const MAX_ATTEMPTS: i32 = 3;
/// The wait before a photo's next attempt.
pub const BACKOFF: TimeDelta = TimeDelta::seconds(2);

/// One publishing of a photo into the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PhotoPublication {
    /// Which photo.
    pub photo: PhotoId,
    /// Which publishing of it.
    pub publication: i32,
}

/// What a worker that claimed a photo needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PhotoClaim {
    /// Which photo.
    pub name: PhotoName,
    /// The fencing token.
    pub attempt: i32,
    /// Which face to enrol where it shows several.
    pub face_choice: FaceChoice,
    /// The media type of its bytes.
    pub content_type: String,
    /// Until when the photo is this worker's, unless it renews.
    pub lease_until: DateTime<Utc>,
}

/// Takes up to `limit` waiting photos that are to be published now: never published yet, not confirmed, or published
/// more than `republish_after` ago and still not claimed. Each has a new publication, which a claim must name.
///
/// # Errors
/// The database fails.
pub async fn publish_due(
    conn: &mut PgConnection,
    limit: i64,
    republish_after: TimeDelta,
    now: DateTime<Utc>,
) -> Result<Vec<PhotoPublication>, Error> {
    let rows = sqlx::query!(
        "WITH due AS MATERIALIZED (
             SELECT id FROM photos
             WHERE state = 'PENDING' AND (run_after IS NULL OR run_after <= $1)
                 AND (published_at IS NULL OR published_at <= $2)
             ORDER BY id LIMIT $3 FOR UPDATE SKIP LOCKED)
         UPDATE photos SET publication = publication + 1, published_at = NULL
         FROM due WHERE photos.id = due.id
         RETURNING photos.id, publication",
        now,
        now - republish_after,
        limit
    )
    .fetch_all(conn)
    .await
    .map_err(database)?;
    let mut publications: Vec<_> = rows
        .into_iter()
        .map(|row| PhotoPublication {
            photo: PhotoId(row.id),
            publication: row.publication,
        })
        .collect();
    publications.sort_by_key(|publication| publication.photo);
    Ok(publications)
}

/// Notes that the queue has confirmed these publications; later ones of the same photos stay unconfirmed.
///
/// # Errors
/// The database fails.
pub async fn mark_published(
    conn: &mut PgConnection,
    publications: &[PhotoPublication],
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let photos: Vec<Uuid> = publications
        .iter()
        .map(|publication| publication.photo.0)
        .collect();
    let numbers: Vec<i32> = publications
        .iter()
        .map(|publication| publication.publication)
        .collect();
    sqlx::query!(
        "UPDATE photos SET published_at = $3
         FROM unnest($1::uuid[], $2::integer[]) AS published (id, publication)
         WHERE photos.id = published.id AND photos.publication = published.publication
             AND state = 'PENDING'",
        &photos,
        &numbers,
        now
    )
    .execute(conn)
    .await
    .map_err(database)?;
    Ok(())
}

/// Gives a waiting photo to a worker for the length of a lease. `None` is a refusal: another publication is the present
/// one, the photo does not wait, not yet, or is gone.
///
/// # Errors
/// The database fails.
pub async fn claim(
    conn: &mut PgConnection,
    photo: PhotoId,
    publication: i32,
    worker: &str,
    lease: TimeDelta,
    now: DateTime<Utc>,
) -> Result<Option<PhotoClaim>, Error> {
    let lease_until = now + lease;
    let row = sqlx::query!(
        "UPDATE photos
         SET state = 'RUNNING', attempt = attempt + 1, worker = $3, lease_until = $4
         WHERE id = $1 AND publication = $2 AND state = 'PENDING'
             AND (run_after IS NULL OR run_after <= $5)
         RETURNING tenant_id, identity_id, attempt, face_choice, content_type",
        photo.0,
        publication,
        worker,
        lease_until,
        now
    )
    .fetch_optional(conn)
    .await
    .map_err(database)?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(PhotoClaim {
        name: photo_name(row.tenant_id, row.identity_id, photo.0),
        attempt: row.attempt,
        face_choice: row
            .face_choice
            .parse()
            .map_err(|_| corrupt("photos", "face_choice", photo))?,
        content_type: row.content_type,
        lease_until,
    }))
}

/// Extends a lease; `false` if the photo is no longer this attempt's, or its lease has ended.
///
/// # Errors
/// The database fails.
pub async fn renew(
    conn: &mut PgConnection,
    photo: PhotoId,
    attempt: i32,
    lease: TimeDelta,
    now: DateTime<Utc>,
) -> Result<bool, Error> {
    let done = sqlx::query!(
        "UPDATE photos SET lease_until = $3
         WHERE id = $1 AND attempt = $2 AND state = 'RUNNING' AND lease_until > $4",
        photo.0,
        attempt,
        now + lease,
        now
    )
    .execute(conn)
    .await
    .map_err(database)?;
    Ok(done.rows_affected() == 1)
}

/// Accepts a photo with its coefficients, in the caller's transaction; `false` for a stale attempt, which changes
/// nothing.
///
/// # Errors
/// The database fails.
pub async fn accept(
    conn: &mut PgConnection,
    photo: PhotoId,
    attempt: i32,
    quality: &QualityReport,
    sealed: &SealedCoefficients,
    now: DateTime<Utc>,
) -> Result<bool, Error> {
    let done = sqlx::query!(
        "UPDATE photos SET state = 'ACCEPTED', quality = $3, finished_at = $4,
             worker = NULL, lease_until = NULL
         WHERE id = $1 AND attempt = $2 AND state = 'RUNNING'",
        photo.0,
        attempt,
        serde_json::to_value(quality).map_err(Error::internal)?,
        now
    )
    .execute(&mut *conn)
    .await
    .map_err(database)?;
    if done.rows_affected() == 0 {
        return Ok(false);
    }
    coefficients::insert(conn, photo, sealed, now).await?;
    Ok(true)
}

/// Refuses a photo for what it shows, with what was measured if a face was chosen; `false` for a stale attempt, which
/// changes nothing.
///
/// # Errors
/// The database fails.
pub async fn reject(
    conn: &mut PgConnection,
    photo: PhotoId,
    attempt: i32,
    rejection: &Rejection,
    quality: Option<&QualityReport>,
    now: DateTime<Utc>,
) -> Result<bool, Error> {
    let quality = quality
        .map(serde_json::to_value)
        .transpose()
        .map_err(Error::internal)?;
    let done = sqlx::query!(
        "UPDATE photos SET state = 'REJECTED', rejection_reason = $3, rejection_message = $4,
             quality = $5, finished_at = $6, worker = NULL, lease_until = NULL
         WHERE id = $1 AND attempt = $2 AND state = 'RUNNING'",
        photo.0,
        attempt,
        rejection.reason.as_str(),
        rejection.message,
        quality,
        now
    )
    .execute(conn)
    .await
    .map_err(database)?;
    Ok(done.rows_affected() == 1)
}

/// Ends an attempt that failed through no fault of the photo: back to PENDING until `run_after`, or FAILED when
/// `max_attempts` are spent. `None` for a stale attempt, which changes nothing.
///
/// # Errors
/// The database fails.
pub async fn retry(
    conn: &mut PgConnection,
    photo: PhotoId,
    attempt: i32,
    run_after: DateTime<Utc>,
    max_attempts: i32,
    now: DateTime<Utc>,
) -> Result<Option<PhotoState>, Error> {
    let state = if attempt < max_attempts {
        PhotoState::Pending
    } else {
        PhotoState::Failed
    };
    let done = sqlx::query!(
        "UPDATE photos SET state = $3, run_after = $4, finished_at = $5, published_at = NULL,
             worker = NULL, lease_until = NULL
         WHERE id = $1 AND attempt = $2 AND state = 'RUNNING'",
        photo.0,
        attempt,
        state.as_str(),
        (state == PhotoState::Pending).then_some(run_after),
        state.is_terminal().then_some(now)
    )
    .execute(conn)
    .await
    .map_err(database)?;
    Ok((done.rows_affected() == 1).then_some(state))
}

/// Ends the attempts whose leases have lapsed, as [`retry`] does, the next ones after `backoff`.
///
/// # Errors
/// The database fails.
pub async fn reap(
    conn: &mut PgConnection,
    max_attempts: i32,
    backoff: TimeDelta,
    now: DateTime<Utc>,
) -> Result<Vec<(PhotoName, PhotoState)>, Error> {
    let rows = sqlx::query!(
        "WITH lapsed AS MATERIALIZED (
             SELECT id FROM photos WHERE state = 'RUNNING' AND lease_until <= $3
             FOR UPDATE SKIP LOCKED)
         UPDATE photos
         SET state = CASE WHEN attempt < $1 THEN 'PENDING' ELSE 'FAILED' END,
             run_after = CASE WHEN attempt < $1 THEN $2::timestamptz END,
             finished_at = CASE WHEN attempt < $1 THEN NULL ELSE $3::timestamptz END,
             published_at = NULL, worker = NULL, lease_until = NULL
         FROM lapsed WHERE photos.id = lapsed.id
         RETURNING tenant_id, identity_id, photos.id, state",
        max_attempts,
        now + backoff,
        now
    )
    .fetch_all(conn)
    .await
    .map_err(database)?;
    let settle = |state: &str, id| state.parse().map_err(|_| corrupt("photos", "state", id));
    rows.into_iter()
        .map(|row| {
            let name = photo_name(row.tenant_id, row.identity_id, row.id);
            Ok((name, settle(&row.state, row.id)?))
        })
        .collect()
}

fn photo_name(tenant: Uuid, identity: Uuid, photo: Uuid) -> PhotoName {
    PhotoName {
        tenant: TenantId(tenant),
        identity: IdentityId(identity),
        photo: PhotoId(photo),
    }
}
