use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Var};
use likeness_sdxl::parts::{ClipSkip, TextConfig, TextEncoder, UNetConfig, Variables, Weights};
use serde_json::json;

use super::*;
use crate::Gradients;

const RANK: usize = 2;

/// A text encoder and a UNet, and four noised latents of two people with a window of text each.
struct World {
    variables: Variables,
    text: TextEncoder,
    unet: UNet,
    latents: Tensor,
    noise: Tensor,
    timesteps: Vec<usize>,
}

fn world() -> World {
    let variables = Variables::new(3, &Device::Cpu);
    let weights = Weights::variables(&variables, &Device::Cpu);
    let text = json!({
        "vocab_size": 20, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 8, "projection_dim": 16,
        "hidden_act": "gelu", "bos_token_id": 0, "eos_token_id": 19,
    });
    let text = TextConfig::parse(text, Path::new("tiny")).unwrap();
    let unet = json!({
        "block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 4,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        "transformer_layers_per_block": 1, "attention_head_dim": [1, 2], "cross_attention_dim": 16,
        "use_linear_projection": true, "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 40,
    });
    let unet = UNetConfig::parse(unet, Path::new("tiny")).unwrap();
    let mut chance = Chance::at(5, 0, "latents");
    let shape = [4, 4, 8, 8];
    World {
        text: TextEncoder::load(&weights.pp("text"), &text, true).unwrap(),
        unet: UNet::load(&weights.pp("unet"), &unet).unwrap(),
        latents: chance.normal(&shape, &Device::Cpu).unwrap(),
        noise: chance.normal(&shape, &Device::Cpu).unwrap(),
        timesteps: vec![3, 300, 600, 999],
        variables,
    }
}

impl World {
    fn loss(&self, own: &[Option<&Unmerged>]) -> Tensor {
        let windows: Vec<Vec<u32>> = (1..5).map(|i| vec![0, i, 2 * i, 19]).collect();
        let skip = ClipSkip::new(2, 2).unwrap();
        let encoded = self.text.forward(&windows, skip).unwrap();
        let conditioning = Conditioning {
            text: encoded.states,
            pooled: encoded.pooled.unwrap(),
            time_ids: [64.0, 64.0, 0.0, 0.0, 64.0, 64.0],
        };
        let noised = Noised {
            latents: &self.latents,
            noise: &self.noise,
            timesteps: &self.timesteps,
        };
        let noising = Noising::scaled_linear();
        loss(&self.unet, &conditioning, &noised, own, &noising).unwrap()
    }

    /// Factors of every attention matrix, not zero, as variables.
    fn factors(&self, person: u64) -> BTreeMap<String, Var> {
        let mut chance = Chance::at(7, person, "factors");
        let mut var = |shape: &[usize]| {
            let start = chance.normal(shape, &Device::Cpu).unwrap();
            Var::from_tensor(&(start * 0.2).unwrap()).unwrap()
        };
        let matrices = self.unet.attention_matrices().into_iter();
        let each = matrices.flat_map(|matrix| {
            let (down, up) = (var(&[RANK, matrix.cols]), var(&[matrix.rows, RANK]));
            let name = |part| format!("{}.{part}.{person}", matrix.name);
            [(name("down"), down), (name("up"), up)]
        });
        each.collect()
    }

    fn own_terms(&self, person: u64, factors: &BTreeMap<String, Var>) -> Unmerged {
        let matrices = self.unet.attention_matrices().into_iter();
        let terms = matrices.map(|matrix| {
            let part = |part| factors[&format!("{}.{part}.{person}", matrix.name)].as_tensor();
            (
                matrix.name.clone(),
                part("down").clone(),
                part("up").clone(),
            )
        });
        self.unet.own_terms(terms.collect()).unwrap()
    }
}

fn number(x: &Tensor) -> f64 {
    f64::from(x.to_scalar::<f32>().unwrap())
}

fn largest(x: &Tensor) -> f64 {
    let flat = x.abs().unwrap().flatten_all().unwrap();
    number(&flat.max(0).unwrap())
}

