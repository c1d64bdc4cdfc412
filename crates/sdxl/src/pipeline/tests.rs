use std::ops::ControlFlow;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use image::RgbImage;
use serde_json::json;

use crate::noise::TorchNoise;
use crate::testing::{TinySdxl, request};
use crate::{Error, Init, LowRankUpdate, SampleRequest, Scheduler, Sdxl};

fn small() -> SampleRequest {
    SampleRequest {
        width: 64,
        height: 64,
        steps: 3,
        ..request(Scheduler::Dpmpp2mKarras)
    }
}

fn sample(model: &Sdxl, request: &SampleRequest) -> Result<RgbImage, Error> {
    model.sample(request, &mut |_| ControlFlow::Continue(()))
}

#[test]
fn a_request_fixes_the_picture_and_the_seed_changes_it() {
    let model = TinySdxl::write().load().unwrap();
    let first = sample(&model, &small()).unwrap();
    assert_eq!(first.dimensions(), (64, 64));
    assert_eq!(sample(&model, &small()).unwrap(), first);
    let other = sample(
        &model,
        &SampleRequest {
            seed: 12,
            ..small()
        },
    )
    .unwrap();
    assert_ne!(other, first);
}

#[test]
fn a_merge_changes_the_picture_and_restoring_is_exact() {
    let mut model = TinySdxl::write().load().unwrap();
    let plain = sample(&model, &small()).unwrap();
    let matrix = model.attention_matrices().swap_remove(5);
    let down = Tensor::randn(0f32, 1.0, (2, matrix.cols), &Device::Cpu).unwrap();
    let up = Tensor::randn(0f32, 1.0, (matrix.rows, 2), &Device::Cpu).unwrap();
    let mut update = LowRankUpdate {
        matrix: matrix.name,
        down,
        up,
        scale: 0.8,
    };
    model.merge(std::slice::from_ref(&update)).unwrap();
    let merged = sample(&model, &small()).unwrap();
    assert_ne!(merged, plain);
    update.scale = 0.0;
    model.merge(&[update]).unwrap();
    assert_eq!(sample(&model, &small()).unwrap(), plain);
    model.merge(&[]).unwrap();
    assert_eq!(sample(&model, &small()).unwrap(), plain);
}

#[test]
fn attention_matrices_have_diffusers_names_and_shapes() {
    let model = TinySdxl::write().load().unwrap();
    let matrices = model.attention_matrices();
    // Transformer layers: 1 + 2 down, 2 middle, 2 × 2 + 2 × 1 up, with 8 projections each.
    assert_eq!(matrices.len(), 8 * (1 + 2 + 2 + 4 + 2));
    let find = |name: &str| {
        matrices
            .iter()
            .find(|m| m.name == name)
            .map(|m| (m.rows, m.cols))
    };
    let block = "down_blocks.1.attentions.0.transformer_blocks.0";
    assert_eq!(find(&format!("{block}.attn1.to_q")), Some((32, 32)));
    assert_eq!(find(&format!("{block}.attn2.to_k")), Some((32, 64)));
    assert_eq!(find(&format!("{block}.attn2.to_out.0")), Some((32, 32)));
    assert!(find("mid_block.attentions.0.transformer_blocks.1.attn2.to_v").is_some());
}

