use std::ops::ControlFlow;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use image::RgbImage;
use sha2::{Digest as _, Sha256};

use super::{Init, Sample};
use crate::testing::{TinySdxl, relative_error, request};
use crate::{Error, LowRankUpdate, SampleRequest, Scheduler, Sdxl, TorchNoise};

fn small(scheduler: Scheduler, seed: u64) -> SampleRequest {
    SampleRequest {
        width: 64,
        height: 64,
        steps: 3,
        seed,
        ..request(scheduler)
    }
}

/// Three pictures that differ in all that a batch allows.
fn varied(scheduler: Scheduler) -> Vec<SampleRequest> {
    let first = small(scheduler, 1);
    let second = SampleRequest {
        prompt: "another".to_owned(),
        negative_prompt: None,
        guidance: 3.0,
        guidance_rescale: 0.7,
        ..small(scheduler, 2)
    };
    let long = SampleRequest {
        prompt: "one two ".repeat(60),
        ..small(scheduler, 3)
    };
    vec![first, second, long]
}

fn quiet(request: &SampleRequest) -> Sample<'_> {
    Sample::new(request, Box::new(|_| ControlFlow::Continue(())))
}

fn batch(model: &Sdxl, requests: &[SampleRequest]) -> Vec<RgbImage> {
    let pictures = model.sample_batch(requests.iter().map(quiet).collect());
    pictures.into_iter().map(Result::unwrap).collect()
}

fn alone(model: &Sdxl, request: &SampleRequest) -> RgbImage {
    batch(model, std::slice::from_ref(request)).remove(0)
}

/// A LoRA on every matrix, of a size relative to the weights.
fn lora(model: &Sdxl, seed: u64, rank: usize, strength: f64) -> Vec<LowRankUpdate> {
    let mut noise = TorchNoise::new(seed);
    let mut random = |rows, cols| {
        Tensor::from_vec(noise.draw(rows * cols), (rows, cols), &Device::Cpu).unwrap()
    };
    let matrices = model.attention_matrices().into_iter();
    matrices
        .map(|matrix| LowRankUpdate {
            down: random(rank, matrix.cols),
            up: random(matrix.rows, rank),
            scale: strength / ((rank * matrix.cols) as f64).sqrt(),
            matrix: matrix.name,
        })
        .collect()
}

#[test]
fn a_picture_has_the_same_pixels_in_every_batch() {
    let folder = TinySdxl::write();
    for dtype in [DType::F32, DType::F16] {
        let model = folder.load_as(dtype).unwrap();
        for scheduler in [Scheduler::EulerAncestral, Scheduler::Dpmpp2mKarras, Scheduler::Lcm] {
            let requests = varied(scheduler);
            let apart: Vec<_> = requests.iter().map(|r| alone(&model, r)).collect();
            assert_eq!(batch(&model, &requests), apart, "{scheduler} {dtype:?}");
            assert_eq!(batch(&model, &requests[..2]), apart[..2], "{scheduler} {dtype:?}");
            assert_eq!(batch(&model, &requests[1..]), apart[1..], "{scheduler} {dtype:?}");
        }
    }
}

#[test]
fn latents_are_equal_to_the_bit_in_every_batch_without_guidance() {
    let model = TinySdxl::write().load().unwrap();
    let plain = |seed| SampleRequest {
        guidance: 1.0,
        ..small(Scheduler::Euler, seed)
    };
    let requests = [plain(1), plain(2), plain(3)];
    let latents = |requests: &[SampleRequest]| {
        let mut last = vec![Vec::new(); requests.len()];
        let mut samples = Vec::new();
        for (request, last) in requests.iter().zip(&mut last) {
            let keep = |step: super::Step<'_>| {
                *last = step.latents().flatten_all().unwrap().to_vec1::<f32>().unwrap();
                ControlFlow::Continue(())
            };
            samples.push(Sample::new(request, Box::new(keep)));
        }
        model.sample_batch(samples);
        last
    };
    let together = latents(&requests);
    for (request, together) in requests.iter().zip(together) {
        assert_eq!(latents(std::slice::from_ref(request))[0], together);
    }
}

