//! Sliders: directions between two people or photos. Like a render, a slider is pinned to photos and holds no coefficients of
//! its own; it goes with any of its photos.

use std::fmt;

use chrono::{DateTime, Utc};
use likeness_domain::{
    Error, ErrorKind, IdentityId, PhotoId, SliderId, TenantId, names::SliderName, page::Page,
};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    error::{breaks, database},
    tenants,
};

/// One end of a slider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliderEnd {
    /// Whose coefficients.
    pub identity: IdentityId,
    /// The photo that was named, where one was.
    pub photo: Option<PhotoId>,
    /// The photos whose coefficients are averaged: the named one, or those that the identity had.
    pub photos: Vec<PhotoId>,
}

/// A slider as stored.
#[derive(Clone, PartialEq, Eq)]
pub struct Slider {
    /// Its id.
    pub id: SliderId,
    /// Whose.
    pub tenant_id: TenantId,
    /// Its name for people.
    pub display_name: String,
    /// Where it starts.
    pub before: SliderEnd,
    /// Where it leads.
    pub after: SliderEnd,
    /// When it was created.
    pub created_at: DateTime<Utc>,
}

impl Slider {
    /// Its resource name.
    pub const fn name(&self) -> SliderName {
        SliderName {
            tenant: self.tenant_id,
            slider: self.id,
        }
    }
}

/// Says nothing of its name for people.
impl fmt::Debug for Slider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slider({})", self.id)
    }
}

/// A slider to create. Its people's consent has been checked, and that its photos have coefficients of one encoder.
pub struct NewSlider {
    /// Its id.
    pub id: SliderId,
    /// Whose.
    pub tenant_id: TenantId,
    /// Its name for people.
    pub display_name: String,
    /// Where it starts.
    pub before: SliderEnd,
    /// Where it leads.
    pub after: SliderEnd,
}

/// What a slider's end is to be made from: an identity, or one photo of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SliderSource {
    /// The identity, or the photo's.
    pub identity: IdentityId,
    /// The photo, if it is one.
    pub photo: Option<PhotoId>,
}

struct SliderRow {
    id: Uuid,
    tenant_id: Uuid,
    display_name: String,
    before_identity: Uuid,
    before_photo: Option<Uuid>,
    before_photos: Vec<Uuid>,
    after_identity: Uuid,
    after_photo: Option<Uuid>,
    after_photos: Vec<Uuid>,
    created_at: DateTime<Utc>,
}

impl From<SliderRow> for Slider {
    fn from(row: SliderRow) -> Self {
        let end = |identity: Uuid, photo: Option<Uuid>, photos: Vec<Uuid>| SliderEnd {
            identity: identity.into(),
            photo: photo.map(PhotoId),
            photos: photos.into_iter().map(PhotoId).collect(),
        };
        Self {
            id: row.id.into(),
            tenant_id: row.tenant_id.into(),
            display_name: row.display_name,
            before: end(row.before_identity, row.before_photo, row.before_photos),
            after: end(row.after_identity, row.after_photo, row.after_photos),
            created_at: row.created_at,
        }
    }
}

/// The sliders' columns with their photos, once, with what follows.
macro_rules! select_sliders {
    ($rest:tt, $($argument:expr),*) => {
        sqlx::query_as!(
            SliderRow,
            r#"SELECT id, tenant_id, display_name, before_identity, before_photo,
                      ARRAY(SELECT photo_id FROM slider_photos p
                            WHERE p.slider_id = sliders.id AND side = 'BEFORE'
                            ORDER BY photo_id) AS "before_photos!",
                      after_identity, after_photo,
                      ARRAY(SELECT photo_id FROM slider_photos p
                            WHERE p.slider_id = sliders.id AND side = 'AFTER'
                            ORDER BY photo_id) AS "after_photos!",
                      created_at
               FROM sliders "# + $rest,
            $($argument),*
        )
    };
}

/// The encoder to make a slider with: one of which both ends have an accepted photo with coefficients, that of the latest
/// bundle if several do. `None` if none does.
///
/// # Errors
/// The database fails.
pub async fn common_encoder(
    conn: &mut PgConnection,
    tenant: TenantId,
    before: SliderSource,
    after: SliderSource,
) -> Result<Option<String>, Error> {
    sqlx::query_scalar!(
        "SELECT c.encoder FROM photos p
         JOIN photo_coefficients c ON c.photo_id = p.id
         LEFT JOIN bundles b ON b.encoder = c.encoder
         WHERE p.tenant_id = $1 AND p.state = 'ACCEPTED'
             AND p.identity_id = $2 AND ($3::uuid IS NULL OR p.id = $3)
             AND EXISTS (
                 SELECT FROM photos q JOIN photo_coefficients d ON d.photo_id = q.id
                 WHERE q.tenant_id = $1 AND q.state = 'ACCEPTED'
                     AND q.identity_id = $4 AND ($5::uuid IS NULL OR q.id = $5)
                     AND d.encoder = c.encoder)
         GROUP BY c.encoder
         ORDER BY max(b.announced_at) DESC NULLS LAST, max(c.created_at) DESC, c.encoder
         LIMIT 1",
        tenant.0,
        before.identity.0,
        before.photo.map(|photo| photo.0),
        after.identity.0,
        after.photo.map(|photo| photo.0)
    )
    .fetch_optional(conn)
    .await
    .map_err(database)
}