#[test]
fn noise_is_mixed_in_as_in_diffusers() {
    let noising = Noising::scaled_linear();
    // DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear") of diffusers 0.42.
    let known = [
        (0, 0.999_149_98),
        (1, 0.998_296_02),
        (499, 0.277_669_43),
        (998, 0.004_716_696),
        (999, 0.004_660_095),
    ];
    for (timestep, expected) in known {
        // Theirs is a product of f32.
        assert!((noising.kept(timestep) / expected - 1.0).abs() < 1e-5);
    }
    assert!((noising.weight(0) - 1.0).abs() < 0.001 && (noising.weight(999) - 20.0).abs() < 1e-9);
    let one = |value: f32| Tensor::full(value, (1, 1), &Device::Cpu).unwrap();
    let mixed = noising.mix(&one(1.0), &one(10.0), &[499]).unwrap();
    let expected = 0.277_669_43_f64.sqrt() + 10.0 * (1.0 - 0.277_669_43_f64).sqrt();
    assert!((number(&mixed.flatten_all().unwrap().get(0).unwrap()) - expected).abs() < 1e-4);
}

#[test]
fn strong_noise_is_drawn_more_often() {
    let drawn = Noising::draw(&mut Chance::at(1, 0, "timesteps"), 10_000);
    assert!(drawn.iter().all(|&t| t < 1000));
    let late = drawn.iter().filter(|&&t| t >= 500).count();
    // 1 − 0.5^(1/0.6) = 0.685.
    assert!((6_700..7_000).contains(&late), "{late}");
}

#[test]
fn every_weight_of_unet_and_text_encoder_gets_a_gradient_that_is_not_zero() {
    let world = world();
    let loss = world.loss(&[]);
    let all = world.variables.all();
    assert!(all.len() > 150, "{}", all.len());
    let gradients = Gradients::of(&loss, &all).unwrap();
    for name in all.keys() {
        // A key's bias moves all scores of a query alike, which its softmax cancels.
        let cancelled = name.ends_with("k_proj.bias");
        let found = largest(gradients.named(name).unwrap());
        assert!(cancelled || found > 1e-9, "{name}: {found}");
    }
}

#[test]
fn each_sample_teaches_its_own_terms() {
    let world = world();
    let (first, second) = (world.factors(1), world.factors(2));
    let own = [
        Some(world.own_terms(1, &first)),
        Some(world.own_terms(2, &second)),
    ];
    let own = own.each_ref().map(Option::as_ref);
    let mut all = first.clone();
    all.extend(second);
    let gradients = Gradients::of(&world.loss(&own), &all).unwrap();
    for name in all.keys() {
        assert!(largest(gradients.named(name).unwrap()) > 1e-9, "{name}");
    }
    // Who is not in the batch gets none.
    let alone = [own[0], None];
    assert!(Gradients::of(&world.loss(&alone), &all).is_err());
    assert!(Gradients::of(&world.loss(&alone), &first).is_ok());
}

#[test]
fn terms_for_a_matrix_that_is_not_there_are_refused() {
    let world = world();
    let zeros = || Tensor::zeros((2, 2), DType::F32, &Device::Cpu).unwrap();
    let terms = vec![("nowhere.to_q".to_owned(), zeros(), zeros())];
    assert!(world.unet.own_terms(terms).is_err());
}

#[test]
fn a_gradient_is_the_slope_of_the_loss() {
    let world = world();
    let all = world.variables.all();
    let gradients = Gradients::of(&world.loss(&[]), &all).unwrap();
    let deep = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight";
    for name in [deep, "text.text_model.embeddings.token_embedding.weight"] {
        let (var, gradient) = (&all[name], gradients.named(name).unwrap());
        let norm = number(&gradient.sqr().unwrap().sum_all().unwrap()).sqrt();
        let start = var.as_tensor().copy().unwrap();
        let along = |distance: f64| {
            let moved = (&start + (gradient * (distance / norm)).unwrap()).unwrap();
            var.set(&moved).unwrap();
            number(&world.loss(&[]))
        };
        // Large enough for f32 to see a difference, small enough for a straight line.
        let slope = (along(0.05) - along(-0.05)) / 0.1;
        var.set(&start).unwrap();
        assert!(
            (slope / norm - 1.0).abs() < 0.02,
            "{name}: {slope} for {norm}"
        );
    }
}
