//! Comparison with torch, diffusers and transformers: `tests/parity/sdxl_tiny.py` made the numbers.

use std::ops::ControlFlow;

use candle_core::Tensor;

use crate::config::{UNetConfig, VaeConfig};
use crate::noise::TorchNoise;
use crate::testing::{TinySdxl, expected, fixture, relative_error, request};
use crate::tokenizer::Tokenizer;
use crate::unet::{Conditioning, UNet};
use crate::vae::Vae;
use crate::{SampleRequest, Scheduler};

fn noise(seed: u64, shape: (usize, usize, usize, usize)) -> Tensor {
    let (b, c, h, w) = shape;
    let values = TorchNoise::new(seed).draw(b * c * h * w);
    Tensor::from_vec(values, shape, &candle_core::Device::Cpu).unwrap()
}

#[track_caller]
fn assert_close(what: &str, ours: &Tensor, theirs: &Tensor, limit: f64) {
    let error = relative_error(ours, theirs);
    println!("{what}: relative error {error:.1e}");
    assert!(
        error <= limit,
        "{what}: relative error {error:e}, limit {limit:e}"
    );
}

#[test]
fn noise_equals_torch() {
    let expected = expected();
    let close = |ours: &[f32], name: &str| {
        let theirs = expected[name].to_vec1::<f32>().unwrap();
        assert_eq!(ours.len(), theirs.len());
        for (a, b) in ours.iter().zip(theirs) {
            assert!((a - b).abs() < 1e-6, "{name}: {a} {b}");
        }
    };
    for count in [1, 5, 15, 16, 17, 40] {
        close(
            &TorchNoise::new(1_234_567).draw(count),
            &format!("noise.{count}"),
        );
    }
    let mut twice = TorchNoise::new((1 << 40) + 3);
    let mut values = twice.draw(5);
    values.extend(twice.draw(20));
    close(&values, "noise.twice");
}

#[test]
fn token_ids_equal_transformers() {
    let (model, expected) = (TinySdxl::write(), expected());
    for (part, name) in [("tokenizer", "ids"), ("tokenizer_2", "ids_2")] {
        let tokenizer = Tokenizer::load(&model.path(part)).unwrap();
        let ids = tokenizer
            .ids("prompt", fixture()["prompt"].as_str().unwrap())
            .unwrap();
        let ours: Vec<i64> = tokenizer.windows(&ids, 77)[0]
            .iter()
            .map(|&id| id.into())
            .collect();
        assert_eq!(ours, expected[name].to_vec1::<i64>().unwrap(), "{part}");
    }
}

#[test]
fn text_embeddings_equal_transformers() {
    let (model, expected) = (TinySdxl::write().load().unwrap(), expected());
    let fixture = fixture();
    let embed = |field: &str| {
        model
            .text_embeddings(fixture[field].as_str().unwrap())
            .unwrap()
    };
    let (states, pooled) = embed("prompt");
    assert_close("text states", &states, &expected["prompt_embeds"], 1e-5);
    assert_close("pooled text", &pooled, &expected["pooled"], 1e-5);
    let (states, pooled) = embed("negative");
    let states = states.narrow(1, 0, 8).unwrap();
    assert_close(
        "negative states",
        &states,
        &expected["negative_prompt_embeds"],
        1e-5,
    );
    assert_close(
        "negative pooled",
        &pooled,
        &expected["negative_pooled"],
        1e-5,
    );
}

#[test]
fn the_unet_equals_diffusers() {
    let (model, expected, fixture) = (TinySdxl::write(), expected(), fixture());
    for part in ["unet", "unet_conv"] {
        model.json(&format!("{part}/config.json"), &fixture["configs"][part]);
        model.weights(part, &fixture["shapes"][part]);
        let config = UNetConfig::read(&model.path(part).join("config.json")).unwrap();
        let unet = UNet::load(&model.open(part), &config).unwrap();
        let conditioning = Conditioning {
            text: expected["prompt_embeds"].repeat((2, 1, 1)).unwrap(),
            pooled: expected["pooled"].repeat((2, 1)).unwrap(),
            time_ids: [80.0, 96.0, 0.0, 0.0, 80.0, 96.0],
        };
        let ours = unet
            .forward(&noise(5, (2, 4, 10, 12)), &[541.5], &conditioning, &[])
            .unwrap();
        assert_close(part, &ours, &expected[part], 1e-5);
    }
}

#[test]
fn the_autoencoder_equals_diffusers() {
    let (model, expected) = (TinySdxl::write(), expected());
    let config = VaeConfig::read(&model.path("vae/config.json")).unwrap();
    let vae = Vae::load(&model.open("vae"), &config).unwrap();
    let decoded = vae.decode_unscaled(&noise(6, (1, 4, 3, 5))).unwrap();
    assert_close("decoded", &decoded, &expected["decoded"], 1e-5);
    let picture = noise(7, (1, 3, 24, 40)).clamp(-1f32, 1f32).unwrap();
    let mean = vae.encode_mean(&picture).unwrap();
    assert_close("encoded", &mean, &expected["encoded_mean"], 1e-5);
}

/// Latents after each step, timesteps and noise levels of a run, and its picture.
fn run(
    model: &crate::Sdxl,
    request: &SampleRequest,
) -> (Vec<Tensor>, Vec<f64>, Vec<f64>, image::RgbImage) {
    let (mut latents, mut timesteps, mut sigmas) = (Vec::new(), Vec::new(), Vec::new());
    let picture = model.sample(request, &mut |step| {
        latents.push(step.latents().squeeze(0).unwrap());
        timesteps.push(step.timestep);
        sigmas.extend(step.sigma);
        ControlFlow::Continue(())
    });
    (latents, timesteps, sigmas, picture.unwrap())
}

