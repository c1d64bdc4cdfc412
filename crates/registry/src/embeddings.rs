//! The sealed face embeddings of accepted photos.

use likeness_domain::{
    Error, PhotoId, TenantId,
    embedding::FaceEmbedding,
    names::{IdentityName, PhotoName},
};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    error::database,
    sealing::{KeyRing, SealedEmbedding, SealingContext},
};

/// Stores an accepted photo's embedding, in the transaction that accepts it.
///
/// # Errors
/// The database fails.
pub async fn insert(
    conn: &mut PgConnection,
    photo: PhotoId,
    encoder: &str,
    sealed: &SealedEmbedding,
) -> Result<(), Error> {
    sqlx::query!(
        "INSERT INTO photo_embeddings (photo_id, encoder, sealing_key, sealed)
         VALUES ($1, $2, $3, $4)",
        photo.0,
        encoder,
        sealed.key_id,
        sealed.sealed
    )
    .execute(conn)
    .await
    .map_err(database)?;
    Ok(())
}

/// Opens the embeddings of the identity's other accepted photos by the same encoder. Until the transaction ends no other
/// photo of the identity is compared, so that of two at the same time one sees the other.
///
/// # Errors
/// The database fails; an internal one if an embedding does not open.
pub async fn of_other_photos(
    conn: &mut PgConnection,
    keys: &KeyRing,
    photo: &PhotoName,
    encoder: &str,
) -> Result<Vec<FaceEmbedding>, Error> {
    let PhotoName {
        tenant, identity, ..
    } = *photo;
    lock(conn, IdentityName { tenant, identity }).await?;
    let rows = sqlx::query_as!(
        EmbeddingRow,
        "SELECT photo_id, sealing_key, photo_embeddings.sealed FROM photo_embeddings
         JOIN photos ON photos.id = photo_id
         WHERE tenant_id = $1 AND identity_id = $2 AND photo_id <> $3 AND encoder = $4
             AND state = 'ACCEPTED'
         ORDER BY photo_id",
        tenant.0,
        identity.0,
        photo.photo.0,
        encoder
    )
    .fetch_all(conn)
    .await
    .map_err(database)?;
    open(keys, IdentityName { tenant, identity }, encoder, rows)
}

/// Opens the embeddings of those of an identity's accepted photos that have one by this encoder.
///
/// # Errors
/// The database fails; an internal one if an embedding does not open.
pub async fn of_photos(
    conn: &mut PgConnection,
    keys: &KeyRing,
    identity: IdentityName,
    photos: &[PhotoId],
    encoder: &str,
) -> Result<Vec<FaceEmbedding>, Error> {
    let ids: Vec<Uuid> = photos.iter().map(|photo| photo.0).collect();
    let rows = sqlx::query_as!(
        EmbeddingRow,
        "SELECT photo_id, sealing_key, photo_embeddings.sealed FROM photo_embeddings
         JOIN photos ON photos.id = photo_id
         WHERE tenant_id = $1 AND identity_id = $2 AND photo_id = ANY ($3) AND encoder = $4
             AND state = 'ACCEPTED'
         ORDER BY photo_id",
        identity.tenant.0,
        identity.identity.0,
        &ids,
        encoder
    )
    .fetch_all(conn)
    .await
    .map_err(database)?;
    open(keys, identity, encoder, rows)
}

struct EmbeddingRow {
    photo_id: Uuid,
    sealing_key: String,
    sealed: Vec<u8>,
}

fn open(
    keys: &KeyRing,
    identity: IdentityName,
    encoder: &str,
    rows: Vec<EmbeddingRow>,
) -> Result<Vec<FaceEmbedding>, Error> {
    let open = |row: EmbeddingRow| {
        let context = SealingContext {
            tenant: identity.tenant,
            identity: identity.identity,
            photo: PhotoId(row.photo_id),
            encoder,
        };
        let sealed = SealedEmbedding {
            key_id: row.sealing_key,
            sealed: row.sealed,
        };
        keys.open_embedding(&context, &sealed)
    };
    rows.into_iter().map(open).collect()
}

async fn lock(conn: &mut PgConnection, name: IdentityName) -> Result<(), Error> {
    let (TenantId(tenant), identity): (TenantId, Uuid) = (name.tenant, name.identity.0);
    sqlx::query_scalar!(
        "SELECT id FROM identities WHERE tenant_id = $1 AND id = $2 FOR NO KEY UPDATE",
        tenant,
        identity
    )
    .fetch_optional(conn)
    .await
    .map_err(database)?;
    Ok(())
}
