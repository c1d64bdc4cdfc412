//! What a batch does to its renders: nothing but save time.

use likeness_bundle::{Bundle, pocket};
use likeness_domain::{
    coefficients::Coefficients,
    render::{RenderProgress, RenderSpec},
};
use likeness_sdxl::TorchNoise;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::{Engine, Failure, Job, Order, Painted, group::tests::spec, intake, models::Models};
use crate::{
    device::ComputeArgs,
    stop::{Stop, StopReason},
};

/// The pocket bundle's models, painting up to `max_batch` images at a time.
pub(super) fn models(max_batch: usize) -> Models {
    let dir = tempfile::tempdir().unwrap();
    pocket::make(dir.path(), 0).unwrap();
    let bundle = Bundle::open(dir.path()).unwrap();
    Models::load(bundle, &ComputeArgs::default().open().unwrap(), max_batch).unwrap()
}

pub(super) fn render(models: &Models) -> RenderSpec {
    let model = models.summary().unwrap().name;
    RenderSpec { model, ..spec() }
}

/// A person whom the pocket bundle shows.
pub(super) fn person(models: &Models, seed: u64) -> Vec<(Coefficients, f32)> {
    let (tokens, k) = (models.basis.tokens(), models.basis.k());
    let values = TorchNoise::new(seed).draw(tokens * k);
    let coefficients = Coefficients::new(tokens, k, values).unwrap();
    vec![(coefficients.normalised(), 1.0)]
}

pub(super) type Progress = mpsc::UnboundedReceiver<(RenderProgress, Option<bytes::Bytes>)>;

pub(super) fn job(spec: RenderSpec, sets: Vec<(Coefficients, f32)>) -> (Job, Progress) {
    let (progress, steps) = mpsc::unbounded_channel();
    let stop = Stop::default();
    let job = Job {
        spec,
        sets,
        sliders: Vec::new(),
        base: Vec::new(),
        reference: None,
        init: None,
        alone: false,
        stop,
        progress,
    };
    (job, steps)
}

/// Paints jobs as one intake.
pub(super) fn paint(models: &mut Models, jobs: Vec<Job>) -> Vec<Result<Painted, Failure>> {
    let (orders, answers): (Vec<_>, Vec<_>) = jobs
        .into_iter()
        .map(|job| {
            let (answer, painted) = oneshot::channel();
            (Order::new(job, answer), painted)
        })
        .unzip();
    models.paint(orders);
    let answers = answers.into_iter();
    answers
        .map(|mut answer| answer.try_recv().unwrap())
        .collect()
}

pub(super) fn pixels(painted: &Painted) -> Vec<Vec<u8>> {
    let images = painted.images.iter();
    images
        .map(|(file, _)| image::load_from_memory(file).unwrap().to_rgb8().into_raw())
        .collect()
}

pub(super) fn alone(
    models: &mut Models,
    spec: RenderSpec,
    sets: Vec<(Coefficients, f32)>,
) -> Vec<Vec<u8>> {
    let ends = paint(models, vec![job(spec, sets).0]);
    pixels(ends[0].as_ref().unwrap())
}

fn mean_difference(a: &[u8], b: &[u8]) -> f64 {
    assert_eq!(a.len(), b.len());
    let differ = a.iter().zip(b).map(|(a, b)| f64::from(a.abs_diff(*b)));
    differ.sum::<f64>() / a.len() as f64
}

