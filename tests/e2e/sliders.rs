//! Sliders, the Base-LoRA and candidates, through the real services.

use std::{path::PathBuf, sync::OnceLock};

use anyhow::Result;
use image::{RgbImage, imageops};
use likeness_wire::v1::{self, slider_service_client::SliderServiceClient};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::stage::{App, Keyed, Stage, astronaut, keyed, pocket, reason, small};

/// A tenant's view of sliders, too.
struct Sliding {
    app: App,
    sliders: SliderServiceClient<Keyed>,
}

impl Sliding {
    async fn new(stage: &Stage, display_name: &str) -> Result<Self> {
        let app = stage.tenant(display_name).await?;
        let channel = keyed(&stage.endpoint, &app.key).await?;
        Ok(Self {
            app,
            sliders: SliderServiceClient::new(channel),
        })
    }

    async fn create(&mut self, before: &str, after: &str) -> Result<v1::Slider, Status> {
        self.create_once(before, after, "").await
    }

    async fn create_once(
        &mut self,
        before: &str,
        after: &str,
        request_id: &str,
    ) -> Result<v1::Slider, Status> {
        let slider = v1::Slider {
            display_name: "older".to_owned(),
            before: before.to_owned(),
            after: after.to_owned(),
            ..Default::default()
        };
        let request = v1::CreateSliderRequest {
            slider: Some(slider),
            request_id: request_id.to_owned(),
            ..Default::default()
        };
        let answer = self.sliders.create_slider(request).await?;
        Ok(answer.into_inner().slider.unwrap())
    }

    async fn get(&mut self, name: &str) -> Result<v1::Slider, Status> {
        let name = name.to_owned();
        let answer = self
            .sliders
            .get_slider(v1::GetSliderRequest { name })
            .await?;
        Ok(answer.into_inner().slider.unwrap())
    }

    async fn delete(&mut self, name: &str) -> Result<(), Status> {
        let name = name.to_owned();
        let request = v1::DeleteSliderRequest { name };
        self.sliders.delete_slider(request).await.map(drop)
    }

    async fn listed(&mut self) -> Result<Vec<String>> {
        let mut request = v1::ListSlidersRequest {
            page_size: 2,
            ..Default::default()
        };
        let mut names = Vec::new();
        loop {
            let page = self
                .sliders
                .list_sliders(request.clone())
                .await?
                .into_inner();
            names.extend(page.sliders.into_iter().map(|slider| slider.name));
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                return Ok(names);
            }
        }
    }

    /// An identity that is READY from one photo, and that photo's name.
    async fn person(&mut self, photo: &RgbImage) -> Result<(v1::Identity, String)> {
        let identity = self.app.identity().await?;
        let photos = self.app.enrol(&identity.name, vec![png(photo)]).await?;
        anyhow::ensure!(photos[0].state() == v1::PhotoState::Accepted, "{photos:?}");
        Ok((identity, photos[0].name.clone()))
    }

    async fn pixels(&mut self, render: v1::Render) -> Result<RgbImage> {
        Ok(self.app.picture(render).await?.pixels)
    }
}

fn photo() -> RgbImage {
    image::load_from_memory(&astronaut()).unwrap().to_rgb8()
}

fn mirrored() -> RgbImage {
    imageops::flip_horizontal(&photo())
}

fn png(picture: &RgbImage) -> Vec<u8> {
    let mut file = std::io::Cursor::new(Vec::new());
    picture
        .write_to(&mut file, image::ImageFormat::Png)
        .unwrap();
    file.into_inner()
}

fn sliding(render: v1::Render, sliders: &[(&str, f32)]) -> v1::Render {
    let sliders = sliders.iter().map(|(slider, scale)| v1::ScaledSlider {
        slider: (*slider).to_owned(),
        scale: *scale,
    });
    v1::Render {
        sliders: sliders.collect(),
        ..render
    }
}

/// The pocket bundle with a Base-LoRA, made once for all tests.
fn pocket_with_base() -> PathBuf {
    static BASED: OnceLock<PathBuf> = OnceLock::new();
    BASED
        .get_or_init(|| {
            let dir = pocket().with_file_name("pocket-base");
            // Of an earlier run; it may have been made from other weights.
            let _ = std::fs::remove_dir_all(&dir);
            likeness_bundle::pocket::make(&dir, 0).unwrap();
            likeness_bundle::pocket::add_base(&dir).unwrap();
            dir
        })
        .clone()
}

