//! Drafts, their defaults and limits.

use super::*;

fn defaults() -> RenderDefaults {
    RenderDefaults {
        scheduler: Scheduler::Dpmpp2mKarras,
        steps: 20,
        guidance: 3.5,
        id_scale: 0.8,
        width: 256,
        height: 320,
    }
}

#[test]
fn an_empty_draft_takes_every_default() {
    let spec = RenderDraft::default()
        .resolve("pocket", &defaults(), 7)
        .unwrap();
    assert_eq!(
        (spec.steps, spec.width, spec.height, spec.seed),
        (20, 256, 320, 7)
    );
    assert_eq!(
        (spec.image_count, spec.output_format),
        (1, ImageFormat::Png)
    );
    assert_eq!(spec.negative_prompt, None);
}

#[test]
fn every_wrong_field_is_named_at_once() {
    let draft = RenderDraft {
        id_scale: Some(f32::NAN),
        guidance: Some(f32::INFINITY),
        steps: Some(10_000),
        width: Some(100),
        height: Some(-8),
        image_count: Some(0),
        seed: Some(-1),
        prompt: "x".repeat(100_000),
        ..RenderDraft::default()
    };
    let violations = draft.resolve("pocket", &defaults(), 0).unwrap_err();
    let fields: Vec<_> = violations.iter().map(|v| v.field.as_str()).collect();
    for field in [
        "id_scale",
        "guidance",
        "steps",
        "width",
        "height",
        "image_count",
        "seed",
        "prompt",
    ] {
        assert!(
            fields.contains(&format!("render.{field}").as_str()),
            "{field}"
        );
    }
}

#[test]
fn candidates_are_counted_and_have_seeds_of_their_own() {
    let with = |image_count, best_of| {
        let draft = RenderDraft {
            image_count: Some(image_count),
            best_of: Some(best_of),
            ..RenderDraft::default()
        };
        draft.resolve("pocket", &defaults(), 7)
    };
    let spec = with(3, 2).unwrap();
    assert_eq!(spec.candidates(), 6);
    let places = (0..3).flat_map(|image| (0..2).map(move |candidate| (image, candidate)));
    let mut seeds: Vec<_> = places.map(|(i, c)| spec.seed_of(i, c)).collect();
    assert_eq!(seeds[2], 8, "the second image's first candidate");
    seeds.sort_unstable();
    assert!(seeds.into_iter().eq(7..13));
    for (images, best_of) in [(1, 0), (1, 9), (1, -1), (8, 5)] {
        let violations = with(images, best_of).unwrap_err();
        assert_eq!(violations[0].field, "render.best_of", "{images} {best_of}");
    }
    assert!(with(4, 8).is_ok());
    assert_eq!(
        with(1, 1).unwrap(),
        RenderDraft::default()
            .resolve("pocket", &defaults(), 7)
            .unwrap()
    );
}

#[test]
fn a_strength_is_the_decimal_that_was_written_and_takes_a_step_at_least() {
    let with = |init_strength, steps| {
        let draft = RenderDraft {
            init_strength: Some(init_strength),
            steps: Some(steps),
            ..RenderDraft::default()
        };
        draft.resolve("pocket", &defaults(), 0)
    };
    // As an f32 it is less than 0.35, which would be 6 of 20 steps.
    let spec = with(0.35, 20).unwrap();
    assert_eq!((spec.steps, spec.steps_taken()), (20, 7));
    assert_eq!(with(1.0, 20).unwrap().steps_taken(), 20);
    assert_eq!(with(0.05, 20).unwrap().steps_taken(), 1);
    for wrong in [0.0, -0.5, 1.001, f32::NAN, f32::INFINITY, 0.049] {
        let violations = with(wrong, 20).unwrap_err();
        assert_eq!(violations[0].field, "render.init_image.strength", "{wrong}");
    }
    let none = RenderDraft::default().resolve("pocket", &defaults(), 0);
    assert_eq!(none.unwrap().steps_taken(), 20);
}

#[test]
fn weights_are_brought_to_one() {
    assert_eq!(
        resolve_weights(&[Some(1.0), Some(3.0)]).unwrap(),
        [0.25, 0.75]
    );
    assert_eq!(resolve_weights(&[None, None]).unwrap(), [0.5, 0.5]);
    assert!(resolve_weights(&[]).unwrap().is_empty());
    for bad in [
        vec![Some(-1.0)],
        vec![Some(0.0)],
        vec![Some(f32::NAN)],
        vec![None; 9],
    ] {
        assert!(resolve_weights(&bad).is_err());
    }
}

#[test]
fn a_render_always_ends() {
    let now = DateTime::UNIX_EPOCH;
    assert_eq!(
        resolve_expire_time(None, None, now),
        Ok(now + DEFAULT_LIFETIME)
    );
    assert!(resolve_expire_time(Some(now), None, now).is_err());
    assert!(resolve_expire_time(Some(now + TimeDelta::days(8)), None, now).is_err());
    let start = now + TimeDelta::days(2);
    let expire_time = resolve_expire_time(None, Some(start), now);
    assert_eq!(expire_time, Ok(start + DEFAULT_LIFETIME));
    let unseen = resolve_expire_time(Some(start), Some(start), now).unwrap_err();
    assert_eq!(unseen.field, "render.start_time");
}
