//! Render options: start pictures, and second passes over faces.

use std::io::Cursor;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use image::RgbImage;
use likeness_blob::{Blob, BlobError, ObjectKey};
use likeness_domain::names::RenderName;
use likeness_wire::v1;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::stage::{App, Stage, astronaut, download, eventually, reason};

/// A quick render that shows nobody.
fn plain() -> v1::Render {
    v1::Render {
        prompt: "a garden".to_owned(),
        seed: Some(7),
        steps: Some(20),
        width: Some(64),
        height: Some(64),
        ..Default::default()
    }
}

fn from(picture: &[u8], strength: f32) -> v1::Render {
    v1::Render {
        init_image: Some(v1::InitImage {
            image: Bytes::copy_from_slice(picture),
            strength,
        }),
        ..plain()
    }
}

fn png(picture: &RgbImage) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    picture
        .write_to(&mut file, image::ImageFormat::Png)
        .unwrap();
    file.into_inner()
}

/// The fixture photo as its negative: no picture could be less like it.
fn negative() -> Vec<u8> {
    let mut photo = image::load_from_memory(&astronaut()).unwrap().to_rgb8();
    image::imageops::invert(&mut photo);
    png(&photo)
}

fn difference(a: &RgbImage, b: &RgbImage) -> f64 {
    let levels = a.as_raw().iter().zip(b.as_raw());
    let sum: u64 = levels.map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    sum as f64 / a.as_raw().len() as f64
}

fn start_of(render: &v1::Render) -> Result<ObjectKey> {
    let name: RenderName = render.name.parse()?;
    Ok(ObjectKey::RenderStart {
        tenant: name.tenant,
        render: name.render,
    })
}

