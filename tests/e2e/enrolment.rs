//! Photos: what is accepted, what is refused and why.

use std::{
    io::Cursor,
    path::{Path, PathBuf},
};

use anyhow::Result;
use futures::stream;
use image::{DynamicImage, ImageFormat, RgbImage, imageops};
use likeness_wire::v1::{self, PhotoRejectionReason as Reason, upload_photo_request::Part};
use tonic::Code;

use crate::stage::{App, Stage, astronaut, reason, small};

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_photo_refuses_only_itself() -> Result<()> {
    let stage = Stage::start().await?;
    let mut app = stage.tenant("photo app").await?;
    let identity = app.identity().await?;
    let refused = [
        (Reason::NotAnImage, b"no picture at all".to_vec()),
        (Reason::NotAnImage, astronaut()[..20_000].to_vec()),
        (
            Reason::UnsupportedFormat,
            b"GIF89a\x10\0\x10\0\0\0\0".to_vec(),
        ),
        (Reason::UnsupportedFormat, heic()),
        (Reason::TooLarge, bomb()),
        (Reason::TooLarge, vec![0xff; (20 << 20) + 1]),
        (
            Reason::NoFace,
            png(&RgbImage::from_pixel(300, 300, image::Rgb([90, 120, 150]))),
        ),
        (Reason::SeveralFaces, png(&twice(&portrait()))),
        (
            Reason::FaceTooSmall,
            png(&imageops::thumbnail(&portrait(), 160, 160)),
        ),
        (Reason::TooBlurry, png(&imageops::blur(&portrait(), 2.5))),
        (Reason::TooDark, png(&darker(&portrait()))),
    ];
    let photos = refused
        .iter()
        .map(|(_, photo)| photo.clone())
        .chain([astronaut()])
        .collect();
    let photos = app.enrol(&identity.name, photos).await?;
    for ((expected, _), photo) in refused.iter().zip(&photos) {
        let rejection = photo.rejection.clone().unwrap_or_default();
        assert_eq!(photo.state(), v1::PhotoState::Rejected, "{expected:?}");
        assert_eq!(rejection.reason(), *expected, "{}", rejection.message);
        assert!(!rejection.message.is_empty());
        assert_eq!(measured(photo), measured_before(*expected), "{expected:?}");
    }
    let accepted = photos.last().unwrap();
    assert_eq!(accepted.state(), v1::PhotoState::Accepted);
    let quality = accepted.quality.as_ref().unwrap();
    assert_eq!(
        (quality.width, quality.height, quality.faces_found),
        (512, 512, 1)
    );
    assert_eq!(quality.landmarks(), v1::LandmarkSource::Template);
    app.picture(small(&identity)).await?;
    Ok(())
}

/// How far the measuring came: the picture, the face.
fn measured(photo: &v1::Photo) -> (bool, bool) {
    let quality = photo.quality.as_ref();
    (
        quality.is_some_and(|quality| quality.width > 0),
        quality.is_some_and(|quality| quality.face_size > 0.0),
    )
}