/// Creates a slider, in the caller's transaction.
///
/// # Errors
/// `NotFound` if the tenant has been deleted; `FailedPrecondition` (`SOURCE_GONE`) if a photo or an identity that it is made
/// from has been deleted meanwhile.
pub async fn create(
    conn: &mut PgConnection,
    new: &NewSlider,
    now: DateTime<Utc>,
) -> Result<Slider, Error> {
    let ids = |photos: &[PhotoId]| photos.iter().map(|photo| photo.0).collect::<Vec<_>>();
    sqlx::query!(
        "WITH slider AS (
             INSERT INTO sliders (id, tenant_id, display_name, before_identity, before_photo,
                                  after_identity, after_photo, created_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING id)
         INSERT INTO slider_photos (slider_id, side, photo_id)
         SELECT slider.id, 'BEFORE', photo FROM slider, unnest($9::uuid[]) AS photo
         UNION ALL
         SELECT slider.id, 'AFTER', photo FROM slider, unnest($10::uuid[]) AS photo",
        new.id.0,
        new.tenant_id.0,
        new.display_name,
        new.before.identity.0,
        new.before.photo.map(|photo| photo.0),
        new.after.identity.0,
        new.after.photo.map(|photo| photo.0),
        now,
        &ids(&new.before.photos),
        &ids(&new.after.photos)
    )
    .execute(&mut *conn)
    .await
    .map_err(|error| refused(error, new.tenant_id))?;
    get(conn, new.tenant_id, new.id).await
}

/// One slider.
///
/// # Errors
/// `NotFound`, also for another tenant's.
pub async fn get(conn: &mut PgConnection, tenant: TenantId, id: SliderId) -> Result<Slider, Error> {
    let row = select_sliders!("WHERE tenant_id = $1 AND id = $2", tenant.0, id.0);
    let row = row.fetch_optional(conn).await.map_err(database)?;
    row.map(Slider::from).ok_or_else(|| not_found(tenant, id))
}

/// One page of a tenant's sliders, the oldest first.
///
/// # Errors
/// The database fails.
pub async fn list(
    conn: &mut PgConnection,
    tenant: TenantId,
    page: &Page,
) -> Result<Vec<Slider>, Error> {
    let rows = select_sliders!(
        "WHERE tenant_id = $1 AND id > $2 ORDER BY id LIMIT $3",
        tenant.0,
        page.after.unwrap_or(Uuid::nil()),
        i64::from(page.size)
    )
    .fetch_all(conn)
    .await
    .map_err(database)?;
    Ok(rows.into_iter().map(Slider::from).collect())
}

/// Deletes a slider. Renders that were taken in with it keep what they are pinned to.
///
/// # Errors
/// `NotFound`, also for another tenant's.
pub async fn delete(conn: &mut PgConnection, tenant: TenantId, id: SliderId) -> Result<(), Error> {
    let done = sqlx::query!(
        "DELETE FROM sliders WHERE tenant_id = $1 AND id = $2",
        tenant.0,
        id.0
    )
    .execute(conn)
    .await
    .map_err(database)?;
    if done.rows_affected() == 0 {
        return Err(not_found(tenant, id));
    }
    Ok(())
}

fn not_found(tenant: TenantId, slider: SliderId) -> Error {
    Error::not_found("slider", SliderName { tenant, slider })
}

fn refused(error: sqlx::Error, tenant: TenantId) -> Error {
    if breaks(&error, "sliders_tenant_id_fkey") {
        return tenants::not_found(tenant);
    }
    let sources = [
        "sliders_before_identity_fkey",
        "sliders_after_identity_fkey",
        "slider_photos_photo_id_fkey",
    ];
    if sources.iter().any(|constraint| breaks(&error, constraint)) {
        let message = "a photo or an identity that the slider is made from has just been deleted";
        return Error::new(ErrorKind::FailedPrecondition, "SOURCE_GONE", message);
    }
    database(error)
}
