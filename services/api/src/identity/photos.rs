//! Handlers of photos.

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use likeness_blob::{ObjectKey, Prefix};
use likeness_domain::{
    Error, PhotoId, TenantId,
    names::IdentityName,
    page::Page,
    photo::{FaceChoice, Rejection, RejectionReason},
};
use likeness_registry::{
    acquire, erasures, identities,
    photos::{self, NewPhoto, Photo},
};
use likeness_wire::{identity as wire, v1};
use ring::digest::{SHA256, digest};
use uuid::Uuid;

use super::convert;
use crate::{app::App, events, replay};

/// Bytes whose rows have not been inserted by then never will be.
const ORPHANED_AFTER: TimeDelta = TimeDelta::hours(1);

/// Takes whole photos in; each is enrolled, or refused, by itself.
pub async fn add(
    app: &App,
    tenant: TenantId,
    request: v1::AddPhotosRequest,
) -> Result<v1::AddPhotosResponse, Error> {
    let identity = convert::own_identity(tenant, "parent", &request.parent)?;
    let most = app.limits.photos_per_request;
    if request.photos.is_empty() || request.photos.len() > most {
        let expected = format!(
            "expected 1 to {most} photos, found {}",
            request.photos.len()
        );
        return Err(Error::invalid_field("photos", expected));
    }
    let face = wire::face_choice(request.face)?;
    let rows = take_in(
        app,
        identity,
        "AddPhotos",
        &request.request_id,
        face,
        request.photos,
    )
    .await?;
    Ok(v1::AddPhotosResponse {
        photos: rows.iter().map(convert::photo).collect(),
    })
}

/// Stores photos and their rows, or returns those that the same request made before.
///
/// The bytes go to storage first: a row without its bytes would be a photo lost, bytes without a row are swept.
pub async fn take_in(
    app: &App,
    identity: IdentityName,
    method: &'static str,
    request_id: &str,
    face: FaceChoice,
    photos: Vec<Bytes>,
) -> Result<Vec<Photo>, Error> {
    let mut parts = vec![
        identity.identity.0.as_bytes().as_slice(),
        face.as_str().as_bytes(),
    ];
    parts.extend(photos.iter().map(AsRef::as_ref));
    let replay =
        replay::Request::new(Some(identity.tenant), method, request_id.to_owned(), &parts)?;
    if let Some(rows) = made_before(app, &replay, identity).await? {
        return Ok(rows);
    }
    let new: Vec<NewPhoto> = photos
        .iter()
        .map(|bytes| new_photo(app, identity, face, bytes))
        .collect();
    let orphaned_at = expect_orphans(app, &new).await?;
    store(app, &new, photos).await?;
    let rows = insert(app, &replay, identity, &new, orphaned_at).await?;
    events::wake_dispatch(app).await;
    events::identity_changed(app, identity.identity).await;
    Ok(rows)
}

async fn made_before(
    app: &App,
    replay: &replay::Request,
    identity: IdentityName,
) -> Result<Option<Vec<Photo>>, Error> {
    // Never committed: only a look, before the bytes are moved.
    let mut tx = app.begin().await?;
    identities::get(&mut tx, identity.tenant, identity.identity).await?;
    match replay.begin(&mut tx, app).await? {
        Some(ids) => photos::get_many(&mut tx, identity.tenant, &photo_ids(&ids))
            .await
            .map(Some),
        None => Ok(None),
    }
}

fn photo_ids(ids: &[Uuid]) -> Vec<PhotoId> {
    ids.iter().copied().map(PhotoId::from).collect()
}

fn new_photo(app: &App, identity: IdentityName, face: FaceChoice, bytes: &[u8]) -> NewPhoto {
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(digest(&SHA256, bytes).as_ref());
    NewPhoto {
        id: PhotoId::generate(app.clock.as_ref()),
        tenant_id: identity.tenant,
        identity_id: identity.identity,
        face_choice: face,
        content_type: content_type(bytes).to_owned(),
        size_bytes: i64::try_from(bytes.len()).unwrap_or(i64::MAX),
        sha256,
        rejection: too_large(app.limits.photo_bytes, bytes.len()),
    }
}

fn too_large(limit: usize, size: usize) -> Option<Rejection> {
    (size > limit).then(|| Rejection {
        reason: RejectionReason::TooLarge,
        message: format!("expected at most {limit} bytes; send a smaller copy of the photo"),
    })
}

/// What the bytes look like; enrolment looks closer.
fn content_type(bytes: &[u8]) -> &'static str {
    match bytes {
        [0xff, 0xd8, 0xff, ..] => "image/jpeg",
        [0x89, b'P', b'N', b'G', ..] => "image/png",
        [
            b'R',
            b'I',
            b'F',
            b'F',
            _,
            _,
            _,
            _,
            b'W',
            b'E',
            b'B',
            b'P',
            ..,
        ] => "image/webp",
        _ => "application/octet-stream",
    }
}