#[test]
fn each_picture_of_a_batch_has_its_own_end() {
    let model = TinySdxl::write().load().unwrap();
    let requests = varied(Scheduler::EulerAncestral);
    let bad = SampleRequest {
        prompt: "x".repeat(100_000),
        ..requests[0].clone()
    };
    let stranger = SampleRequest {
        height: 72,
        ..requests[0].clone()
    };
    let mut seen = 0;
    let stop = |step: super::Step<'_>| {
        seen = step.index;
        if step.index == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let samples = vec![
        quiet(&requests[0]),
        Sample::new(&requests[1], Box::new(stop)),
        quiet(&bad),
        quiet(&stranger),
        quiet(&requests[2]),
    ];
    let ends = model.sample_batch(samples);
    assert_eq!(ends[0].as_ref().unwrap(), &alone(&model, &requests[0]));
    assert!(matches!(ends[1], Err(Error::Cancelled)));
    assert!(matches!(ends[2], Err(Error::BadRequest { field: "prompt", .. })));
    assert!(matches!(ends[3], Err(Error::BadRequest { field: "batch", .. })));
    assert_eq!(ends[4].as_ref().unwrap(), &alone(&model, &requests[2]));
    assert_eq!(seen, 2);
    assert!(model.sample_batch(Vec::new()).is_empty());
}

#[test]
fn short_memory_halves_the_pass_and_changes_no_pixel() {
    let mut model = TinySdxl::write().load().unwrap();
    let requests: Vec<_> = (0..5).map(|seed| small(Scheduler::Euler, seed)).collect();
    let plenty = batch(&model, &requests);
    assert!(model.batch_limit(&requests[0]) > 5);
    model.pretend_memory_for(2);
    assert_eq!(batch(&model, &requests), plenty);
    assert_eq!(model.batch_limit(&requests[0]), 2);
    model.pretend_memory_for(0);
    let ends = model.sample_batch(requests.iter().map(quiet).collect());
    for end in ends {
        assert!(end.unwrap_err().is_out_of_memory());
    }
}

/// The noise that the UNet predicts for two samples with guidance, [2, 4, h, w] in f32.
fn predicted(model: &Sdxl, own: &[Option<&super::Unmerged>]) -> Tensor {
    let request = request(Scheduler::Euler);
    let conditioning = model.condition(&request).unwrap();
    let noise = TorchNoise::new(8).draw(2 * 2 * 4 * 10 * 12);
    let latents = Tensor::from_vec(noise, (4, 4, 10, 12), &Device::Cpu).unwrap();
    let twice = |x: &Tensor| Tensor::cat(&[x, x], 0).unwrap();
    let conditioning = super::Conditioning {
        text: twice(&conditioning.text),
        pooled: twice(&conditioning.pooled),
        ..conditioning
    };
    let latents = latents.to_dtype(model.dtype).unwrap();
    let noise = model.unet.forward(&latents, &[500.0], &conditioning, own);
    noise.unwrap().to_dtype(DType::F32).unwrap()
}

/// What each of two samples sees of the UNet with its own LoRA merged.
fn merged(model: &mut Sdxl, loras: [&[LowRankUpdate]; 2]) -> Tensor {
    let parts = [0, 1].map(|i| {
        model.merge(loras[i]).unwrap();
        predicted(model, &[]).narrow(0, 2 * i, 2).unwrap()
    });
    model.merge(&[]).unwrap();
    Tensor::cat(&parts, 0).unwrap()
}

fn norm(x: &Tensor) -> f64 {
    let squares = x.sqr().unwrap().sum_all().unwrap();
    f64::from(squares.to_scalar::<f32>().unwrap()).sqrt()
}

#[test]
fn terms_beside_the_weights_do_what_merged_ones_do() {
    let folder = TinySdxl::write();
    let mut model = folder.load().unwrap();
    let (one, other) = (lora(&model, 1, 4, 0.3), lora(&model, 2, 7, 0.3));
    let base = predicted(&model, &[]);
    let exact = merged(&mut model, [&one, &other]);
    let effect = norm(&(&exact - &base).unwrap());
    assert!(effect >= 0.05 * norm(&base), "the identities change {}", effect / norm(&base));
    let own = [model.unmerged(&one).unwrap(), model.unmerged(&other).unwrap()];
    let beside = predicted(&model, &[Some(&own[0]), Some(&own[1])]);
    let error = norm(&(&beside - &exact).unwrap());
    println!("unmerged against merged, of the identities' effect: {:.1e}", error / effect);
    assert!(error <= 1e-3 * effect);
    // Who carries nothing sees the base, to the bit.
    let single = predicted(&model, &[None, Some(&own[1])]);
    let rows = |x: &Tensor| x.narrow(0, 0, 2).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(rows(&single), rows(&base));
}

/// On the CPU the tensor library multiplies no bf16, so f16 stands for both.
#[test]
fn in_half_precision_terms_beside_the_weights_are_about_as_exact_as_merged_ones() {
    let folder = TinySdxl::write();
    let (mut full, mut half) = (folder.load().unwrap(), folder.load_as(DType::F16).unwrap());
    let (mut in_weights, mut beside) = (0.0, 0.0);
    for seed in 0..3 {
        let loras = [2 * seed, 2 * seed + 1].map(|seed| lora(&full, seed, 4, 0.1));
        let exact = merged(&mut full, [&loras[0], &loras[1]]);
        let rounded = merged(&mut half, [&loras[0], &loras[1]]);
        let own = loras.map(|lora| half.unmerged(&lora).unwrap());
        let unmerged = predicted(&half, &[Some(&own[0]), Some(&own[1])]);
        in_weights += relative_error(&rounded, &exact);
        beside += relative_error(&unmerged, &exact);
    }
    println!("f16 against f32: unmerged {:.3} times merged", beside / in_weights);
    assert!(beside <= 1.2 * in_weights, "{beside:e} {in_weights:e}");
}