#[test]
fn several_people_in_one_batch_look_as_each_alone() {
    let mut models = models(4);
    let seeded = |seed, guidance| RenderSpec {
        seed,
        guidance,
        ..render(&models)
    };
    let specs = [seeded(1, 3.5), seeded(2, 5.0), seeded(3, 3.5)];
    let sets = [person(&models, 1), person(&models, 2), Vec::new()];
    let jobs = || {
        specs
            .clone()
            .into_iter()
            .zip(sets.clone())
            .map(|(spec, sets)| job(spec, sets).0)
            .collect::<Vec<_>>()
    };
    let apart: Vec<_> = (0..3)
        .map(|i| alone(&mut models, specs[i].clone(), sets[i].clone()))
        .collect();
    assert_ne!(apart[0], apart[1]);
    // On the CPU each person is merged in turn: the same pixels.
    let ends = paint(&mut models, jobs());
    let together: Vec<_> = ends
        .iter()
        .map(|end| pixels(end.as_ref().unwrap()))
        .collect();
    assert_eq!(together, apart);
    // Elsewhere their LoRAs stay beside the weights: rounded otherwise.
    models.mixes_people = true;
    let ends = paint(&mut models, jobs());
    for (end, apart) in ends.iter().zip(&apart) {
        let mixed = pixels(end.as_ref().unwrap());
        let mean = mean_difference(&mixed[0], &apart[0]);
        // Rounding tips single pixels over; at most one level on average is promised.
        assert!(mean < 0.1, "{mean}");
    }
}

#[test]
fn images_of_one_render_are_painted_together_and_tell_of_their_progress() {
    let mut models = models(8);
    let four = RenderSpec {
        image_count: 4,
        ..render(&models)
    };
    let sets = person(&models, 1);
    let (order, mut steps) = job(four.clone(), sets.clone());
    let ends = paint(&mut models, vec![order]);
    let painted = ends[0].as_ref().unwrap();
    for (index, image) in (0..).zip(pixels(painted)) {
        let single = RenderSpec {
            seed: four.seed + index,
            image_count: 1,
            ..four.clone()
        };
        assert_eq!(alone(&mut models, single, sets.clone())[0], image);
        assert_eq!(painted.images[index as usize].1.seed, four.seed + index);
    }
    let mut told = Vec::new();
    while let Ok((progress, preview)) = steps.try_recv() {
        assert!(preview.is_some());
        told.push((progress.image, progress.step));
    }
    assert_eq!(told, [(1, 1), (2, 2), (3, 3)]);
}

#[test]
fn one_that_is_cancelled_leaves_the_others_unharmed() {
    let mut models = models(4);
    let sets = person(&models, 1);
    let specs = [1, 2, 3].map(|seed| RenderSpec {
        seed,
        ..render(&models)
    });
    let (first, _first) = job(specs[0].clone(), sets.clone());
    let (second, mut steps) = job(specs[1].clone(), sets.clone());
    let (third, _third) = job(specs[2].clone(), sets.clone());
    third.stop.now(StopReason::HandBack);
    let stop = second.stop.clone();
    let canceller = std::thread::spawn(move || {
        let seen = steps.blocking_recv();
        stop.now(StopReason::Cancelled);
        (seen, steps)
    });
    let ends = paint(&mut models, vec![first, second, third]);
    let (seen, _steps) = canceller.join().unwrap();
    assert_eq!(seen.unwrap().0.step, 1);
    let expected = alone(&mut models, specs[0].clone(), sets);
    assert_eq!(pixels(ends[0].as_ref().unwrap()), expected);
    assert!(matches!(
        ends[1],
        Err(Failure::Stopped(StopReason::Cancelled))
    ));
    assert!(matches!(
        ends[2],
        Err(Failure::Stopped(StopReason::HandBack))
    ));
}

#[test]
fn one_that_fails_fails_alone() {
    let mut models = models(4);
    let good = render(&models);
    let bad = RenderSpec {
        prompt: "x".repeat(100_000),
        ..good.clone()
    };
    let stranger = RenderSpec {
        model: "nowhere".to_owned(),
        ..good.clone()
    };
    let none = RenderSpec {
        image_count: 0,
        ..good.clone()
    };
    let specs = [bad, stranger, good.clone(), none];
    let jobs = specs.map(|spec| job(spec, Vec::new()).0);
    let ends = paint(&mut models, jobs.into());
    for (end, expected) in ends.iter().zip(["NOT_RENDERABLE", "MODEL_NOT_LOADED"]) {
        assert!(matches!(end, Err(Failure::Permanent { reason, .. }) if *reason == expected));
    }
    let expected = alone(&mut models, good, Vec::new());
    assert_eq!(pixels(ends[2].as_ref().unwrap()), expected);
    assert!(ends[3].as_ref().unwrap().images.is_empty());
}

