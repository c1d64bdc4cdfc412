//! Sliders, the Base-LoRA, candidates and their likeness.

use likeness_bundle::{Bundle, pocket};
use likeness_domain::{coefficients::Coefficients, embedding::FaceEmbedding, render::RenderSpec};
use likeness_face::arcface_input;
use likeness_test_support::fixture;

use super::{
    Job, Slide,
    likeness::likeness,
    models::Models,
    stack::same_person,
    tests::{job, models, paint, person, pixels, render},
};
use crate::device::ComputeArgs;

fn one(models: &mut Models, job: Job) -> Vec<u8> {
    let ends = paint(models, vec![job]);
    pixels(ends[0].as_ref().unwrap()).remove(0)
}

fn coefficients(models: &Models, seed: u64) -> Coefficients {
    person(models, seed).remove(0).0
}

fn slide(models: &Models, scale: f32) -> Vec<Slide> {
    vec![Slide {
        before: coefficients(models, 11),
        after: coefficients(models, 12),
        scale,
    }]
}

#[test]
fn a_slider_moves_the_picture_both_ways_and_nothing_at_zero() {
    let mut models = models(1);
    let spec = render(&models);
    for sets in [Vec::new(), person(&models, 1)] {
        let mut at = |scale: Option<f32>| {
            let sliders = scale.map_or_else(Vec::new, |scale| slide(&models, scale));
            let job = Job {
                sliders,
                ..job(spec.clone(), sets.clone()).0
            };
            one(&mut models, job)
        };
        let [there, back, zero] = [0.7, -0.7, 0.0].map(|scale| at(Some(scale)));
        let plain = at(None);
        assert_ne!(there, plain);
        assert_ne!(back, plain);
        assert_ne!(there, back);
        assert_eq!(zero, plain);
    }
}

#[test]
fn sliders_and_scales_tell_people_apart() {
    let models = models(1);
    let spec = render(&models);
    let with = |sliders, base, base_scale| {
        let spec = RenderSpec {
            base_scale,
            ..spec.clone()
        };
        Job {
            sliders,
            base,
            ..job(spec, person(&models, 1)).0
        }
    };
    let plain = with(Vec::new(), Vec::new(), 0.0);
    assert!(same_person(&plain, &with(Vec::new(), Vec::new(), 0.0)));
    assert!(!same_person(
        &plain,
        &with(slide(&models, 0.5), Vec::new(), 0.0)
    ));
    let (half, more) = (
        with(slide(&models, 0.5), Vec::new(), 0.0),
        with(slide(&models, 0.6), Vec::new(), 0.0),
    );
    assert!(same_person(&half, &half) && !same_person(&half, &more));
    let based = |scale| with(Vec::new(), person(&models, 2), scale);
    assert!(same_person(&based(0.5), &based(0.5)));
    assert!(!same_person(&based(0.5), &based(0.6)));
    assert!(!same_person(&based(0.5), &plain));
}

#[test]
fn a_base_lora_is_applied_where_the_bundle_has_one() {
    let dir = tempfile::tempdir().unwrap();
    pocket::make(dir.path(), 0).unwrap();
    pocket::add_base(dir.path()).unwrap();
    let bundle = Bundle::open(dir.path()).unwrap();
    let compute = ComputeArgs::default().open().unwrap();
    let mut based = Models::load(bundle, &compute, 1).unwrap();
    assert!(based.summary().unwrap().base);
    assert!(!models(1).summary().unwrap().base);
    let spec = render(&based);
    let sets = person(&based, 1);
    let mut at = |base_scale: f32, base| {
        let spec = RenderSpec {
            base_scale,
            ..spec.clone()
        };
        let job = Job {
            base,
            ..job(spec, sets.clone()).0
        };
        one(&mut based, job)
    };
    let plain = at(0.0, Vec::new());
    let base = vec![(sets[0].0.clone(), 1.0)];
    assert_eq!(at(0.0, base.clone()), plain);
    let (half, whole) = (at(0.5, base.clone()), at(1.0, base));
    assert!(half != plain && whole != plain && half != whole);
}

#[test]
fn of_candidates_without_a_face_the_first_is_kept() {
    let mut models = models(4);
    let plain = RenderSpec {
        image_count: 2,
        ..render(&models)
    };
    let best = RenderSpec {
        best_of: 3,
        ..plain.clone()
    };
    let sets = person(&models, 1);
    let (order, mut steps) = job(best.clone(), sets.clone());
    let ends = paint(&mut models, vec![order, job(plain.clone(), sets).0]);
    let [kept, alone] = [0, 1].map(|at| ends[at].as_ref().unwrap());
    assert_eq!(pixels(kept), pixels(alone));
    for (image, seed) in [plain.seed, plain.seed + 1].into_iter().enumerate() {
        let told = &kept.images[image].1;
        assert_eq!((told.seed, told.likeness), (seed, None));
    }
    let mut last = (0, 0);
    while let Ok((progress, _)) = steps.try_recv() {
        assert_eq!((progress.image_count, progress.steps), (2, 3 * best.steps));
        assert!((progress.image, progress.step) > last, "{progress:?}");
        last = (progress.image, progress.step);
    }
    assert_eq!(last, (1, 3 * best.steps), "told to the end");
}

#[test]
fn a_face_is_as_like_itself_as_can_be() {
    let models = models(1);
    let photo = image::open(fixture("astronaut.png")).unwrap().to_rgb8();
    let faces = models.faces.recognizer().unwrap();
    let found = faces.detector.detect(&photo).unwrap();
    let face = faces.face(&photo, &found[0]).unwrap();
    let embedding = faces
        .recognizer
        .embed(&arcface_input(&photo, &face))
        .unwrap();
    let own = FaceEmbedding::new(embedding.to_vec()).unwrap();
    let same = likeness(faces, &photo, &own).unwrap().unwrap();
    assert!(same > 0.999, "{same}");
    let away = FaceEmbedding::new(embedding.map(|value| -value).to_vec()).unwrap();
    let opposite = likeness(faces, &photo, &away).unwrap().unwrap();
    assert!(opposite < -0.999, "{opposite}");
    let grey = image::RgbImage::from_pixel(256, 256, image::Rgb([128; 3]));
    assert_eq!(likeness(faces, &grey, &own).unwrap(), None);
    let (unknown, _) = job(render(&models), person(&models, 1));
    assert_eq!(
        models.likeness(&unknown, &photo),
        None,
        "nobody to compare with"
    );
    let known = Job {
        reference: Some(own),
        ..unknown
    };
    assert_eq!(models.likeness(&known, &photo), Some(same));
}

#[test]
fn candidates_need_face_models_and_a_score_does_not() {
    let dir = tempfile::tempdir().unwrap();
    pocket::make(dir.path(), 0).unwrap();
    let bundle = Bundle::open(dir.path()).unwrap();
    std::fs::remove_file(bundle.face().unwrap().recognizer).unwrap();
    let compute = ComputeArgs::default().open().unwrap();
    let mut models = Models::load(bundle, &compute, 1).unwrap();
    let spec = render(&models);
    let best = RenderSpec {
        best_of: 2,
        ..spec.clone()
    };
    let known = |spec| Job {
        reference: FaceEmbedding::new(vec![1.0, 0.0]).ok(),
        ..job(spec, Vec::new()).0
    };
    let ends = paint(&mut models, vec![known(best), known(spec)]);
    assert!(matches!(
        ends[0],
        Err(super::Failure::Permanent {
            reason: "FACE_MODELS_NOT_LOADED",
            ..
        })
    ));
    assert_eq!(ends[1].as_ref().unwrap().images[0].1.likeness, None);
}
