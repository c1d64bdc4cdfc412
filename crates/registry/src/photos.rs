//! Photos: how each stands and what enrolment said of it. How workers get them is in [`queue`].

use std::fmt;

use chrono::{DateTime, Utc};
use likeness_domain::{
    Error, IdentityId, PhotoId, PhotoState, TenantId,
    names::PhotoName,
    page::Page,
    photo::{FaceChoice, QualityReport, Rejection},
};
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    erasures,
    error::{breaks, corrupt, database},
    identities,
};

pub mod queue;

/// One uploaded picture of an identity.
#[derive(Clone, PartialEq)]
pub struct Photo {
    /// Its id.
    pub id: PhotoId,
    /// Whose.
    pub tenant_id: TenantId,
    /// Of which identity.
    pub identity_id: IdentityId,
    /// Where it stands.
    pub state: PhotoState,
    /// Which face to enrol where it shows several.
    pub face_choice: FaceChoice,
    /// The media type of its bytes, as found.
    pub content_type: String,
    /// The upload's size.
    pub size_bytes: i64,
    /// What was measured, once a face was chosen.
    pub quality: Option<QualityReport>,
    /// Why it was refused, when it was.
    pub rejection: Option<Rejection>,
    /// How often a worker claimed it; the present one's fencing token.
    pub attempt: i32,
    /// When it was added.
    pub created_at: DateTime<Utc>,
    /// When it reached its last state.
    pub finished_at: Option<DateTime<Utc>>,
}

impl Photo {
    /// Its name.
    pub fn name(&self) -> PhotoName {
        PhotoName {
            tenant: self.tenant_id,
            identity: self.identity_id,
            photo: self.id,
        }
    }
}

impl fmt::Debug for Photo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Photo({}, {}, attempt {})",
            self.id, self.state, self.attempt
        )
    }
}

/// A photo to add.
pub struct NewPhoto {
    /// Its id.
    pub id: PhotoId,
    /// Whose.
    pub tenant_id: TenantId,
    /// Of which identity.
    pub identity_id: IdentityId,
    /// Which face to enrol where it shows several.
    pub face_choice: FaceChoice,
    /// The media type of its bytes, as found.
    pub content_type: String,
    /// The upload's size.
    pub size_bytes: i64,
    /// Of the upload.
    pub sha256: [u8; 32],
    /// Why it is refused at once; such a photo never waits for a worker.
    pub rejection: Option<Rejection>,
}

struct PhotoRow {
    id: Uuid,
    tenant_id: Uuid,
    identity_id: Uuid,
    state: String,
    face_choice: String,
    content_type: String,
    size_bytes: i64,
    quality: Option<Value>,
    rejection_reason: Option<String>,
    rejection_message: Option<String>,
    attempt: i32,
    created_at: DateTime<Utc>,
    finished_at: Option<DateTime<Utc>>,
}

impl TryFrom<PhotoRow> for Photo {
    type Error = Error;

    fn try_from(row: PhotoRow) -> Result<Self, Error> {
        let bad = |column| corrupt("photos", column, row.id);
        let quality = row.quality.map(serde_json::from_value).transpose();
        let reason = row
            .rejection_reason
            .map(|reason| reason.parse())
            .transpose();
        Ok(Self {
            id: PhotoId(row.id),
            tenant_id: TenantId(row.tenant_id),
            identity_id: IdentityId(row.identity_id),
            state: row.state.parse().map_err(|_| bad("state"))?,
            face_choice: row.face_choice.parse().map_err(|_| bad("face_choice"))?,
            content_type: row.content_type,
            size_bytes: row.size_bytes,
            quality: quality.map_err(|_| bad("quality"))?,
            rejection: reason
                .map_err(|_| bad("rejection_reason"))?
                .zip(row.rejection_message)
                .map(|(reason, message)| Rejection { reason, message }),
            attempt: row.attempt,
            created_at: row.created_at,
            finished_at: row.finished_at,
        })
    }
}

/// The photos' columns, once, with what follows the table's name.
macro_rules! select_photos {
    ($rest:tt, $($argument:expr),*) => {
        sqlx::query_as!(
            PhotoRow,
            "SELECT id, tenant_id, identity_id, state, face_choice, content_type, size_bytes,
                    quality, rejection_reason, rejection_message, attempt, created_at, finished_at
             FROM photos " + $rest,
            $($argument),*
        )
    };
}

