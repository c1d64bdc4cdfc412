//! The sealed coefficients of accepted photos.

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

async fn load_sealed(
    conn: &mut PgConnection,
    tenant: TenantId,
    identity: IdentityId,
    photos: &[PhotoId],
    encoder: &str,
) -> Result<HashMap<PhotoId, SealedCoefficients>, Error> {
    let ids: Vec<Uuid> = photos.iter().map(|photo| photo.0).collect();
    let rows = sqlx::query!(
        "SELECT photo_id, encoder, tokens, k, sealing_key, sealed FROM photo_coefficients
         JOIN photos ON photos.id = photo_id
         WHERE tenant_id = $1 AND identity_id = $2 AND photo_id = ANY($3) AND encoder = $4
             AND state = 'ACCEPTED'",
        tenant.0,
        identity.0,
        &ids,
        encoder
    )
    .fetch_all(conn)
    .await
    .map_err(database)?;
    let size = |size: i32, column, id| {
        u32::try_from(size).map_err(|_| corrupt("photo_coefficients", column, id))
    };
    rows.into_iter()
        .map(|row| {
            let sealed = SealedCoefficients {
                encoder: row.encoder,
                tokens: size(row.tokens, "tokens", row.photo_id)?,
                k: size(row.k, "k", row.photo_id)?,
                key_id: row.sealing_key,
                sealed: row.sealed,
            };
            Ok((PhotoId(row.photo_id), sealed))
        })
        .collect()
}

fn gone(tenant: TenantId, identity: IdentityId) -> Error {
    let name = IdentityName { tenant, identity };
    let message = format!("a photo of {name} is gone, or has no coefficients of this encoder");
    Error::new(ErrorKind::FailedPrecondition, "COEFFICIENTS_GONE", message)
}