#[test]
fn short_memory_halves_the_batch_and_goes_on() {
    let mut models = models(8);
    let sets = person(&models, 1);
    let three = RenderSpec {
        image_count: 3,
        ..render(&models)
    };
    let plenty = alone(&mut models, three.clone(), sets.clone());
    models.sdxl.pretend_memory_for(1);
    assert_eq!(alone(&mut models, three.clone(), sets.clone()), plenty);
    let request = models
        .request(&job(three.clone(), Vec::new()).0, 0)
        .unwrap();
    assert_eq!(models.batch_limit(&request), 1);
    models.sdxl.pretend_memory_for(0);
    let ends = paint(&mut models, vec![job(three, sets).0]);
    assert!(matches!(
        ends[0],
        Err(Failure::Transient {
            reason: "OUT_OF_MEMORY",
            ..
        })
    ));
}

#[test]
fn a_batch_takes_no_more_images_than_allowed_and_none_is_lost() {
    let mut models = models(2);
    let three = RenderSpec {
        image_count: 3,
        ..render(&models)
    };
    let jobs = [1, 2].map(|seed| {
        let spec = RenderSpec {
            seed,
            ..three.clone()
        };
        job(spec, Vec::new()).0
    });
    for end in paint(&mut models, jobs.into()) {
        let painted = end.unwrap();
        assert_eq!(painted.images.len(), 3);
        assert!(painted.timings.sampling > 0.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intake_waits_for_nobody_who_has_left() {
    let models = models(4);
    let spec = render(&models);
    let engine = Engine::over(models).unwrap();
    let turns = std::sync::Arc::new(Semaphore::new(1));
    let turn = turns.clone().acquire_owned().await.unwrap();
    let (slot, taking, gathering) = intake(&engine, turn);
    let (first, second, third) = (slot.clone(), slot.clone(), slot);
    let gathering = tokio::spawn(gathering);
    // One whose claim is refused.
    drop(third);
    drop(taking);
    let paint = |slot: super::Slot| slot.paint(job(spec.clone(), Vec::new()).0);
    let (first, second) = tokio::join!(paint(first), paint(second));
    assert_eq!(pixels(&first.unwrap()), pixels(&second.unwrap()));
    gathering.await.unwrap();
    assert_eq!(turns.available_permits(), 1, "the models are free again");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_waits_for_the_models_is_stopped_at_once() {
    let models = models(4);
    let spec = render(&models);
    let engine = Engine::over(models).unwrap();
    let long = RenderSpec {
        steps: 150,
        image_count: 8,
        ..spec.clone()
    };
    let (blocker, mut steps) = job(long, Vec::new());
    let blocked = blocker.stop.clone();
    let painting = tokio::spawn({
        let engine = engine.clone();
        async move { engine.paint(blocker).await }
    });
    steps.recv().await.unwrap();
    let turn = std::sync::Arc::new(Semaphore::new(1));
    let (slot, taking, gathering) = intake(&engine, turn.acquire_owned().await.unwrap());
    tokio::spawn(gathering);
    drop(taking);
    let (waiting, _progress) = job(spec, Vec::new());
    waiting.stop.now(StopReason::Cancelled);
    let end = slot.paint(waiting).await;
    assert!(matches!(end, Err(Failure::Stopped(StopReason::Cancelled))));
    assert!(!painting.is_finished(), "the other is still painted");
    blocked.now(StopReason::HandBack);
    assert!(painting.await.unwrap().is_err());
}