#[test]
fn trajectories_equal_diffusers() {
    let (model, expected) = (TinySdxl::write().load().unwrap(), expected());
    for scheduler in Scheduler::ALL {
        let (latents, timesteps, sigmas, _) = run(&model, &request(scheduler));
        let theirs = expected[&format!("timesteps.{scheduler}")]
            .to_vec1::<f64>()
            .unwrap();
        assert_near(&timesteps, &theirs, 1e-3);
        if let Some(theirs) = expected.get(&format!("sigmas.{scheduler}")) {
            let theirs = theirs.to_vec1::<f64>().unwrap();
            assert_near(&sigmas, &theirs[..sigmas.len()], 1e-5);
        }
        let kept: Vec<&Tensor> = [0, 3, 7].map(|step| &latents[step]).to_vec();
        let ours = Tensor::stack(&kept, 0).unwrap();
        let name = format!("trajectory.{scheduler}");
        assert_close(&name, &ours, &expected[&name], 1e-4);
    }
}

#[track_caller]
fn assert_near(ours: &[f64], theirs: &[f64], limit: f64) {
    assert_eq!(ours.len(), theirs.len());
    for (a, b) in ours.iter().zip(theirs) {
        assert!((a - b).abs() <= limit, "{ours:?} {theirs:?}");
    }
}

#[test]
fn an_absent_negative_prompt_and_no_guidance_equal_diffusers() {
    let (model, expected) = (TinySdxl::write().load().unwrap(), expected());
    let base = request(Scheduler::Euler);
    let zeros = SampleRequest {
        negative_prompt: None,
        ..base.clone()
    };
    let single = SampleRequest {
        guidance: 1.0,
        ..base
    };
    for (request, name) in [
        (zeros, "trajectory.no_negative"),
        (single, "trajectory.no_guidance"),
    ] {
        let (latents, ..) = run(&model, &request);
        let last = latents[7].unsqueeze(0).unwrap();
        assert_close(name, &last, &expected[name], 1e-4);
    }
}

#[test]
fn the_picture_equals_diffusers_within_one_level() {
    let (model, expected) = (TinySdxl::write().load().unwrap(), expected());
    let (.., picture) = run(&model, &request(Scheduler::Dpmpp2mKarras));
    let theirs = expected["image"]
        .flatten_all()
        .unwrap()
        .to_vec1::<u8>()
        .unwrap();
    let differ = picture
        .as_raw()
        .iter()
        .zip(&theirs)
        .map(|(a, b)| a.abs_diff(*b));
    let (largest, off) = differ.fold((0, 0), |(most, off), d| {
        (most.max(d), off + u32::from(d > 0))
    });
    println!(
        "picture: largest difference {largest}, in {off} of {} values",
        theirs.len()
    );
    assert!(largest <= 1);
}

/// `tests/data/sampling.safetensors`, which `tests/parity/sdxl_sampling.py` writes.
fn sampling() -> std::collections::HashMap<String, Tensor> {
    let data = include_bytes!("../tests/data/sampling.safetensors");
    candle_core::safetensors::load_buffer(data, &candle_core::Device::Cpu).unwrap()
}

#[test]
fn initial_noise_equals_torch_at_every_size_and_seed() {
    let numbers = sampling();
    let mut compared = 0;
    for (name, theirs) in numbers
        .iter()
        .filter(|(name, _)| name.starts_with("noise."))
    {
        let seed: u64 = name.split('.').nth(1).unwrap().parse().unwrap();
        let theirs = theirs.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let ours = TorchNoise::new(seed).draw(theirs.len());
        for (a, b) in ours.iter().zip(&theirs) {
            assert!((a - b).abs() <= 1e-6, "{name}: {a} {b}");
        }
        compared += 1;
    }
    assert_eq!(compared, 24);
}

/// The first and the last step's latents.
fn ends(model: &crate::Sdxl, request: &SampleRequest) -> Tensor {
    let (latents, ..) = run(model, request);
    Tensor::stack(&[&latents[0], &latents[latents.len() - 1]], 0).unwrap()
}

#[test]
fn guidance_rescale_and_no_guidance_equal_diffusers() {
    let (model, expected) = (TinySdxl::write().load().unwrap(), sampling());
    for scheduler in Scheduler::ALL {
        let rescaled = SampleRequest {
            guidance_rescale: 0.7,
            ..request(scheduler)
        };
        let plain = SampleRequest {
            guidance: 1.0,
            guidance_rescale: 0.7,
            ..request(scheduler)
        };
        for (request, kind) in [(rescaled, "rescale"), (plain, "no_guidance")] {
            let name = format!("{kind}.{scheduler}");
            assert_close(&name, &ends(&model, &request), &expected[&name], 1e-4);
        }
    }
}

#[test]
fn image_to_image_equals_diffusers() {
    let (model, expected) = (TinySdxl::write().load().unwrap(), sampling());
    let picture = image::RgbImage::from_fn(96, 80, |x, y| {
        image::Rgb([0, 40, 80].map(|shift| ((x * 5 + y * 3 + shift) % 256) as u8))
    });
    let latents = model.encode(&picture).unwrap();
    assert_close("encoded", &latents, &expected["init"], 1e-5);
    let picture = std::sync::Arc::new(picture);
    for scheduler in Scheduler::ALL {
        for strength in [0.6, 1.0] {
            let request = SampleRequest {
                init: Some(crate::Init {
                    picture: picture.clone(),
                    strength,
                }),
                ..request(scheduler)
            };
            let name = format!("image.{scheduler}.{strength:.1}");
            assert_close(&name, &ends(&model, &request), &expected[&name], 1e-4);
        }
    }
}
