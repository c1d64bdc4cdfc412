use std::collections::HashMap;

use candle_core::{DType, Device};
use likeness_hyperlora::ClipVision;
use likeness_sdxl::parts::Variables;
use serde_json::json;

use super::*;
use crate::{Chance, Gradients};

fn config() -> serde_json::Value {
    json!({
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2,
        "num_channels": 3, "image_size": 12, "patch_size": 4, "projection_dim": 8,
        "layer_norm_eps": 1e-5, "hidden_act": "gelu",
    })
}

fn tower() -> (Variables, Vision) {
    let variables = Variables::new(5, &Device::Cpu);
    let config = VisionConfig::parse(config(), "tiny").unwrap();
    let weights = Weights::variables(&variables, &Device::Cpu);
    let vision = Vision::load(&weights, &config).unwrap();
    // At the start a class token and all biases are 0, which would hide where they are left out.
    for (name, var) in variables.all() {
        let drawn = Chance::at(3, 0, &name)
            .normal(var.dims(), &Device::Cpu)
            .unwrap();
        var.set(&(var.as_tensor() + (drawn * 0.1).unwrap()).unwrap())
            .unwrap();
    }
    (variables, vision)
}

fn pictures() -> Tensor {
    Chance::at(1, 0, "pictures")
        .normal(&[2, 3, 12, 12], &Device::Cpu)
        .unwrap()
}

#[test]
fn what_is_saved_is_the_tower_that_enrolment_loads() {
    let (variables, vision) = tower();
    let folder = tempfile::tempdir().unwrap();
    let named: HashMap<String, Tensor> = variables
        .all()
        .into_iter()
        .map(|(name, var)| (name, var.as_detached_tensor()))
        .collect();
    candle_core::safetensors::save(&named, folder.path().join("model.safetensors")).unwrap();
    let text = json!({"model_type": "clip", "vision_config": config()}).to_string();
    std::fs::write(folder.path().join("config.json"), text).unwrap();
    let loaded = ClipVision::load(folder.path(), &Device::Cpu).unwrap();
    let theirs = loaded.hidden_states(&pictures()).unwrap();
    let ours = vision.states(&pictures()).unwrap();
    let error = (&ours - &theirs)
        .unwrap()
        .abs()
        .unwrap()
        .flatten_all()
        .unwrap();
    let error = error.max(0).unwrap().to_dtype(DType::F32).unwrap();
    assert!(error.to_scalar::<f32>().unwrap() < 1e-5);
}

#[test]
fn every_weight_gets_a_gradient() {
    let (variables, vision) = tower();
    let states = vision.states(&pictures()).unwrap();
    let embedded = vision.embeddings(&states).unwrap();
    let loss = (states.sqr().unwrap().mean_all().unwrap()
        + embedded.sqr().unwrap().mean_all().unwrap())
    .unwrap();
    let all = variables.all();
    let gradients = Gradients::of(&loss, &all).unwrap();
    for name in all.keys().filter(|name| !name.ends_with("k_proj.bias")) {
        let squares = gradients
            .named(name)
            .unwrap()
            .sqr()
            .unwrap()
            .sum_all()
            .unwrap();
        assert!(squares.to_scalar::<f32>().unwrap() > 1e-16, "{name}");
    }
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    for (name, value) in [
        ("num_attention_heads", json!(3)),
        ("patch_size", json!(5)),
        ("hidden_act", json!("quick_gelu")),
        ("num_hidden_layers", json!(1)),
        ("hidden_size", json!("wide")),
    ] {
        let mut config = config();
        config[name] = value;
        let error = VisionConfig::parse(config, "tiny").unwrap_err();
        assert!(matches!(error, Error::Recipe { .. }), "{name}");
    }
}
