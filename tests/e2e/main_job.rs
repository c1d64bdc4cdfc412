//! From a photo to pictures, and what decides them.

use anyhow::Result;
use likeness_wire::v1;

use crate::stage::{App, Stage, download, long, small};

#[tokio::test(flavor = "multi_thread")]
async fn a_photo_becomes_pictures() -> Result<()> {
    let stage = Stage::start().await?;
    let mut app = stage.tenant("photo app").await?;
    let identity = app.astronaut().await?;
    let ready = v1::GetIdentityRequest {
        name: identity.name.clone(),
    };
    let ready = app
        .identities
        .get_identity(ready)
        .await?
        .into_inner()
        .identity
        .unwrap();
    assert_eq!(ready.state(), v1::IdentityState::Ready);

    let render = app
        .create(v1::Render {
            image_count: Some(2),
            ..small(&identity)
        })
        .await?;
    assert_eq!(render.state(), v1::RenderState::Queued);
    let watched = app.watch(&render.name).await?;
    let render = watched.last.as_ref().unwrap();
    assert_eq!(
        render.state(),
        v1::RenderState::Succeeded,
        "{:?}",
        render.error
    );
    assert_eq!((render.attempt, render.images.len()), (1, 2));
    assert!(render.timings.is_some());
    for (image, seed) in render.images.iter().zip(7..) {
        let bytes = download(&image.url).await?;
        assert_eq!(bytes.len() as i64, image.size_bytes);
        let picture = image::load_from_memory(&bytes)?;
        assert_eq!((picture.width(), picture.height()), (64, 64));
        assert_eq!(image.seed, seed);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_tells_states_steps_and_previews() -> Result<()> {
    let stage = Stage::start().await?;
    let mut app = stage.tenant("photo app").await?;
    let identity = app.astronaut().await?;
    let render = app
        .create(v1::Render {
            steps: Some(60),
            ..small(&identity)
        })
        .await?;
    let watched = app.watch(&render.name).await?;
    assert!(watched.steps > 0 && watched.previews > 0);
    assert_eq!(watched.states.last(), Some(&v1::RenderState::Succeeded));
    // A watch of a render that is over tells its last state at once.
    let again = app.watch(&render.name).await?;
    assert_eq!(again.states, [v1::RenderState::Succeeded]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_picture_depends_on_person_scale_and_seed_alone() -> Result<()> {
    let stage = Stage::start().await?;
    let mut app = stage.tenant("photo app").await?;
    let one = app.astronaut().await?;
    let other = mirrored(&mut app).await?;
    let first = app.picture(small(&one)).await?;
    let same = app.picture(small(&one)).await?;
    assert_eq!(
        first.pixels, same.pixels,
        "the same request, the same pixels"
    );
    assert_eq!(first.render.images[0].sha256, same.render.images[0].sha256);

    let changed = [
        ("another person", small(&other)),
        (
            "another scale",
            v1::Render {
                id_scale: Some(0.2),
                ..small(&one)
            },
        ),
        (
            "nobody",
            v1::Render {
                identities: Vec::new(),
                ..small(&one)
            },
        ),
        (
            "another seed",
            v1::Render {
                seed: Some(8),
                ..small(&one)
            },
        ),
        ("a blend", blend(&one, &other)),
    ];
    for (what, render) in changed {
        let picture = app.picture(render).await?;
        assert!(
            mean_difference(&first.pixels, &picture.pixels) > 0.5,
            "{what}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_output_format_is_what_it_says() -> Result<()> {
    let stage = Stage::start().await?;
    let mut app = stage.tenant("photo app").await?;
    let identity = app.astronaut().await?;
    let formats = [
        (v1::ImageFormat::Png, image::ImageFormat::Png, "image/png"),
        (
            v1::ImageFormat::Jpeg,
            image::ImageFormat::Jpeg,
            "image/jpeg",
        ),
        (
            v1::ImageFormat::Webp,
            image::ImageFormat::WebP,
            "image/webp",
        ),
    ];
    for (format, expected, content_type) in formats {
        let wanted = v1::Render {
            output_format: format.into(),
            ..small(&identity)
        };
        let picture = app.picture(wanted).await?;
        assert_eq!(image::guess_format(&picture.bytes)?, expected);
        assert_eq!(picture.render.images[0].content_type, content_type);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_render_past_its_time_expires() -> Result<()> {
    let stage = Stage::start().await?;
    let mut app = stage.tenant("photo app").await?;
    let identity = app.astronaut().await?;
    let soon = likeness_domain::Clock::now(&likeness_domain::SystemClock)
        + chrono::TimeDelta::milliseconds(900);
    let expire_time = Some(likeness_wire::time::to_proto(soon));
    let render = app
        .create(v1::Render {
            expire_time,
            ..long(&identity)
        })
        .await?;
    let watched = app.watch(&render.name).await?;
    assert_eq!(watched.last.unwrap().state(), v1::RenderState::Expired);
    Ok(())
}

fn blend(one: &v1::Identity, other: &v1::Identity) -> v1::Render {
    let part = |identity: &v1::Identity| v1::WeightedIdentity {
        identity: identity.name.clone(),
        weight: Some(0.5),
    };
    v1::Render {
        identities: vec![part(one), part(other)],
        ..small(one)
    }
}

/// An identity of the fixture photo, turned left to right.
async fn mirrored(app: &mut App) -> Result<v1::Identity> {
    let photo = image::load_from_memory(&crate::stage::astronaut())?.fliph();
    let mut png = std::io::Cursor::new(Vec::new());
    photo.write_to(&mut png, image::ImageFormat::Png)?;
    let identity = app.identity().await?;
    let photos = app.enrol(&identity.name, vec![png.into_inner()]).await?;
    anyhow::ensure!(photos[0].state() == v1::PhotoState::Accepted, "{photos:?}");
    Ok(identity)
}

fn mean_difference(a: &image::RgbImage, b: &image::RgbImage) -> f64 {
    let sum: u64 = a
        .as_raw()
        .iter()
        .zip(b.as_raw())
        .map(|(a, b)| u64::from(a.abs_diff(*b)))
        .sum();
    sum as f64 / a.as_raw().len() as f64
}