async fn is_stored(stage: &Stage, render: &v1::Render) -> Result<bool> {
    let blob = Blob::connect(&stage.settings.blob)?;
    match blob.get(&start_of(render)?, 64 << 20).await {
        Ok(_) => Ok(true),
        Err(BlobError::NotFound { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

async fn is_erased(stage: &Stage, render: &v1::Render) -> Result<()> {
    eventually(async || Ok((!is_stored(stage, render).await?).then_some(()))).await
}

/// A render that waits for long, with its start picture.
async fn waiting(app: &mut App) -> Result<v1::Render> {
    let later =
        likeness_domain::Clock::now(&likeness_domain::SystemClock) + chrono::TimeDelta::hours(1);
    let render = v1::Render {
        start_time: Some(likeness_wire::time::to_proto(later)),
        ..from(&astronaut(), 0.5)
    };
    Ok(app.create(render).await?)
}

fn wrong_fields(status: &Status) -> Vec<String> {
    assert_eq!(
        (status.code(), reason(status).as_str()),
        (Code::InvalidArgument, "INVALID_FIELD")
    );
    let details = status.get_error_details();
    let violations = details.bad_request().unwrap().field_violations.iter();
    violations.map(|wrong| wrong.field.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_decides_as_much_as_its_strength_leaves() -> Result<()> {
    let stage = Stage::start().await?;
    let mut app = stage.tenant("photo app").await?;
    let near = app.picture(from(&astronaut(), 0.05)).await?;
    let same = app.picture(from(&astronaut(), 0.05)).await?;
    assert_eq!(
        near.pixels, same.pixels,
        "the same request, the same pixels"
    );
    let echoed = near.render.init_image.as_ref().context("no strength")?;
    assert!(echoed.image.is_empty(), "pictures are input only");
    assert!((echoed.strength - 0.05).abs() < 1e-6);

    let seeded = |seed, picture: &[u8], strength| v1::Render {
        seed: Some(seed),
        ..from(picture, strength)
    };
    let other_seed = app.picture(seeded(8, &astronaut(), 0.05)).await?;
    let other_picture = app.picture(from(&negative(), 0.05)).await?;
    let by_seed = difference(&near.pixels, &other_seed.pixels);
    let by_picture = difference(&near.pixels, &other_picture.pixels);
    assert!(
        by_picture > 3.0 * by_seed,
        "near the picture it decides: {by_picture} by the picture, {by_seed} by the seed"
    );
    let far = app.picture(from(&astronaut(), 0.9)).await?;
    let by_strength = difference(&near.pixels, &far.pixels);
    assert!(by_strength > 3.0 * by_seed, "{by_strength}, {by_seed}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_picture_or_strength_is_refused_by_its_field() -> Result<()> {
    let stage = Stage::start().await?;
    let mut app = stage.tenant("photo app").await?;
    // The header of a picture with 60,000 × 60,000 pixels, which the file does not have.
    let mut bomb = png(&RgbImage::new(1, 1));
    bomb[16..20].copy_from_slice(&60_000_u32.to_be_bytes());
    bomb[20..24].copy_from_slice(&60_000_u32.to_be_bytes());
    let large = vec![0xff; (20 << 20) + 1];
    let wrong: [&[u8]; 5] = [b"", b"no picture", b"GIF89a", &bomb, &large];
    for picture in wrong {
        let status = app.create(from(picture, 0.5)).await.unwrap_err();
        assert_eq!(wrong_fields(&status), ["render.init_image.image"]);
    }
    for strength in [0.0, -1.0, 1.5, f32::NAN, 0.04] {
        let status = app.create(from(&astronaut(), strength)).await.unwrap_err();
        assert_eq!(wrong_fields(&status), ["render.init_image.strength"]);
        let render = v1::Render {
            face_detail: Some(v1::FaceDetail { strength }),
            ..plain()
        };
        let status = app.create(render).await.unwrap_err();
        assert_eq!(wrong_fields(&status), ["render.face_detail.strength"]);
    }
    let status = app.create(from(b"no picture", 2.0)).await.unwrap_err();
    assert_eq!(wrong_fields(&status).len(), 2, "all that is wrong at once");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_that_cannot_be_decoded_fails_its_render_for_good() -> Result<()> {
    let stage = Stage::start().await?;
    let mut app = stage.tenant("photo app").await?;
    let whole = astronaut();
    let render = app.create(from(&whole[..whole.len() / 2], 0.5)).await?;
    let render = app.watch(&render.name).await?.last.unwrap();
    assert_eq!(render.state(), v1::RenderState::Failed);
    let error = render.error.as_ref().unwrap();
    assert_eq!(error.reason, "START_PICTURE_UNREADABLE");
    assert_eq!(render.attempt, 1);
    is_erased(&stage, &render).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_lives_as_long_as_its_render_has_use_for_it() -> Result<()> {
    let stage = Stage::start().await?;
    let mut app = stage.tenant("photo app").await?;
    let cancelled = waiting(&mut app).await?;
    assert!(is_stored(&stage, &cancelled).await?);
    app.cancel(&cancelled.name).await?;
    is_erased(&stage, &cancelled).await?;

    let done = app.picture(from(&astronaut(), 0.05)).await?.render;
    is_erased(&stage, &done).await?;
    let images = app.get(&done.name).await?.images;
    assert!(
        !download(&images[0].url).await?.is_empty(),
        "the image stays"
    );

    let left = waiting(&mut app).await?;
    assert!(is_stored(&stage, &left).await?);
    let request = v1::DeleteTenantRequest {
        name: app.tenant.clone(),
        ..Default::default()
    };
    stage.admin().await?.delete_tenant(request).await?;
    is_erased(&stage, &left).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_is_told_from_one_with_another_picture() -> Result<()> {
    let stage = Stage::start().await?;
    let mut app = stage.tenant("photo app").await?;
    let mut ask = async |picture: &[u8], validate_only| {
        let request = v1::CreateRenderRequest {
            render: Some(from(picture, 0.5)),
            request_id: "once".to_owned(),
            validate_only,
            ..Default::default()
        };
        let answer = app.renders.create_render(request).await?;
        Ok::<_, Status>(answer.into_inner().render.unwrap())
    };
    let checked = ask(&astronaut(), true).await?;
    assert_eq!(checked.name, "");
    let first = ask(&astronaut(), false).await?;
    assert_eq!(ask(&astronaut(), false).await?.name, first.name);
    let status = ask(&negative(), false).await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists);
    // More than a message usually holds; no photo is larger.
    let noise = RgbImage::from_fn(1400, 1400, |x, y| {
        let hash =
            (x.wrapping_mul(0x9e37_79b9) ^ y.wrapping_mul(0x85eb_ca6b)).wrapping_mul(0xc2b2_ae35);
        let [_, r, g, b] = hash.to_be_bytes();
        image::Rgb([r, g, b])
    });
    let large = png(&noise);
    assert!(large.len() > 4 << 20, "{}", large.len());
    ask(&large, true).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_without_a_face_stays_as_it_is() -> Result<()> {
    let stage = Stage::start().await?;
    let mut app = stage.tenant("photo app").await?;
    let without = app.picture(plain()).await?;
    let asked = v1::Render {
        face_detail: Some(v1::FaceDetail { strength: 0.4 }),
        ..plain()
    };
    let with = app.picture(asked).await?;
    assert_eq!(
        with.render.face_detail.map(|detail| detail.strength),
        Some(0.4)
    );
    assert_eq!(without.pixels, with.pixels);
    Ok(())
}
