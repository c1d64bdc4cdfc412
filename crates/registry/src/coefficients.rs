//! The sealed coefficients of accepted photos, of the ID-LoRA and of the Base-LoRA where their encoder has one.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use likeness_domain::{
    Error, ErrorKind, IdentityId, PhotoId, TenantId, coefficients::StoredCoefficients,
    names::IdentityName,
};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    error::{corrupt, database},
    sealing::{KeyRing, SealedCoefficients, SealingContext},
};

/// Stores what an accepted photo's encoder predicted.
pub(crate) async fn insert(
    conn: &mut PgConnection,
    photo: PhotoId,
    sealed: &SealedCoefficients,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let size = |size: u32| i32::try_from(size).map_err(Error::internal);
    sqlx::query!(
        "INSERT INTO photo_coefficients
             (photo_id, encoder, tokens, k, sealing_key, sealed, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        photo.0,
        sealed.encoder,
        size(sealed.tokens)?,
        size(sealed.k)?,
        sealed.key_id,
        sealed.sealed,
        now
    )
    .execute(conn)
    .await
    .map_err(database)?;
    Ok(())
}

/// Stores what an accepted photo's base resampler predicted, in the transaction that accepts it.
///
/// # Errors
/// The database fails.
pub async fn insert_base(
    conn: &mut PgConnection,
    photo: PhotoId,
    sealed: &SealedCoefficients,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let size = |size: u32| i32::try_from(size).map_err(Error::internal);
    sqlx::query!(
        "INSERT INTO photo_base_coefficients
             (photo_id, encoder, tokens, k, sealing_key, sealed, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        photo.0,
        sealed.encoder,
        size(sealed.tokens)?,
        size(sealed.k)?,
        sealed.key_id,
        sealed.sealed,
        now
    )
    .execute(conn)
    .await
    .map_err(database)?;
    Ok(())
}

/// Whether each of these photos is accepted and has coefficients of this encoder.
///
/// # Errors
/// The database fails.
pub async fn have_all(
    conn: &mut PgConnection,
    photos: &[PhotoId],
    encoder: &str,
) -> Result<bool, Error> {
    let found = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM photo_coefficients
           JOIN photos ON photos.id = photo_id AND state = 'ACCEPTED'
           WHERE photo_id = ANY ($1) AND encoder = $2"#,
        &uuids(photos),
        encoder
    )
    .fetch_one(conn)
    .await
    .map_err(database)?;
    Ok(usize::try_from(found).ok() == Some(photos.len()))
}

/// Whether each of these photos has base coefficients of this encoder.
///
/// # Errors
/// The database fails.
pub async fn have_base(
    conn: &mut PgConnection,
    photos: &[PhotoId],
    encoder: &str,
) -> Result<bool, Error> {
    let found = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM photo_base_coefficients
           WHERE photo_id = ANY ($1) AND encoder = $2"#,
        &uuids(photos),
        encoder
    )
    .fetch_one(conn)
    .await
    .map_err(database)?;
    Ok(usize::try_from(found).ok() == Some(photos.len()))
}

fn uuids(photos: &[PhotoId]) -> Vec<Uuid> {
    photos.iter().map(|photo| photo.0).collect()
}

/// An identity's accepted photos that have coefficients of this encoder, the oldest first: what a render is pinned to.
///
/// # Errors
/// The database fails.
pub async fn ready_photos(
    conn: &mut PgConnection,
    identity: IdentityId,
    encoder: &str,
) -> Result<Vec<PhotoId>, Error> {
    let ids = sqlx::query_scalar!(
        "SELECT photos.id FROM photos
         JOIN photo_coefficients ON photo_id = photos.id AND encoder = $2
         WHERE identity_id = $1 AND state = 'ACCEPTED' ORDER BY photos.id",
        identity.0,
        encoder
    )
    .fetch_all(conn)
    .await
    .map_err(database)?;
    Ok(ids.into_iter().map(PhotoId).collect())
}