fn wrong_fields(status: &Status) -> Vec<String> {
    let details = status.get_error_details();
    let violations = details.bad_request().unwrap().field_violations.iter();
    violations.map(|wrong| wrong.field.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slider_of_photos_or_of_people_moves_a_picture_both_ways() -> Result<()> {
    let stage = Stage::start().await?;
    let mut ours = Sliding::new(&stage, "photo app").await?;
    let (one, first) = ours.person(&photo()).await?;
    let (other, second) = ours.person(&mirrored()).await?;
    let of_photos = ours.create(&first, &second).await?;
    assert_eq!((&of_photos.before, &of_photos.after), (&first, &second));
    let of_people = ours.create(&one.name, &other.name).await?;
    assert_eq!(
        (&of_people.before, &of_people.after),
        (&one.name, &other.name)
    );
    assert_eq!(ours.get(&of_photos.name).await?, of_photos);

    let plain = ours.pixels(small(&one)).await?;
    let of_photos = of_photos.name.as_str();
    let at = |scale| sliding(small(&one), &[(of_photos, scale)]);
    let there = ours.app.picture(at(0.7)).await?;
    assert_eq!(there.render.sliders, at(0.7).sliders, "as it was asked for");
    let back = ours.pixels(at(-0.7)).await?;
    assert_ne!(there.pixels, plain);
    assert_ne!(back, plain);
    assert_ne!(there.pixels, back);
    assert_eq!(ours.pixels(at(0.0)).await?, plain, "nothing is moved");
    // Each person has one photo: the same pair.
    let same = sliding(small(&one), &[(&of_people.name, 0.7)]);
    assert_eq!(ours.pixels(same).await?, there.pixels);

    // Beside a blend, several at once, and with nobody.
    let mut blend = small(&one);
    blend.identities.extend(small(&other).identities);
    let moved = sliding(blend.clone(), &[(of_photos, 1.0), (&of_people.name, -0.5)]);
    assert_ne!(ours.pixels(moved).await?, ours.pixels(blend).await?);
    let nobody = v1::Render {
        identities: Vec::new(),
        ..small(&one)
    };
    let moved = sliding(nobody.clone(), &[(of_photos, 1.0)]);
    assert_ne!(ours.pixels(moved).await?, ours.pixels(nobody).await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slider_is_made_once_for_its_request_and_listed_until_it_is_deleted() -> Result<()> {
    let stage = Stage::start().await?;
    let mut ours = Sliding::new(&stage, "photo app").await?;
    let (one, first) = ours.person(&photo()).await?;
    let (_, second) = ours.person(&mirrored()).await?;
    let made = ours.create_once(&first, &second, "a").await?;
    assert_eq!(ours.create_once(&first, &second, "a").await?, made);
    let other = ours.create_once(&second, &first, "a").await.unwrap_err();
    assert_eq!(other.code(), Code::AlreadyExists);
    let more = [
        ours.create(&first, &second).await?.name,
        ours.create(&second, &first).await?.name,
    ];
    let listed = ours.listed().await?;
    assert_eq!(listed, [made.name.as_str(), &more[0], &more[1]]);
    ours.delete(&made.name).await?;
    assert_eq!(ours.listed().await?, more);
    for status in [
        ours.get(&made.name).await.unwrap_err(),
        ours.delete(&made.name).await.unwrap_err(),
        ours.app
            .create(sliding(small(&one), &[(&made.name, 1.0)]))
            .await
            .unwrap_err(),
    ] {
        assert_eq!(status.code(), Code::NotFound);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_slider_can_be_made_from_is_refused() -> Result<()> {
    let stage = Stage::start().await?;
    let mut ours = Sliding::new(&stage, "photo app").await?;
    let (one, first) = ours.person(&photo()).await?;
    for (before, after, field) in [
        ("", first.as_str(), "slider.before"),
        (&first, "tenants/x/sliders/y", "slider.after"),
        (&first, &first, "slider.after"),
        (&one.name, &one.name, "slider.after"),
    ] {
        let status = ours.create(before, after).await.unwrap_err();
        assert_eq!(wrong_fields(&status), [field], "{before} {after}");
    }
    let empty = ours.app.identity().await?;
    let status = ours.create(&first, &empty.name).await.unwrap_err();
    assert_eq!(reason(&status), "IDENTITY_NOT_READY");
    let grey = RgbImage::from_pixel(256, 256, image::Rgb([128; 3]));
    let refused = ours.app.enrol(&empty.name, vec![png(&grey)]).await?;
    let status = ours.create(&first, &refused[0].name).await.unwrap_err();
    assert_eq!(reason(&status), "PHOTO_NOT_ACCEPTED");
    let silent = ours
        .app
        .identities
        .create_identity(v1::CreateIdentityRequest::default())
        .await?
        .into_inner()
        .identity
        .unwrap();
    ours.app.enrol(&silent.name, vec![astronaut()]).await?;
    let status = ours.create(&silent.name, &first).await.unwrap_err();
    assert_eq!(reason(&status), "CONSENT_MISSING");

    let made = ours.create(&one.name, &first).await?;
    let render = |scales: &[f32]| {
        let sliders: Vec<_> = scales.iter().map(|s| (made.name.as_str(), *s)).collect();
        sliding(small(&one), &sliders)
    };
    let status = ours.app.create(render(&[0.5, 2.5, f32::NAN])).await;
    let expected = ["render.sliders[1].scale", "render.sliders[2].scale"];
    assert_eq!(wrong_fields(&status.unwrap_err()), expected);
    let status = ours.app.create(render(&[0.5; 9])).await.unwrap_err();
    assert_eq!(wrong_fields(&status), ["render.sliders"]);
    let status = ours.app.create(sliding(small(&one), &[("x", 1.0)])).await;
    assert_eq!(
        wrong_fields(&status.unwrap_err()),
        ["render.sliders[0].slider"]
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn sliders_of_another_tenant_are_not_there() -> Result<()> {
    let stage = Stage::start().await?;
    let mut ours = Sliding::new(&stage, "our app").await?;
    let mut theirs = Sliding::new(&stage, "their app").await?;
    let (one, first) = ours.person(&photo()).await?;
    let (_, second) = ours.person(&mirrored()).await?;
    let made = ours.create(&first, &second).await?;
    let (own, _) = theirs.person(&photo()).await?;
    for status in [
        theirs.get(&made.name).await.unwrap_err(),
        theirs.delete(&made.name).await.unwrap_err(),
        theirs.create(&first, &second).await.unwrap_err(),
        theirs.create(&own.name, &one.name).await.unwrap_err(),
        theirs
            .app
            .create(sliding(small(&own), &[(&made.name, 1.0)]))
            .await
            .unwrap_err(),
    ] {
        assert_eq!(status.code(), Code::NotFound, "{status:?}");
    }
    // Under a name of their own neither.
    let forged = made.name.replace(&ours.app.tenant, &theirs.app.tenant);
    assert_eq!(
        theirs.get(&forged).await.unwrap_err().code(),
        Code::NotFound
    );
    assert_eq!(
        theirs.delete(&forged).await.unwrap_err().code(),
        Code::NotFound
    );
    assert!(theirs.listed().await?.is_empty());
    assert_eq!(ours.get(&made.name).await?, made);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_person_is_left_in_a_slider() -> Result<()> {
    let stage = Stage::start().await?;
    let mut ours = Sliding::new(&stage, "photo app").await?;
    let (shown, _) = ours.person(&photo()).await?;
    let (one, first) = ours.person(&photo()).await?;
    let (other, second) = ours.person(&mirrored()).await?;
    let of_people = ours.create(&one.name, &other.name).await?;
    let of_photos = ours.create(&first, &second).await?;
    let kept = ours.create(&shown.name, &other.name).await?;
    stage.worker.stop();
    stage.workers(0).await?;
    let waiting = ours
        .app
        .create(sliding(small(&shown), &[(&of_photos.name, 1.0)]))
        .await?;

    let request = v1::DeletePhotoRequest { name: first };
    ours.app.identities.delete_photo(request).await?;
    assert_eq!(ours.listed().await?, [kept.name.as_str()]);
    for gone in [&of_people, &of_photos] {
        let status = ours.get(&gone.name).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound);
    }
    let later = ours
        .app
        .create(sliding(small(&shown), &[(&kept.name, 1.0)]))
        .await?;
    let request = v1::DeleteIdentityRequest {
        name: other.name.clone(),
        ..Default::default()
    };
    ours.app.identities.delete_identity(request).await?;
    assert!(ours.listed().await?.is_empty());
    // Both lead to the one who was deleted.
    for render in [&later, &waiting] {
        let told = ours.app.get(&render.name).await?;
        assert_eq!(told.error.unwrap().reason, "IDENTITY_DELETED");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_render_does_not_slide_to_what_was_erased() -> Result<()> {
    let stage = Stage::start().await?;
    let mut ours = Sliding::new(&stage, "photo app").await?;
    let (shown, _) = ours.person(&photo()).await?;
    let (_, first) = ours.person(&photo()).await?;
    let (_, second) = ours.person(&mirrored()).await?;
    let slider = ours.create(&first, &second).await?;
    stage.worker.stop();
    stage.workers(0).await?;
    let render = sliding(small(&shown), &[(&slider.name, 1.0)]);
    let waiting = ours.app.create(render.clone()).await?;
    let request = v1::DeletePhotoRequest { name: second };
    ours.app.identities.delete_photo(request).await?;
    likeness_render::Render::from_args(stage.settings.render())
        .await?
        .spawn(&stage.lifecycle);
    let last = ours.app.watch(&waiting.name).await?.last.unwrap();
    assert_eq!(last.state(), v1::RenderState::Failed);
    assert_eq!(last.error.unwrap().reason, "COEFFICIENTS_GONE");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_lora_is_refused_where_there_is_none() -> Result<()> {
    let stage = Stage::start().await?;
    let mut ours = Sliding::new(&stage, "photo app").await?;
    let (one, _) = ours.person(&photo()).await?;
    let based = |base_scale, identities: Vec<v1::WeightedIdentity>| v1::Render {
        base_scale: Some(base_scale),
        identities,
        ..small(&one)
    };
    let people = small(&one).identities;
    let status = ours
        .app
        .create(based(0.5, people.clone()))
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::FailedPrecondition, "BASE_NOT_SERVED")
    );
    assert_eq!(wrong_fields(&status), ["render.base_scale"]);
    let plain = ours.pixels(small(&one)).await?;
    assert_eq!(ours.pixels(based(0.0, people.clone())).await?, plain);
    for (scale, people) in [(2.5, people), (0.5, Vec::new())] {
        let status = ours.app.create(based(scale, people)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(wrong_fields(&status), ["render.base_scale"]);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_lora_of_the_same_photos_changes_the_picture() -> Result<()> {
    let stage = Stage::start_with(pocket_with_base()).await?;
    let mut ours = Sliding::new(&stage, "photo app").await?;
    let (one, _) = ours.person(&photo()).await?;
    let (other, second) = ours.person(&mirrored()).await?;
    let based = |base_scale, of: &v1::Identity| v1::Render {
        base_scale: Some(base_scale),
        ..small(of)
    };
    let plain = ours.pixels(small(&one)).await?;
    assert_eq!(ours.pixels(based(0.0, &one)).await?, plain);
    let half = ours.app.picture(based(0.5, &one)).await?;
    assert_eq!(half.render.base_scale, Some(0.5));
    let whole = ours.pixels(based(1.0, &one)).await?;
    assert!(half.pixels != plain && whole != plain && half.pixels != whole);
    assert_eq!(ours.pixels(based(0.5, &one)).await?, half.pixels);
    // A blend, and everything at once.
    let mut blend = based(0.5, &one);
    blend.identities.extend(small(&other).identities);
    let slider = ours.create(&one.name, &second).await?;
    let all = v1::Render {
        best_of: Some(1),
        ..sliding(blend.clone(), &[(&slider.name, 0.5)])
    };
    assert_ne!(ours.pixels(blend).await?, ours.pixels(all).await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_candidates_as_many_images_come_as_were_asked_for() -> Result<()> {
    let stage = Stage::start().await?;
    let mut ours = Sliding::new(&stage, "photo app").await?;
    let (one, _) = ours.person(&photo()).await?;
    let best = |images, best_of| v1::Render {
        image_count: Some(images),
        best_of: Some(best_of),
        ..small(&one)
    };
    let done = ours.app.picture(best(2, 3)).await?.render;
    assert_eq!((done.images.len(), done.best_of), (2, Some(3)));
    for (place, image) in (0..).zip(&done.images) {
        let candidates = [0, 1, 2].map(|candidate| 7 + place + 2 * candidate);
        assert!(candidates.contains(&image.seed), "{}", image.seed);
        assert!(
            image
                .likeness
                .is_none_or(|likeness| (-1.0..=1.0).contains(&likeness))
        );
    }
    let plain = ours.app.picture(small(&one)).await?.render;
    assert_eq!(plain.best_of, Some(1));

    for (images, best_of) in [(1, 0), (1, 9), (8, 5)] {
        let status = ours.app.create(best(images, best_of)).await.unwrap_err();
        assert_eq!(wrong_fields(&status), ["render.best_of"]);
    }
    let nobody = v1::Render {
        identities: Vec::new(),
        ..best(1, 2)
    };
    let mut blend = best(1, 2);
    blend.identities.extend(small(&one).identities);
    for render in [nobody, blend] {
        let status = ours.app.create(render).await.unwrap_err();
        assert_eq!(wrong_fields(&status), ["render.best_of"]);
    }
    let mut cost = async |render: v1::Render| {
        let request = v1::CreateRenderRequest {
            render: Some(render),
            validate_only: true,
            ..Default::default()
        };
        let answer = ours.app.renders.create_render(request).await?.into_inner();
        let cost = answer.estimate.unwrap().cost.unwrap();
        Ok::<_, Status>(cost.seconds as f64 + f64::from(cost.nanos) / 1e9)
    };
    let (many, few) = (cost(best(4, 8)).await?, cost(best(4, 1)).await?);
    assert!(many > few, "{many} {few}");
    Ok(())
}
