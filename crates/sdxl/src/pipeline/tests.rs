use std::ops::ControlFlow;

use candle_core::{DType, Device, Tensor};
use image::RgbImage;
use serde_json::json;

use crate::testing::{TinySdxl, request, stem, truncate};
use crate::{Error, LowRankUpdate, SampleRequest, Scheduler, Sdxl};

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

fn load_error(model: &TinySdxl) -> String {
    match model.load() {
        Ok(_) => panic!("loaded"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_request_fixes_the_picture_and_the_seed_changes_it() {
    let model = TinySdxl::write().load().unwrap();
    let first = sample(&model, &small()).unwrap();
    assert_eq!(first.dimensions(), (64, 64));
    assert_eq!(sample(&model, &small()).unwrap(), first);
    let other = sample(&model, &SampleRequest { seed: 12, ..small() }).unwrap();
    assert_ne!(other, first);
}

#[test]
fn a_merge_changes_the_picture_and_restoring_is_exact() {
    let mut model = TinySdxl::write().load().unwrap();
    let plain = sample(&model, &small()).unwrap();
    let matrix = model.attention_matrices().swap_remove(5);
    let down = Tensor::randn(0f32, 1.0, (2, matrix.cols), &Device::Cpu).unwrap();
    let up = Tensor::randn(0f32, 1.0, (matrix.rows, 2), &Device::Cpu).unwrap();
    let mut update = LowRankUpdate { matrix: matrix.name, down, up, scale: 0.8 };
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
    let find = |name: &str| matrices.iter().find(|m| m.name == name).map(|m| (m.rows, m.cols));
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
        if step.index == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
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
    assert!((mean(&picture) - mean(&preview)).abs() < 40.0, "{} {}", mean(&picture), mean(&preview));
}

#[test]
fn long_prompts_take_several_windows_and_end_somewhere() {
    let model = TinySdxl::write().load().unwrap();
    let long = "one two ".repeat(60);
    let picture = sample(&model, &SampleRequest { prompt: long.clone(), ..small() }).unwrap();
    let shorter = sample(&model, &SampleRequest { prompt: long[..80].into(), ..small() }).unwrap();
    assert_ne!(picture, shorter);
    let (states, _) = model.text_embeddings(&long).unwrap();
    assert!(states.dim(1).unwrap() > 77 && states.dim(1).unwrap() % 77 == 0);
    let negative = SampleRequest { negative_prompt: Some(long), ..small() };
    sample(&model, &negative).unwrap();
}

#[test]
fn bad_requests_are_refused_by_field_before_any_work() {
    let model = TinySdxl::write().load().unwrap();
    let cases = [
        ("width", SampleRequest { width: 0, ..small() }),
        ("width", SampleRequest { width: 60, ..small() }),
        ("height", SampleRequest { height: 4096, ..small() }),
        ("steps", SampleRequest { steps: 0, ..small() }),
        ("steps", SampleRequest { steps: 10_000, ..small() }),
        ("steps", SampleRequest { steps: 51, scheduler: Scheduler::Lcm, ..small() }),
        ("steps", SampleRequest { steps: 1000, scheduler: Scheduler::Dpmpp2m, ..small() }),
        ("steps", SampleRequest { steps: 1000, scheduler: Scheduler::Ddim, ..small() }),
        ("guidance", SampleRequest { guidance: f64::NAN, ..small() }),
        ("guidance", SampleRequest { guidance: f64::INFINITY, ..small() }),
        ("prompt", SampleRequest { prompt: "x".repeat(100_000), ..small() }),
        ("prompt", SampleRequest { prompt: "é ".repeat(700), ..small() }),
        ("negative_prompt", SampleRequest { negative_prompt: Some("y ".repeat(9_000)), ..small() }),
    ];
    for (expected, request) in cases {
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
    assert!(matches!(result, Err(Error::BadRequest { field: "noise", .. })));
}

#[test]
fn every_scheduler_survives_its_extreme_step_counts() {
    let model = TinySdxl::write().load().unwrap();
    for scheduler in Scheduler::ALL {
        for steps in [1, 2] {
            let request = SampleRequest { steps, scheduler, guidance: 0.0, ..small() };
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
    assert!(error.contains("scheduler") && error.contains("dpmpp_2m_karras"), "{error}");
}

#[test]
fn a_missing_negative_prompt_is_not_an_empty_one() {
    let model = TinySdxl::write().load().unwrap();
    let none = sample(&model, &SampleRequest { negative_prompt: None, ..small() }).unwrap();
    let empty = SampleRequest { negative_prompt: Some(String::new()), ..small() };
    assert_ne!(sample(&model, &empty).unwrap(), none);
    let folder = TinySdxl::write();
    folder.set("model_index.json", "force_zeros_for_empty_prompt", json!(false));
    let model = folder.load().unwrap();
    let none = sample(&model, &SampleRequest { negative_prompt: None, ..small() }).unwrap();
    assert_eq!(sample(&model, &empty).unwrap(), none);
}

#[test]
fn half_precision_gives_nearly_the_same_picture() {
    let folder = TinySdxl::write();
    let full = sample(&folder.load().unwrap(), &small()).unwrap();
    let half = sample(&folder.load_as(DType::F16).unwrap(), &small()).unwrap();
    let differ = full.as_raw().iter().zip(half.as_raw()).map(|(a, b)| f64::from(a.abs_diff(*b)));
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
fn damaged_weight_files_are_named() {
    for part in ["unet", "vae", "text_encoder", "text_encoder_2"] {
        let folder = TinySdxl::write();
        let file = folder.path(&format!("{part}/{}.safetensors", stem(part)));
        for keep in [|length| length - 1, |length| length / 2, |_| 100, |_| 3, |_| 0] {
            truncate(&file, keep);
            let error = load_error(&folder);
            assert!(error.contains(part) && error.contains("safetensors"), "{error}");
        }
        std::fs::remove_file(&file).unwrap();
        assert!(load_error(&folder).contains(part));
    }
}

#[test]
fn missing_surplus_and_misshapen_tensors_are_named() {
    let folder = TinySdxl::write();
    let mut shapes = crate::testing::fixture()["shapes"]["unet"].clone();
    let name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight";
    shapes[name] = json!([32, 48]);
    folder.weights("unet", &shapes);
    let error = load_error(&folder);
    assert!(error.contains(name) && error.contains("[32, 64]"), "{error}");
    shapes.as_object_mut().unwrap().remove(name);
    folder.weights("unet", &shapes);
    let error = load_error(&folder);
    assert!(error.contains(name) && error.contains("missing"), "{error}");
    shapes[name] = json!([32, 64]);
    shapes["mid_block.surplus.weight"] = json!([2]);
    folder.weights("unet", &shapes);
    assert!(load_error(&folder).contains("mid_block.surplus.weight"));
}

#[test]
fn other_models_are_refused_by_name() {
    let cases = [
        ("unet/config.json", "in_channels", json!(9), "inpainting"),
        ("unet/config.json", "addition_embed_type", json!(null), "text_time"),
        ("unet/config.json", "time_cond_proj_dim", json!(256), "time_cond_proj_dim"),
        ("unet/config.json", "mid_block_type", json!(null), ""),
        ("unet/config.json", "cross_attention_dim", json!(48), ""),
        ("unet/config.json", "attention_head_dim", json!([2, 2]), "attention_head_dim"),
        ("unet/config.json", "attention_head_dim", json!(7), "heads"),
        ("unet/config.json", "block_out_channels", json!("x"), "unet"),
        ("unet/config.json", "block_out_channels", json!([]), "block_out_channels"),
        ("unet/config.json", "norm_num_groups", json!(0), "groups"),
        ("model_index.json", "text_encoder", json!([null, null]), "refiner"),
        ("model_index.json", "_class_name", json!("StableDiffusionPipeline"), "SDXL"),
        ("vae/config.json", "latent_channels", json!(16), "latent channels"),
        ("vae/config.json", "scaling_factor", json!(0), "scaling_factor"),
        ("text_encoder/config.json", "hidden_act", json!("relu"), "text_encoder"),
        ("text_encoder/config.json", "num_attention_heads", json!(0), "heads"),
        ("text_encoder/config.json", "vocab_size", json!(99), "vocab_size"),
        ("text_encoder_2/config.json", "max_position_embeddings", json!(64), "position_embedding"),
        ("scheduler/scheduler_config.json", "prediction_type", json!("v_prediction"), "epsilon"),
        ("scheduler/scheduler_config.json", "beta_end", json!(7), "betas"),
        ("tokenizer_2/tokenizer_config.json", "pad_token", json!("none"), "none"),
    ];
    for (file, field, value, expected) in cases {
        let folder = TinySdxl::write();
        folder.set(file, field, value.clone());
        if field == "mid_block_type" {
            folder.load().unwrap();
            continue;
        }
        let error = load_error(&folder);
        assert!(error.contains(expected), "{file} {field}: {error}");
    }
}

#[test]
fn a_folder_that_is_not_there_is_one_clear_error() {
    let folder = TinySdxl::write();
    std::fs::remove_file(folder.path("model_index.json")).unwrap();
    assert!(load_error(&folder).contains("model_index.json"));
    std::fs::write(folder.path("model_index.json"), "{").unwrap();
    assert!(load_error(&folder).contains("model_index.json"));
}