/// Opens the coefficients of these photos of an identity, in their order.
///
/// # Errors
/// `FailedPrecondition` (`COEFFICIENTS_GONE`) if one of the photos has none: it was deleted, or is no other's than another
/// identity's. Internal if they do not open.
pub async fn load(
    conn: &mut PgConnection,
    keys: &KeyRing,
    tenant: TenantId,
    identity: IdentityId,
    photos: &[PhotoId],
    encoder: &str,
) -> Result<Vec<StoredCoefficients>, Error> {
    let sealed = load_sealed(conn, tenant, identity, photos, encoder).await?;
    let open = |photo: &PhotoId| {
        let context = SealingContext {
            tenant,
            identity,
            photo: *photo,
            encoder,
        };
        let row = sealed.get(photo).ok_or_else(|| gone(tenant, identity))?;
        keys.open(&context, row)
    };
    photos.iter().map(open).collect()
}

/// Opens the base coefficients of these photos of an identity, in their order.
///
/// # Errors
/// As [`load`].
pub async fn load_base(
    conn: &mut PgConnection,
    keys: &KeyRing,
    tenant: TenantId,
    identity: IdentityId,
    photos: &[PhotoId],
    encoder: &str,
) -> Result<Vec<StoredCoefficients>, Error> {
    let sealed = load_sealed_base(conn, tenant, identity, photos, encoder).await?;
    let open = |photo: &PhotoId| {
        let context = SealingContext {
            tenant,
            identity,
            photo: *photo,
            encoder,
        };
        let row = sealed.get(photo).ok_or_else(|| gone(tenant, identity))?;
        keys.open_base(&context, row)
    };
    photos.iter().map(open).collect()
}

async fn load_sealed(
    conn: &mut PgConnection,
    tenant: TenantId,
    identity: IdentityId,
    photos: &[PhotoId],
    encoder: &str,
) -> Result<HashMap<PhotoId, SealedCoefficients>, Error> {
    let rows = sqlx::query_as!(
        SealedRow,
        "SELECT photo_id, encoder, tokens, k, sealing_key, sealed FROM photo_coefficients
         JOIN photos ON photos.id = photo_id
         WHERE tenant_id = $1 AND identity_id = $2 AND photo_id = ANY($3) AND encoder = $4
             AND state = 'ACCEPTED'",
        tenant.0,
        identity.0,
        &uuids(photos),
        encoder
    )
    .fetch_all(conn)
    .await
    .map_err(database)?;
    rows.into_iter()
        .map(|row| row.read("photo_coefficients"))
        .collect()
}

async fn load_sealed_base(
    conn: &mut PgConnection,
    tenant: TenantId,
    identity: IdentityId,
    photos: &[PhotoId],
    encoder: &str,
) -> Result<HashMap<PhotoId, SealedCoefficients>, Error> {
    let rows = sqlx::query_as!(
        SealedRow,
        "SELECT photo_id, encoder, tokens, k, sealing_key, sealed FROM photo_base_coefficients
         JOIN photos ON photos.id = photo_id
         WHERE tenant_id = $1 AND identity_id = $2 AND photo_id = ANY($3) AND encoder = $4
             AND state = 'ACCEPTED'",
        tenant.0,
        identity.0,
        &uuids(photos),
        encoder
    )
    .fetch_all(conn)
    .await
    .map_err(database)?;
    rows.into_iter()
        .map(|row| row.read("photo_base_coefficients"))
        .collect()
}

struct SealedRow {
    photo_id: Uuid,
    encoder: String,
    tokens: i32,
    k: i32,
    sealing_key: String,
    sealed: Vec<u8>,
}

impl SealedRow {
    fn read(self, table: &'static str) -> Result<(PhotoId, SealedCoefficients), Error> {
        let size = |size: i32, column| {
            u32::try_from(size).map_err(|_| corrupt(table, column, self.photo_id))
        };
        let sealed = SealedCoefficients {
            tokens: size(self.tokens, "tokens")?,
            k: size(self.k, "k")?,
            encoder: self.encoder,
            key_id: self.sealing_key,
            sealed: self.sealed,
        };
        Ok((PhotoId(self.photo_id), sealed))
    }
}

fn gone(tenant: TenantId, identity: IdentityId) -> Error {
    let name = IdentityName { tenant, identity };
    let message = format!("a photo of {name} is gone, or has no coefficients of this encoder");
    Error::new(ErrorKind::FailedPrecondition, "COEFFICIENTS_GONE", message)
}