#[test]
fn steps_are_reported_with_previews_and_can_be_cancelled() {
    let model = TinySdxl::write().load().unwrap();
    let mut seen = Vec::new();
    let result = model.sample(&small(), &mut |step| {
        let preview = step.preview().unwrap();
        seen.push((step.index, step.total, preview.dimensions()));
        if step.index == 2 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    assert!(matches!(result, Err(Error::Cancelled)));
    assert_eq!(seen, [(1, 3, (8, 8)), (2, 3, (8, 8))]);
}

#[test]
fn a_preview_resembles_the_picture() {
    let model = TinySdxl::write().load().unwrap();
    let mut last = None;
    let picture = model.sample(&small(), &mut |step| {
        last = Some(step.preview().unwrap());
        ControlFlow::Continue(())
    });
    let (picture, preview) = (picture.unwrap(), last.unwrap());
    let mean = |image: &RgbImage| {
        image.as_raw().iter().map(|&v| f64::from(v)).sum::<f64>() / image.as_raw().len() as f64
    };
    assert!(
        (mean(&picture) - mean(&preview)).abs() < 40.0,
        "{} {}",
        mean(&picture),
        mean(&preview)
    );
}

#[test]
fn long_prompts_take_several_windows_and_end_somewhere() {
    let model = TinySdxl::write().load().unwrap();
    let long = "one two ".repeat(60);
    let picture = sample(
        &model,
        &SampleRequest {
            prompt: long.clone(),
            ..small()
        },
    )
    .unwrap();
    let shorter = sample(
        &model,
        &SampleRequest {
            prompt: long[..80].into(),
            ..small()
        },
    )
    .unwrap();
    assert_ne!(picture, shorter);
    let (states, _) = model.text_embeddings(&long).unwrap();
    assert!(states.dim(1).unwrap() > 77 && states.dim(1).unwrap() % 77 == 0);
    let negative = SampleRequest {
        negative_prompt: Some(long),
        ..small()
    };
    sample(&model, &negative).unwrap();
}

/// Makes a request bad in one field.
type Change = fn(&mut SampleRequest);

fn init(side: u32, strength: f64) -> Init {
    let picture = Arc::new(RgbImage::new(side, side));
    Init { picture, strength }
}

#[test]
fn bad_requests_are_refused_by_field_before_any_work() {
    let model = TinySdxl::write().load().unwrap();
    let cases: [(&str, Change); 20] = [
        ("width", |r| r.width = 0),
        ("width", |r| r.width = 60),
        ("height", |r| r.height = 4096),
        ("steps", |r| r.steps = 0),
        ("steps", |r| r.steps = 10_000),
        ("steps", |r| {
            (r.steps, r.scheduler) = (51, Scheduler::Lcm);
        }),
        ("steps", |r| {
            (r.steps, r.scheduler) = (1000, Scheduler::Dpmpp2m);
        }),
        ("steps", |r| {
            (r.steps, r.scheduler) = (1000, Scheduler::Ddim);
        }),
        ("guidance", |r| r.guidance = f64::NAN),
        ("guidance", |r| r.guidance = f64::INFINITY),
        ("guidance", |r| r.guidance = -1.0),
        ("guidance_rescale", |r| r.guidance_rescale = f64::NAN),
        ("guidance_rescale", |r| r.guidance_rescale = 1.1),
        ("strength", |r| r.init = Some(init(64, f64::NAN))),
        ("strength", |r| r.init = Some(init(64, 0.0))),
        ("strength", |r| r.init = Some(init(64, 0.2))),
        ("init", |r| r.init = Some(init(32, 0.5))),
        ("prompt", |r| r.prompt = "x".repeat(100_000)),
        ("prompt", |r| r.prompt = "é ".repeat(700)),
        ("negative_prompt", |r| {
            r.negative_prompt = Some("y ".repeat(9_000));
        }),
    ];
    for (expected, change) in cases {
        let mut request = small();
        change(&mut request);
        let mut called = false;
        let result = model.sample(&request, &mut |_| {
            called = true;
            ControlFlow::Continue(())
        });
        match result {
            Err(Error::BadRequest { field, .. }) => assert_eq!(field, expected),
            other => panic!("{expected}: {other:?}"),
        }
        assert!(!called);
    }
    let noise = Tensor::zeros((1, 4, 3, 3), DType::F32, &Device::Cpu).unwrap();
    let result = model.sample_with_noise(&small(), &noise, &mut |_| ControlFlow::Continue(()));
    assert!(matches!(
        result,
        Err(Error::BadRequest { field: "noise", .. })
    ));
}

#[test]
fn a_wrong_request_needs_no_model_to_be_refused() {
    let cases: [(&str, Change); 10] = [
        ("prompt", |r| r.prompt = "x".repeat(100_000)),
        ("negative_prompt", |r| {
            r.negative_prompt = Some("y".repeat(100_000));
        }),
        ("width", |r| r.width = 4),
        ("width", |r| r.width = 1028),
        ("height", |r| r.height = 2056),
        ("steps", |r| r.steps = 0),
        ("steps", |r| r.steps = 10_000),
        ("clip_skip", |r| r.clip_skip = 0),
        ("guidance", |r| r.guidance = f64::NAN),
        ("guidance_rescale", |r| r.guidance_rescale = f64::INFINITY),
    ];
    small().check().unwrap();
    for (expected, change) in cases {
        let mut request = small();
        change(&mut request);
        match request.check() {
            Err(Error::BadRequest { field, .. }) => assert_eq!(field, expected),
            other => panic!("{expected}: {other:?}"),
        }
    }
}

/// As in diffusers, where the noise is given the seed's first numbers are the first step's.
#[test]
fn given_noise_leaves_the_seed_to_the_steps() {
    let model = TinySdxl::write().load().unwrap();
    let noise = Tensor::zeros((1, 4, 8, 8), DType::F32, &Device::Cpu).unwrap();
    let first_step = |seed| {
        let mut latents = Vec::new();
        let request = SampleRequest {
            seed,
            scheduler: Scheduler::EulerAncestral,
            ..small()
        };
        let stopped = model.sample_with_noise(&request, &noise, &mut |step| {
            latents = step
                .latents()
                .flatten_all()
                .unwrap()
                .to_vec1::<f32>()
                .unwrap();
            ControlFlow::Break(())
        });
        assert!(matches!(stopped, Err(Error::Cancelled)));
        latents
    };
    let (one, two) = (first_step(1), first_step(2));
    let drawn = [1, 2].map(|seed| TorchNoise::new(seed).draw(4 * 8 * 8));
    let ratio = |i: usize| (one[i] - two[i]) / (drawn[0][i] - drawn[1][i]);
    let far =
        (0..one.len()).map(|i| (one[i] - two[i] - ratio(0) * (drawn[0][i] - drawn[1][i])).abs());
    assert!(ratio(0) > 0.5 && far.fold(0f32, f32::max) < 1e-3);
}

#[test]
fn every_scheduler_survives_its_extreme_step_counts() {
    let model = TinySdxl::write().load().unwrap();
    for scheduler in Scheduler::ALL {
        for steps in [1, 2] {
            let request = SampleRequest {
                steps,
                scheduler,
                guidance: 0.0,
                ..small()
            };
            sample(&model, &request).unwrap();
        }
    }
}

#[test]
fn scheduler_names_are_read_back() {
    for scheduler in Scheduler::ALL {
        assert_eq!(scheduler.as_str().parse::<Scheduler>().unwrap(), scheduler);
    }
    let error = "heun".parse::<Scheduler>().unwrap_err().to_string();
    assert!(
        error.contains("scheduler") && error.contains("dpmpp_2m_karras"),
        "{error}"
    );
}

#[test]
fn a_missing_negative_prompt_is_not_an_empty_one() {
    let model = TinySdxl::write().load().unwrap();
    let none = sample(
        &model,
        &SampleRequest {
            negative_prompt: None,
            ..small()
        },
    )
    .unwrap();
    let empty = SampleRequest {
        negative_prompt: Some(String::new()),
        ..small()
    };
    assert_ne!(sample(&model, &empty).unwrap(), none);
    let folder = TinySdxl::write();
    folder.set(
        "model_index.json",
        "force_zeros_for_empty_prompt",
        json!(false),
    );
    let model = folder.load().unwrap();
    let none = sample(
        &model,
        &SampleRequest {
            negative_prompt: None,
            ..small()
        },
    )
    .unwrap();
    assert_eq!(sample(&model, &empty).unwrap(), none);
}

#[test]
fn half_precision_gives_nearly_the_same_picture() {
    let folder = TinySdxl::write();
    let full = sample(&folder.load().unwrap(), &small()).unwrap();
    let half = sample(&folder.load_as(DType::F16).unwrap(), &small()).unwrap();
    let differ = full
        .as_raw()
        .iter()
        .zip(half.as_raw())
        .map(|(a, b)| f64::from(a.abs_diff(*b)));
    assert!(differ.sum::<f64>() / (full.as_raw().len() as f64) < 2.0);
}

#[test]
fn pictures_can_be_encoded() {
    let model = TinySdxl::write().load().unwrap();
    let latents = model.encode(&RgbImage::new(64, 48)).unwrap();
    assert_eq!(latents.dims(), [1, 4, 6, 8]);
    assert!(model.encode(&RgbImage::new(60, 48)).is_err());
}

#[test]
fn a_model_can_be_handed_to_another_thread() {
    fn assert_send<T: Send + Sync>() {}
    assert_send::<Sdxl>();
}
