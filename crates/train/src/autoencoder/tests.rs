use std::path::Path;

use candle_core::{Device, Var};
use likeness_sdxl::parts::{VaeConfig, Variables, Weights};
use serde_json::json;

use super::*;
use crate::{AdamW, Chance, Gradients, Group, Settings, pictures};

fn tiny(variables: &Variables) -> Vae {
    let config = json!({
        "block_out_channels": [8, 8], "layers_per_block": 1, "norm_num_groups": 4,
        "latent_channels": 4, "scaling_factor": 1.0,
    });
    let config = VaeConfig::parse(config, Path::new("tiny")).unwrap();
    Vae::load(&Weights::variables(variables, &Device::Cpu), &config).unwrap()
}

fn batch(step: u64) -> (Tensor, Tensor) {
    let who: Vec<(u64, u64)> = (0..4).map(|i| (4 * step + i, 99 + i)).collect();
    let noise = Chance::at(1, step, "latents").normal(&[4, 4, 16, 16], &Device::Cpu);
    (pictures(&who, 32, &Device::Cpu).unwrap(), noise.unwrap())
}

#[test]
fn every_weight_gets_a_gradient_that_is_not_zero() {
    let variables = Variables::new(3, &Device::Cpu);
    let vae = tiny(&variables);
    let (pictures, noise) = batch(0);
    let outcome = loss(&vae, &pictures, &noise, Terms::default()).unwrap();
    let all = variables.all();
    assert!(all.len() > 60, "{}", all.len());
    let gradients = Gradients::of(&outcome.loss, &all).unwrap();
    for name in all.keys() {
        let largest = gradients.named(name).unwrap().abs().unwrap();
        let largest = largest.flatten_all().unwrap().max(0).unwrap();
        // A key's bias moves all scores of a query alike, which its softmax cancels.
        let cancelled = name.ends_with("to_k.bias");
        let found = largest.to_scalar::<f32>().unwrap();
        assert!(cancelled || found > 1e-9, "{name}: {found}");
    }
}

#[test]
fn a_gradient_is_the_slope_of_the_loss() {
    let variables = Variables::new(3, &Device::Cpu);
    let vae = tiny(&variables);
    let (pictures, noise) = batch(0);
    let value = || {
        let outcome = loss(&vae, &pictures, &noise, Terms::default()).unwrap();
        outcome.loss
    };
    let all = variables.all();
    let gradients = Gradients::of(&value(), &all).unwrap();
    for name in [
        "encoder.conv_in.weight",
        "decoder.mid_block.attentions.0.to_v.weight",
    ] {
        let var: &Var = &all[name];
        let gradient = gradients.named(name).unwrap();
        let norm = gradient.sqr().unwrap().sum_all().unwrap().sqrt().unwrap();
        let norm = f64::from(norm.to_scalar::<f32>().unwrap());
        let start = var.as_tensor().copy().unwrap();
        let along = |distance: f64| {
            let moved = (&start + (gradient * (distance / norm)).unwrap()).unwrap();
            var.set(&moved).unwrap();
            f64::from(value().to_scalar::<f32>().unwrap())
        };
        // Large enough for f32 to see a difference, small enough for a straight line.
        let slope = (along(0.004) - along(-0.004)) / 0.008;
        var.set(&start).unwrap();
        assert!(
            (slope / norm - 1.0).abs() < 0.01,
            "{name}: {slope} for {norm}"
        );
    }
}

#[test]
fn training_lowers_the_loss() {
    let variables = Variables::new(3, &Device::Cpu);
    let vae = tiny(&variables);
    let all = variables.all();
    let mut adam = AdamW::new(&all, Settings::default(), |_, var| Group::of(var)).unwrap();
    let mut losses = Vec::new();
    for step in 0..40 {
        let (pictures, noise) = batch(step);
        let found = loss(&vae, &pictures, &noise, Terms::default())
            .unwrap()
            .loss;
        let gradients = Gradients::of(&found, &all).unwrap();
        adam.step(&gradients, 3e-3).unwrap();
        losses.push(found.to_scalar::<f32>().unwrap());
    }
    let mean = |losses: &[f32]| losses.iter().sum::<f32>() / losses.len() as f32;
    let (first, last) = (mean(&losses[..5]), mean(&losses[35..]));
    assert!(last < 0.6 * first, "{first} to {last}");
}