/// Puts the photos' folders on the list of what is erased, for a time when their rows have long been inserted: inserting
/// strikes them off, and whatever fails in between leaves nothing behind.
async fn expect_orphans(app: &App, new: &[NewPhoto]) -> Result<DateTime<Utc>, Error> {
    let orphaned_at = app.clock.now() + ORPHANED_AFTER;
    let mut tx = app.begin().await?;
    for prefix in prefixes(new) {
        erasures::request(&mut tx, &prefix, orphaned_at).await?;
    }
    app.commit(tx).await?;
    Ok(orphaned_at)
}

fn prefixes(new: &[NewPhoto]) -> Vec<String> {
    new.iter()
        .map(|photo| Prefix::photo(photo.tenant_id, photo.identity_id, photo.id))
        .map(|prefix| prefix.as_str().to_owned())
        .collect()
}

async fn store(app: &App, new: &[NewPhoto], photos: Vec<Bytes>) -> Result<(), Error> {
    for (photo, bytes) in new.iter().zip(photos) {
        if photo.rejection.is_none() {
            app.blob
                .put(&original(photo), bytes, &photo.content_type)
                .await?;
        }
    }
    Ok(())
}

fn original(photo: &NewPhoto) -> ObjectKey {
    ObjectKey::PhotoOriginal {
        tenant: photo.tenant_id,
        identity: photo.identity_id,
        photo: photo.id,
    }
}

async fn insert(
    app: &App,
    replay: &replay::Request,
    identity: IdentityName,
    new: &[NewPhoto],
    orphaned_at: DateTime<Utc>,
) -> Result<Vec<Photo>, Error> {
    let mut tx = app.begin().await?;
    let rows = match replay.begin(&mut tx, app).await? {
        // A concurrent twin was first: its photos count, and these bytes are swept.
        Some(ids) => photos::get_many(&mut tx, identity.tenant, &photo_ids(&ids)).await?,
        None => {
            let mut rows = Vec::with_capacity(new.len());
            for photo in new {
                rows.push(photos::insert(&mut tx, photo, app.clock.now()).await?);
            }
            let ids: Vec<Uuid> = new.iter().map(|photo| photo.id.0).collect();
            replay.record(&mut tx, &ids).await?;
            erasures::done(&mut tx, &prefixes(new), orphaned_at).await?;
            rows
        }
    };
    app.commit(tx).await?;
    Ok(rows)
}

/// Returns one photo.
pub async fn get(
    app: &App,
    tenant: TenantId,
    request: &v1::GetPhotoRequest,
) -> Result<v1::GetPhotoResponse, Error> {
    let name = convert::own_photo(tenant, &request.name)?;
    let mut conn = acquire(&app.pool).await?;
    let row = photos::get(&mut conn, &name).await?;
    Ok(v1::GetPhotoResponse {
        photo: Some(convert::photo(&row)),
    })
}

/// Lists a page of an identity's photos.
pub async fn list(
    app: &App,
    tenant: TenantId,
    request: &v1::ListPhotosRequest,
) -> Result<v1::ListPhotosResponse, Error> {
    let name = convert::own_identity(tenant, "parent", &request.parent)?;
    let page = Page::from_request(request.page_size, &request.page_token)?;
    let mut conn = acquire(&app.pool).await?;
    identities::get(&mut conn, tenant, name.identity).await?;
    let rows = photos::list(&mut conn, tenant, name.identity, &page).await?;
    Ok(v1::ListPhotosResponse {
        photos: rows.iter().map(convert::photo).collect(),
        next_page_token: page.next_token(&rows, |row| row.id.0),
    })
}

/// Deletes a photo with its coefficients.
pub async fn delete(
    app: &App,
    tenant: TenantId,
    request: &v1::DeletePhotoRequest,
) -> Result<v1::DeletePhotoResponse, Error> {
    let name = convert::own_photo(tenant, &request.name)?;
    let mut tx = app.begin().await?;
    photos::delete(&mut tx, &name, app.clock.now()).await?;
    app.commit(tx).await?;
    events::identity_changed(app, name.identity).await;
    Ok(v1::DeletePhotoResponse {})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_over_the_limit_is_too_large() {
        assert!(too_large(10, 10).is_none());
        assert_eq!(too_large(10, 11).unwrap().reason, RejectionReason::TooLarge);
    }

    #[test]
    fn content_types_come_from_the_bytes() {
        assert_eq!(content_type(b"\x89PNG\r\n"), "image/png");
        assert_eq!(content_type(b"RIFF\0\0\0\0WEBPVP8 "), "image/webp");
        assert_eq!(content_type(&[0xff, 0xd8, 0xff, 0xe0]), "image/jpeg");
        assert_eq!(content_type(b""), "application/octet-stream");
    }
}