/// sha-256 of all attention weights in turn; widening to f32 keeps different numbers different.
fn digest(model: &Sdxl) -> [u8; 32] {
    let mut hash = Sha256::new();
    for matrix in model.attention_matrices() {
        let weight = model.attention_weight(&matrix.name).unwrap();
        let weight = weight.to_dtype(DType::F32).unwrap().flatten_all().unwrap();
        for value in weight.to_vec1::<f32>().unwrap() {
            hash.update(value.to_le_bytes());
        }
    }
    hash.finalize().into()
}

#[test]
fn after_a_thousand_swaps_scale_0_hashes_as_a_fresh_load() {
    let folder = TinySdxl::write();
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let mut model = folder.load_as(dtype).unwrap();
        let people: Vec<_> = (0..10).map(|seed| lora(&model, seed, 2, 0.5)).collect();
        for swap in 0..1000 {
            // Each takes every tenth matrix, so that what one leaves the next does not cover.
            let person = &people[swap % people.len()];
            let part: Vec<_> = person.iter().skip(swap / 10 % 10).step_by(10).cloned().collect();
            model.merge(&part).unwrap();
        }
        let fresh = digest(&folder.load_as(dtype).unwrap());
        assert_ne!(digest(&model), fresh, "{dtype:?}: somebody is merged");
        let mut nobody = people[0].clone();
        nobody.iter_mut().for_each(|update| update.scale = 0.0);
        model.merge(&nobody).unwrap();
        assert_eq!(digest(&model), fresh, "{dtype:?}");
    }
}

#[test]
fn identities_of_a_batch_do_not_mix() {
    let model = TinySdxl::write().load().unwrap();
    let request = small(Scheduler::EulerAncestral, 5);
    let own = [1, 2].map(|seed| model.unmerged(&lora(&model, seed, 3, 0.3)).unwrap());
    let with = |own| Sample {
        unmerged: own,
        ..quiet(&request)
    };
    let carried = [Some(&own[0]), None, Some(&own[1])];
    let together = model.sample_batch(carried.into_iter().map(with).collect());
    let together: Vec<_> = together.into_iter().map(Result::unwrap).collect();
    for (own, picture) in carried.into_iter().zip(&together) {
        let apart = model.sample_batch(vec![with(own)]).remove(0).unwrap();
        assert_eq!(&apart, picture);
    }
    assert_ne!(together[0], together[1]);
    assert_ne!(together[0], together[2]);
}

#[test]
fn terms_of_another_model_are_refused() {
    let folder = TinySdxl::write();
    let model = folder.load().unwrap();
    let mut updates = lora(&model, 1, 2, 0.1);
    updates[0].matrix = "nowhere.to_q".to_owned();
    assert!(matches!(model.unmerged(&updates), Err(Error::UnknownMatrix { .. })));
    updates[0].scale = f64::NAN;
    assert!(model.unmerged(&updates).is_err());
}

#[test]
fn without_guidance_there_is_one_pass() {
    let model = TinySdxl::write().load().unwrap();
    for (guidance, rows) in [(0.0, 1), (1.0, 1), (1.5, 2)] {
        let request = SampleRequest {
            guidance,
            ..small(Scheduler::Euler, 1)
        };
        assert_eq!(model.condition(&request).unwrap().text.dim(0).unwrap(), rows);
    }
}

#[test]
fn starting_from_a_picture_takes_the_last_steps_only() {
    let model = TinySdxl::write().load().unwrap();
    let picture = Arc::new(alone(&model, &small(Scheduler::Euler, 9)));
    for (strength, expected) in [(0.125, 1), (0.3, 2), (0.99, 7), (1.0, 8)] {
        let request = SampleRequest {
            steps: 8,
            init: Some(Init {
                picture: picture.clone(),
                strength,
            }),
            ..small(Scheduler::Euler, 1)
        };
        let mut steps = Vec::new();
        let painted = model.sample(&request, &mut |step| {
            steps.push((step.index, step.total));
            ControlFlow::Continue(())
        });
        painted.unwrap();
        let counted: Vec<_> = (1..=expected).map(|index| (index, expected)).collect();
        assert_eq!(steps, counted);
    }
}