/// How far it can come before a refusal for this reason.
fn measured_before(reason: Reason) -> (bool, bool) {
    match reason {
        Reason::NotAnImage | Reason::UnsupportedFormat | Reason::TooLarge => (false, false),
        Reason::NoFace | Reason::SeveralFaces => (true, false),
        _ => (true, true),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strangers_photo_is_doubted() -> Result<()> {
    let dir = tempfile::TempDir::new()?;
    let stage = Stage::start_with(strict_bundle(dir.path())?).await?;
    let mut app = stage.tenant("photo app").await?;
    let identity = app.identity().await?;
    let likeness = |photo: &v1::Photo| {
        photo
            .quality
            .as_ref()
            .and_then(|quality| quality.same_person)
    };
    let first = app.enrol(&identity.name, vec![astronaut()]).await?;
    assert_eq!(first[0].state(), v1::PhotoState::Accepted);
    assert_eq!(likeness(&first[0]), None, "there is nobody to compare with");
    // The same pixels in another file.
    let same = app.enrol(&identity.name, vec![png(&portrait())]).await?;
    assert_eq!(same[0].state(), v1::PhotoState::Accepted, "{same:?}");
    assert!(likeness(&same[0]).unwrap() > 0.999);
    let other = png(&imageops::flip_horizontal(&portrait()));
    let other = app.enrol(&identity.name, vec![other]).await?;
    let rejection = other[0].rejection.clone().unwrap_or_default();
    assert_eq!(rejection.reason(), Reason::SamePersonDoubtful);
    assert!(likeness(&other[0]).unwrap() < 0.999);
    // With the first two gone there is nothing to doubt.
    for photo in [&first[0], &same[0]] {
        let name = photo.name.clone();
        app.identities
            .delete_photo(v1::DeletePhotoRequest { name })
            .await?;
    }
    let other = png(&imageops::flip_horizontal(&portrait()));
    let alone = app.enrol(&identity.name, vec![other]).await?;
    assert_eq!(alone[0].state(), v1::PhotoState::Accepted, "{alone:?}");
    Ok(())
}

/// The pocket bundle, whose recogniser knows nobody, made to doubt whatever is not the same picture.
fn strict_bundle(dir: &Path) -> Result<PathBuf> {
    let dir = dir.join("strict");
    likeness_bundle::pocket::make(&dir, 0)?;
    let manifest = dir.join("bundle.toml");
    let text = std::fs::read_to_string(&manifest)?;
    let strict = text.replace("same_person = -1.0", "same_person = 0.999");
    anyhow::ensure!(strict.contains("same_person = 0.999"), "{text}");
    std::fs::write(&manifest, strict)?;
    Ok(dir)
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_faces_the_largest_can_be_asked_for() -> Result<()> {
    let stage = Stage::start().await?;
    let mut app = stage.tenant("photo app").await?;
    let identity = app.identity().await?;
    let photos = vec![png(&twice(&portrait()))];
    let photos = app
        .enrol_choosing(&identity.name, photos, v1::FaceChoice::Largest)
        .await?;
    assert_eq!(
        photos[0].state(),
        v1::PhotoState::Accepted,
        "{:?}",
        photos[0].rejection
    );
    assert!(photos[0].quality.as_ref().unwrap().faces_found >= 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_photo_may_come_in_chunks() -> Result<()> {
    let stage = Stage::start().await?;
    let mut app = stage.tenant("photo app").await?;
    let identity = app.identity().await?;
    let header = v1::UploadPhotoHeader {
        parent: identity.name.clone(),
        request_id: "upload 1".to_owned(),
        ..Default::default()
    };
    let bytes = astronaut();
    let mut names = Vec::new();
    for _ in 0..2 {
        let chunks = bytes
            .chunks(100_000)
            .map(|chunk| Part::Chunk(chunk.to_vec().into()));
        let parts: Vec<v1::UploadPhotoRequest> = std::iter::once(Part::Header(header.clone()))
            .chain(chunks)
            .map(|part| v1::UploadPhotoRequest { part: Some(part) })
            .collect();
        let answer = app
            .identities
            .upload_photo(stream::iter(parts))
            .await?
            .into_inner();
        names.push(answer.photo.unwrap().name);
    }
    assert_eq!(names[0], names[1], "the same upload, the same photo");
    let wrong = stream::iter([v1::UploadPhotoRequest {
        part: Some(Part::Chunk(bytes.into())),
    }]);
    let refused = app.identities.upload_photo(wrong).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_follows_its_photos() -> Result<()> {
    let stage = Stage::start().await?;
    let mut app = stage.tenant("photo app").await?;
    let identity = app.identity().await?;
    let photos = app
        .enrol(&identity.name, vec![astronaut(), b"nothing".to_vec()])
        .await?;
    let get = v1::GetIdentityRequest {
        name: identity.name.clone(),
    };
    let now = app
        .identities
        .get_identity(get.clone())
        .await?
        .into_inner()
        .identity
        .unwrap();
    let counts = now.photo_counts.unwrap();
    assert_eq!((counts.accepted, counts.rejected), (1, 1));

    let delete = v1::DeletePhotoRequest {
        name: photos[0].name.clone(),
    };
    app.identities.delete_photo(delete).await?;
    let now = app
        .identities
        .get_identity(get)
        .await?
        .into_inner()
        .identity
        .unwrap();
    assert_eq!(now.state(), v1::IdentityState::Empty);
    let refused = app.create(small(&identity)).await.unwrap_err();
    assert_eq!(reason(&refused), "IDENTITY_NOT_READY");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_rendered_without_consent() -> Result<()> {
    let stage = Stage::start().await?;
    let mut app = stage.tenant("photo app").await?;
    let request = v1::CreateIdentityRequest::default();
    let silent = app
        .identities
        .create_identity(request)
        .await?
        .into_inner()
        .identity
        .unwrap();
    app.enrol(&silent.name, vec![astronaut()]).await?;
    assert_eq!(
        reason(&app.create(small(&silent)).await.unwrap_err()),
        "CONSENT_MISSING"
    );

    // Withdrawn while a render waits: the claim finds out.
    let identity = app.astronaut().await?;
    stage.worker.stop();
    stage.workers(0).await?;
    let render = app.create(small(&identity)).await?;
    revoke(&mut app, &identity).await?;
    assert_eq!(
        reason(&app.create(small(&identity)).await.unwrap_err()),
        "CONSENT_REVOKED"
    );
    likeness_render::Render::from_args(stage.settings.render())
        .await?
        .spawn(&stage.lifecycle);
    let last = app.watch(&render.name).await?.last.unwrap();
    assert_eq!(last.state(), v1::RenderState::Failed);
    assert_eq!(last.error.unwrap().reason, "CONSENT_REVOKED");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_identity_leaves_nothing_behind() -> Result<()> {
    let stage = Stage::start().await?;
    let mut app = stage.tenant("photo app").await?;
    let identity = app.astronaut().await?;
    stage.worker.stop();
    stage.workers(0).await?;
    let render = app.create(small(&identity)).await?;
    let delete = v1::DeleteIdentityRequest {
        name: identity.name.clone(),
        ..Default::default()
    };
    app.identities.delete_identity(delete).await?;

    let last = app.get(&render.name).await?;
    assert_eq!(last.state(), v1::RenderState::Failed);
    assert_eq!(last.error.unwrap().reason, "IDENTITY_DELETED");
    let get = v1::GetIdentityRequest {
        name: identity.name.clone(),
    };
    assert_eq!(
        app.identities.get_identity(get).await.unwrap_err().code(),
        Code::NotFound
    );
    let client = stage.context.s3().client();
    crate::stage::eventually(async || {
        let objects = client
            .list_objects_v2()
            .bucket(stage.context.bucket())
            .send()
            .await?;
        Ok(objects.contents().is_empty().then_some(()))
    })
    .await
}

async fn revoke(app: &mut App, identity: &v1::Identity) -> Result<()> {
    let mut consent = identity.consent.clone().unwrap();
    consent.revoke_time = Some(likeness_wire::time::to_proto(likeness_domain::Clock::now(
        &likeness_domain::SystemClock,
    )));
    let changed = v1::Identity {
        consent: Some(consent),
        ..identity.clone()
    };
    let mask = prost_types::FieldMask {
        paths: vec!["consent".to_owned()],
    };
    // The photo counts' etag: only the identity's own fields count.
    let request = v1::UpdateIdentityRequest {
        identity: Some(changed),
        update_mask: Some(mask),
    };
    app.identities.update_identity(request).await?;
    Ok(())
}

fn portrait() -> RgbImage {
    image::load_from_memory(&astronaut()).unwrap().to_rgb8()
}

fn twice(photo: &RgbImage) -> RgbImage {
    let mut both = RgbImage::new(photo.width() * 2, photo.height());
    imageops::replace(&mut both, photo, 0, 0);
    imageops::replace(&mut both, photo, i64::from(photo.width()), 0);
    both
}

fn darker(photo: &RgbImage) -> RgbImage {
    let mut dark = photo.clone();
    dark.pixels_mut()
        .for_each(|pixel| pixel.0 = pixel.0.map(|level| level / 8));
    dark
}

fn png(picture: &RgbImage) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    DynamicImage::from(picture.clone())
        .write_to(&mut bytes, ImageFormat::Png)
        .unwrap();
    bytes.into_inner()
}

/// The header of an HEIC file.
fn heic() -> Vec<u8> {
    b"\0\0\0\x18ftypheic\0\0\0\0mif1heic".to_vec()
}

/// A small PNG whose header promises 60,000 × 60,000 pixels.
fn bomb() -> Vec<u8> {
    let mut bytes = png(&RgbImage::new(8, 8));
    bytes[16..20].copy_from_slice(&60_000u32.to_be_bytes());
    bytes[20..24].copy_from_slice(&60_000u32.to_be_bytes());
    let checksum = crc32(&bytes[12..29]).to_be_bytes();
    bytes[29..33].copy_from_slice(&checksum);
    bytes
}

/// The checksum of PNG chunks (ISO 3309), bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 {
                (crc >> 1) ^ 0xedb8_8320
            } else {
                crc >> 1
            }
        })
    })
}