/// Adds a photo: PENDING, or REJECTED where it is refused at once.
///
/// # Errors
/// `NotFound` if the tenant has no such identity.
pub async fn insert(
    conn: &mut PgConnection,
    new: &NewPhoto,
    now: DateTime<Utc>,
) -> Result<Photo, Error> {
    let rejection = new.rejection.as_ref();
    let state = if rejection.is_some() {
        PhotoState::Rejected
    } else {
        PhotoState::Pending
    };
    sqlx::query!(
        "INSERT INTO photos (id, tenant_id, identity_id, state, face_choice, content_type,
             size_bytes, sha256, rejection_reason, rejection_message, created_at, finished_at)
         SELECT $1, tenant_id, id, $4, $5, $6, $7, $8, $9, $10, $11, $12
         FROM identities WHERE tenant_id = $2 AND id = $3",
        new.id.0,
        new.tenant_id.0,
        new.identity_id.0,
        state.as_str(),
        new.face_choice.as_str(),
        new.content_type,
        new.size_bytes,
        new.sha256.as_slice(),
        rejection.map(|rejection| rejection.reason.as_str()),
        rejection.map(|rejection| &rejection.message),
        now,
        rejection.map(|_| now)
    )
    .execute(&mut *conn)
    .await
    .map_err(|error| refused(error, new))?;
    let name = PhotoName {
        tenant: new.tenant_id,
        identity: new.identity_id,
        photo: new.id,
    };
    find(conn, &name)
        .await?
        .ok_or_else(|| identities::not_found(new.tenant_id, new.identity_id))
}

/// One photo.
///
/// # Errors
/// `NotFound`, also for another tenant's or another identity's.
pub async fn get(conn: &mut PgConnection, name: &PhotoName) -> Result<Photo, Error> {
    find(conn, name)
        .await?
        .ok_or_else(|| Error::not_found("photo", name))
}

async fn find(conn: &mut PgConnection, name: &PhotoName) -> Result<Option<Photo>, Error> {
    let query = select_photos!(
        "WHERE tenant_id = $1 AND identity_id = $2 AND id = $3",
        name.tenant.0,
        name.identity.0,
        name.photo.0
    );
    query
        .fetch_optional(conn)
        .await
        .map_err(database)?
        .map(Photo::try_from)
        .transpose()
}

/// Those of `ids` that the tenant has, the oldest first.
///
/// # Errors
/// The database fails.
pub async fn get_many(
    conn: &mut PgConnection,
    tenant: TenantId,
    ids: &[PhotoId],
) -> Result<Vec<Photo>, Error> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let rows = select_photos!(
        "WHERE tenant_id = $1 AND id = ANY($2) ORDER BY id",
        tenant.0,
        &ids
    )
    .fetch_all(conn)
    .await
    .map_err(database)?;
    rows.into_iter().map(Photo::try_from).collect()
}

/// One page of an identity's photos, the oldest first.
///
/// # Errors
/// The database fails.
pub async fn list(
    conn: &mut PgConnection,
    tenant: TenantId,
    identity: IdentityId,
    page: &Page,
) -> Result<Vec<Photo>, Error> {
    let rows = select_photos!(
        "WHERE tenant_id = $1 AND identity_id = $2 AND id > $3 ORDER BY id LIMIT $4",
        tenant.0,
        identity.0,
        page.after.unwrap_or(Uuid::nil()),
        i64::from(page.size)
    )
    .fetch_all(conn)
    .await
    .map_err(database)?;
    rows.into_iter().map(Photo::try_from).collect()
}

/// Deletes a photo with its coefficients, in the caller's transaction, and asks for its objects to be erased.
///
/// # Errors
/// `NotFound`, also for another tenant's or another identity's.
pub async fn delete(
    conn: &mut PgConnection,
    name: &PhotoName,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let done = sqlx::query!(
        "DELETE FROM photos WHERE tenant_id = $1 AND identity_id = $2 AND id = $3",
        name.tenant.0,
        name.identity.0,
        name.photo.0
    )
    .execute(&mut *conn)
    .await
    .map_err(database)?;
    if done.rows_affected() == 0 {
        return Err(Error::not_found("photo", name));
    }
    erasures::request(conn, &format!("{name}/"), now).await
}

/// The identity was deleted while its photo was added.
fn refused(error: sqlx::Error, new: &NewPhoto) -> Error {
    if breaks(&error, "photos_identity_id_fkey") {
        return identities::not_found(new.tenant_id, new.identity_id);
    }
    database(error)
}
