//! Loading: the layouts that are accepted, and the errors for everything else.

use std::collections::HashMap;
use std::ops::ControlFlow;

use candle_core::{Device, Tensor};
use serde_json::json;

use crate::testing::{TinySdxl, fixture, stem, truncate};

fn load_error(model: &TinySdxl) -> String {
    match model.load() {
        Ok(_) => panic!("loaded"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_tokenizer_json_serves_in_place_of_vocabulary_and_merges() {
    let folder = TinySdxl::write();
    let (states, pooled) = folder
        .load()
        .unwrap()
        .text_embeddings("the person!")
        .unwrap();
    let fixture = fixture();
    let text = fixture["merges"].clone();
    let pairs = text.as_array().unwrap().iter().map(|merge| {
        let (a, b) = merge.as_str().unwrap().split_once(' ').unwrap();
        json!([a, b])
    });
    let layouts = [text.clone(), pairs.collect()];
    for (part, merges) in ["tokenizer", "tokenizer_2"].into_iter().zip(layouts) {
        let model = json!({ "vocab": fixture["vocab"], "merges": merges });
        folder.json(
            &format!("{part}/tokenizer.json"),
            &json!({ "model": model }),
        );
        std::fs::remove_file(folder.path(&format!("{part}/vocab.json"))).unwrap();
        std::fs::remove_file(folder.path(&format!("{part}/merges.txt"))).unwrap();
    }
    let again = folder
        .load()
        .unwrap()
        .text_embeddings("the person!")
        .unwrap();
    assert!(crate::testing::relative_error(&again.0, &states) == 0.0);
    assert!(crate::testing::relative_error(&again.1, &pooled) == 0.0);
}

#[test]
fn half_precision_variants_and_shards_are_found() {
    let folder = TinySdxl::write();
    let plain = folder.path("vae/diffusion_pytorch_model.safetensors");
    std::fs::rename(
        &plain,
        folder.path("vae/diffusion_pytorch_model.fp16.safetensors"),
    )
    .unwrap();
    shard(&folder);
    folder.load().unwrap();
    let second = folder.path("unet/second.safetensors");
    truncate(&second, |length| length - 1);
    assert!(load_error(&folder).contains("second.safetensors"));
    std::fs::remove_file(second).unwrap();
    assert!(load_error(&folder).contains("second.safetensors"));
    let index = "unet/diffusion_pytorch_model.safetensors.index.json";
    folder.json(
        index,
        &json!({ "weight_map": { "x": "../vae/x.safetensors" } }),
    );
    assert!(load_error(&folder).contains("plain file name"));
}

#[test]
fn half_precision_shards_have_an_index_of_their_own() {
    let folder = TinySdxl::write();
    shard(&folder);
    let plain = "unet/diffusion_pytorch_model.safetensors.index.json";
    let half = "unet/diffusion_pytorch_model.safetensors.index.fp16.json";
    std::fs::rename(folder.path(plain), folder.path(half)).unwrap();
    for part in ["text_encoder", "text_encoder_2"] {
        let file = |end: &str| folder.path(&format!("{part}/model.{end}"));
        std::fs::rename(file("safetensors"), file("fp16.safetensors")).unwrap();
    }
    folder.load().unwrap();
    folder.json(half, &json!({ "weight_map": {} }));
    assert!(load_error(&folder).contains("names no shard"));
}

#[test]
fn a_pickle_in_the_weights_place_is_refused() {
    let folder = TinySdxl::write();
    let file = |end: &str| folder.path(&format!("unet/diffusion_pytorch_model.{end}"));
    std::fs::rename(file("safetensors"), file("bin")).unwrap();
    assert!(load_error(&folder).contains("pickle"));
    std::fs::write(file("safetensors"), b"PK\x03\x04........").unwrap();
    assert!(load_error(&folder).contains("pickle"));
}

#[test]
fn a_refiners_unet_is_refused_by_name() {
    let folder = TinySdxl::write();
    let field = "projection_class_embeddings_input_dim";
    folder.set("unet/config.json", field, json!(5 * 8 + 32));
    assert!(load_error(&folder).contains("refiner"));
}

/// Splits the UNet's weights into two shards.
fn shard(folder: &TinySdxl) {
    let file = folder.path("unet/diffusion_pytorch_model.safetensors");
    let tensors = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
    let of = |name: &str| {
        if name.starts_with("up") {
            "second"
        } else {
            "first"
        }
    };
    let names: serde_json::Map<String, serde_json::Value> = tensors
        .keys()
        .map(|name| (name.clone(), json!(format!("{}.safetensors", of(name)))))
        .collect();
    for shard in ["first", "second"] {
        let part: HashMap<String, Tensor> = tensors
            .iter()
            .filter(|(name, _)| of(name) == shard)
            .map(|(n, t)| (n.clone(), t.clone()))
            .collect();
        let path = folder.path(&format!("unet/{shard}.safetensors"));
        candle_core::safetensors::save(&part, path).unwrap();
    }
    let index = "unet/diffusion_pytorch_model.safetensors.index.json";
    folder.json(index, &json!({ "weight_map": names }));
    std::fs::remove_file(file).unwrap();
}

#[test]
fn damaged_weight_files_are_named() {
    for part in ["unet", "vae", "text_encoder", "text_encoder_2"] {
        let folder = TinySdxl::write();
        let file = folder.path(&format!("{part}/{}.safetensors", stem(part)));
        for keep in [
            |length| length - 1,
            |length| length / 2,
            |_| 100,
            |_| 3,
            |_| 0,
        ] {
            truncate(&file, keep);
            let error = load_error(&folder);
            assert!(
                error.contains(part) && error.contains("safetensors"),
                "{error}"
            );
        }
        std::fs::remove_file(&file).unwrap();
        assert!(load_error(&folder).contains(part));
    }
}

#[test]
fn missing_surplus_and_misshapen_tensors_are_named() {
    let folder = TinySdxl::write();
    let mut shapes = fixture()["shapes"]["unet"].clone();
    let name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight";
    shapes[name] = json!([32, 48]);
    folder.weights("unet", &shapes);
    let error = load_error(&folder);
    assert!(
        error.contains(name) && error.contains("[32, 64]"),
        "{error}"
    );
    shapes.as_object_mut().unwrap().remove(name);
    folder.weights("unet", &shapes);
    let error = load_error(&folder);
    assert!(error.contains(name) && error.contains("missing"), "{error}");
    shapes[name] = json!([32, 64]);
    shapes["mid_block.surplus.weight"] = json!([2]);
    folder.weights("unet", &shapes);
    assert!(load_error(&folder).contains("mid_block.surplus.weight"));
}

#[track_caller]
fn assert_refused(file: &str, cases: &[(&str, serde_json::Value, &str)]) {
    for (field, value, expected) in cases {
        let folder = TinySdxl::write();
        folder.set(file, field, value.clone());
        let error = load_error(&folder);
        assert!(error.contains(expected), "{file} {field}: {error}");
    }
}

#[test]
fn other_unets_are_refused_by_name() {
    let cases = [
        ("in_channels", json!(9), "inpainting"),
        ("addition_embed_type", json!(null), "text_time"),
        ("time_cond_proj_dim", json!(256), "time_cond_proj_dim"),
        ("cross_attention_dim", json!(48), "width 48"),
        ("attention_head_dim", json!([2, 2]), "attention_head_dim"),
        ("attention_head_dim", json!(7), "heads"),
        ("attention_head_dim", json!(0), "heads"),
        ("block_out_channels", json!("x"), "unet"),
        ("block_out_channels", json!([]), "block_out_channels"),
        ("block_out_channels", json!([0, 32, 32]), "no channels"),
        ("norm_num_groups", json!(0), "groups"),
        ("mid_block_type", json!(null), "middle block `null`"),
        (
            "resnet_time_scale_shift",
            json!("scale_shift"),
            "scale_shift",
        ),
        (
            "only_cross_attention",
            json!([false, true, false]),
            "only_cross",
        ),
        (
            "transformer_layers_per_block",
            json!([1, [2, 2], [4, 4]]),
            "`transformer_layers_per_block` = [1,[2,2],[4,4]]",
        ),
    ];
    assert_refused("unet/config.json", &cases);
    let folder = TinySdxl::write();
    let each = json!([false, false, false]);
    folder.set("unet/config.json", "only_cross_attention", each);
    folder.load().unwrap();
}

#[test]
fn other_models_are_refused_by_name() {
    let cases = [
        ("text_encoder", json!([null, null]), "refiner"),
        ("_class_name", json!("StableDiffusionPipeline"), "SDXL"),
    ];
    assert_refused("model_index.json", &cases);
    let cases = [
        ("latent_channels", json!(16), "latent channels"),
        ("scaling_factor", json!(0), "scaling_factor"),
        ("block_out_channels", json!([]), "block_out_channels"),
        ("_class_name", json!("AutoencoderTiny"), "AutoencoderTiny"),
        ("act_fn", json!("gelu"), "`act_fn` = \"gelu\""),
    ];
    assert_refused("vae/config.json", &cases);
    let cases = [
        ("hidden_act", json!("relu"), "text_encoder"),
        ("num_attention_heads", json!(0), "heads"),
        ("num_hidden_layers", json!(1), "penultimate"),
        ("vocab_size", json!(99), "vocab_size"),
        ("max_position_embeddings", json!(64), "position_embedding"),
    ];
    assert_refused("text_encoder/config.json", &cases);
    let cases = [
        ("prediction_type", json!("sample"), "epsilon"),
        ("beta_end", json!(7), "betas"),
        ("num_train_timesteps", json!(0), "timestep"),
        ("beta_schedule", json!("squaredcos_cap_v2"), "scaled_linear"),
        ("rescale_betas_zero_snr", json!(true), "zero_snr"),
        ("sigma_min", json!(0), "sigma_min"),
    ];
    assert_refused("scheduler/scheduler_config.json", &cases);
    assert_refused(
        "tokenizer_2/tokenizer_config.json",
        &[("pad_token", json!("none"), "none")],
    );
}

#[test]
fn a_folder_that_is_not_there_is_one_clear_error() {
    let folder = TinySdxl::write();
    std::fs::remove_file(folder.path("model_index.json")).unwrap();
    assert!(load_error(&folder).contains("model_index.json"));
    std::fs::write(folder.path("model_index.json"), "{").unwrap();
    assert!(load_error(&folder).contains("model_index.json"));
}

#[test]
fn sizes_that_no_model_has_are_refused() {
    for (file, field, value) in [
        ("unet/config.json", "layers_per_block", json!(1u64 << 60)),
        ("unet/config.json", "layers_per_block", json!(5000)),
        (
            "unet/config.json",
            "block_out_channels",
            json!([1u64 << 62, 64]),
        ),
        (
            "unet/config.json",
            "transformer_layers_per_block",
            json!(100_000),
        ),
        ("vae/config.json", "layers_per_block", json!(1u64 << 50)),
        (
            "text_encoder/config.json",
            "num_hidden_layers",
            json!(1_000_000),
        ),
        (
            "text_encoder_2/config.json",
            "intermediate_size",
            json!(u64::MAX),
        ),
    ] {
        let folder = TinySdxl::write();
        folder.set(file, field, value);
        let error = load_error(&folder);
        assert!(error.contains("expected at most"), "{error}");
    }
}

#[test]
fn a_damaged_weight_makes_no_black_picture() {
    let folder = TinySdxl::write();
    let file = folder.path("vae/diffusion_pytorch_model.safetensors");
    let mut tensors = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
    let bias = tensors.get_mut("decoder.conv_out.bias").unwrap();
    *bias = Tensor::full(f32::NAN, bias.shape(), &Device::Cpu).unwrap();
    candle_core::safetensors::save(&tensors, &file).unwrap();
    let request = crate::testing::request(crate::Scheduler::Ddim);
    let end = folder
        .load()
        .unwrap()
        .sample(&request, &mut |_| ControlFlow::Continue(()));
    assert!(matches!(end, Err(crate::Error::NotFinitePicture)));
}

/// DPM-Solver's configuration as Python writes it.
#[test]
fn a_schedulers_infinity_is_read() {
    let folder = TinySdxl::write();
    let path = folder.path("scheduler/scheduler_config.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let more = "{\"lambda_min_clipped\": -Infinity, \"solver_order\": 2,";
    std::fs::write(&path, text.replacen('{', more, 1)).unwrap();
    folder.load().unwrap();
}
