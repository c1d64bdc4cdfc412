//! Renders that start from a picture, and second passes over faces.

use std::sync::Arc;

use image::{Rgb, RgbImage, imageops};
use likeness_bundle::{Bundle, pocket};
use likeness_domain::render::{RenderSpec, Strength};
use likeness_sdxl::Init;
use likeness_test_support::fixture;
use tokio::sync::oneshot;

use super::{
    Failure, Job, Order,
    faces::Painting,
    group::tests::spec,
    models::Models,
    tests::{job, models, paint, person, pixels, render},
};
use crate::device::ComputeArgs;

/// Colours that run across the picture.
fn picture() -> RgbImage {
    RgbImage::from_fn(64, 64, |x, y| Rgb([x as u8 * 4, y as u8 * 4, 90]))
}

fn starting(spec: &RenderSpec, strength: f64) -> Job {
    let spec = RenderSpec {
        init_strength: Strength::try_from(strength).ok(),
        ..spec.clone()
    };
    let init = Init {
        picture: Arc::new(picture()),
        strength,
    };
    Job {
        init: Some(init),
        ..job(spec, Vec::new()).0
    }
}

fn one(models: &mut Models, job: Job) -> Vec<u8> {
    let ends = paint(models, vec![job]);
    pixels(ends[0].as_ref().unwrap()).remove(0)
}

#[test]
fn progress_counts_the_steps_that_are_taken() {
    let mut models = models(1);
    let spec = RenderSpec {
        steps: 20,
        ..render(&models)
    };
    for strength in [0.05, 0.29, 0.35, 1.0] {
        let (plain, mut steps) = job(spec.clone(), Vec::new());
        let starting = Job {
            progress: plain.progress,
            ..starting(&spec, strength)
        };
        let taken = starting.spec.steps_taken();
        one(&mut models, starting);
        let mut told = Vec::new();
        while let Ok((progress, _)) = steps.try_recv() {
            assert_eq!(progress.steps, taken, "{strength}");
            told.push(progress.step);
        }
        assert!(told.into_iter().eq(1..=taken), "{strength}");
    }
}

#[test]
fn renders_from_different_steps_on_do_not_disturb_each_other() {
    let mut models = models(4);
    let spec = RenderSpec {
        steps: 4,
        ..render(&models)
    };
    let jobs = || {
        let [far, near] = [1.0, 0.5].map(|strength| starting(&spec, strength));
        vec![
            far,
            job(spec.clone(), Vec::new()).0,
            near,
            starting(&spec, 0.5),
        ]
    };
    let ends = paint(&mut models, jobs());
    let together: Vec<_> = ends
        .iter()
        .map(|end| pixels(end.as_ref().unwrap()).remove(0))
        .collect();
    for (job, together) in jobs().into_iter().zip(&together) {
        assert_eq!(one(&mut models, job), *together);
    }
    assert_ne!(
        together[0], together[1],
        "the picture counts even at full strength"
    );
    assert_ne!(together[0], together[2]);
    assert_eq!(together[2], together[3]);
}

/// The fixture photo, small within grey.
fn small_face() -> RgbImage {
    let photo = image::open(fixture("astronaut.png")).unwrap().to_rgb8();
    let photo = imageops::resize(&photo, 256, 256, imageops::FilterType::Triangle);
    let mut scene = RgbImage::from_pixel(512, 512, Rgb([128; 3]));
    imageops::replace(&mut scene, &photo, 128, 128);
    scene
}

fn detailed(models: &Models, seed: i64, scene: &RgbImage) -> Result<RgbImage, Failure> {
    let spec = RenderSpec {
        seed,
        face_strength: Strength::try_from(0.4).ok(),
        ..render(models)
    };
    let order = Order::new(job(spec, Vec::new()).0, oneshot::channel().0);
    let request = models.request(&order.job, 0)?;
    let painting = Painting {
        order: &order,
        request: &request,
        unmerged: None,
    };
    models.detail_faces(&painting, scene.clone())
}

#[test]
fn a_second_pass_changes_a_small_face_and_nothing_else() {
    let models = models(1);
    let scene = small_face();
    let found = models.faces.detector().unwrap().detect(&scene).unwrap();
    assert_eq!(found.len(), 1, "one face in the scene");
    let [left, top, right, bottom] = found[0].bbox;
    let side = (right - left).max(bottom - top);
    assert!(side < 128.0, "small: {side}");
    let after = detailed(&models, 3, &scene).unwrap();
    let (cx, cy) = (f32::midpoint(left, right), f32::midpoint(top, bottom));
    let mut changed = 0;
    for (x, y, pixel) in after.enumerate_pixels() {
        let far = (x as f32 - cx).abs().max((y as f32 - cy).abs()) > side * 0.9 + 1.0;
        let same = pixel == scene.get_pixel(x, y);
        assert!(same || !far, "{x} {y} lies outside the face's crop");
        changed += usize::from(!same);
    }
    assert!(changed as f32 > side * side, "{changed} pixels changed");
    assert_eq!(detailed(&models, 3, &scene).unwrap(), after);
    assert_ne!(detailed(&models, 4, &scene).unwrap(), after);
}

#[test]
fn a_picture_without_a_small_face_stays_as_it_is() {
    let mut models = models(1);
    let photo = image::open(fixture("astronaut.png")).unwrap().to_rgb8();
    let close = imageops::crop_imm(&photo, 150, 20, 150, 190).to_image();
    assert_eq!(detailed(&models, 3, &close).unwrap(), close);
    let spec = render(&models);
    let sets = person(&models, 1);
    let plain = one(&mut models, job(spec.clone(), sets.clone()).0);
    let asked = RenderSpec {
        face_strength: Strength::try_from(0.4).ok(),
        ..spec
    };
    assert_eq!(one(&mut models, job(asked, sets).0), plain);
}

#[test]
fn without_a_detector_only_what_needs_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    pocket::make(dir.path(), 0).unwrap();
    let manifest = dir.path().join("bundle.toml");
    let text = std::fs::read_to_string(&manifest).unwrap();
    let named = text.replace("builtin = \"frontal\"", "detector = \"away.onnx\"");
    assert_ne!(named, text);
    std::fs::write(&manifest, named).unwrap();
    let bundle = Bundle::open(dir.path()).unwrap();
    let spec = RenderSpec {
        model: bundle.name().to_owned(),
        ..spec()
    };
    let compute = ComputeArgs::default().open().unwrap();
    let mut models = Models::load(bundle, &compute, 1).unwrap();
    let asked = RenderSpec {
        face_strength: Strength::try_from(0.4).ok(),
        ..spec.clone()
    };
    let jobs = [asked, spec].map(|spec| job(spec, Vec::new()).0);
    let ends = paint(&mut models, jobs.into());
    assert!(matches!(
        ends[0],
        Err(Failure::Permanent {
            reason: "FACE_DETECTOR_NOT_LOADED",
            ..
        })
    ));
    assert!(ends[1].is_ok());
}
