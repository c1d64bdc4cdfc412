use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device};
use likeness_domain::coefficients::Coefficients;
use likeness_hyperlora::{Encoder, Kind, ResamplerSizes};
use likeness_sdxl::Unmerged;
use likeness_sdxl::parts::{Conditioning, UNet, UNetConfig, Variables, Weights};
use serde_json::json;

use super::*;
use crate::denoise::{Noised, Noising, loss};
use crate::{Chance, Gradients};

const K: usize = 4;
const RANK: usize = 2;
const SIZES: ResamplerSizes = ResamplerSizes {
    tokens: 64,
    dim: 12,
    heads: 2,
    dim_head: 4,
    ff: 24,
    depth: 2,
    k: K,
    id_tokens: 3,
    embedding: 10,
    clip_width: 16,
};

/// A frozen UNet of four stacks with two attentions each, and a hypernetwork that fits it.
struct World {
    unet: UNet,
    encoder: Variables,
    projector: IdProjector,
    resampler: Resampler,
    bases: Variables,
    basis: Basis,
}

fn world() -> World {
    let config = json!({
        "block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 4,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        "transformer_layers_per_block": 1, "attention_head_dim": [1, 2], "cross_attention_dim": 12,
        "use_linear_projection": true, "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 40,
    });
    let config = UNetConfig::parse(config, Path::new("tiny")).unwrap();
    let frozen = Variables::new(1, &Device::Cpu);
    let unet = UNet::load(&Weights::variables(&frozen, &Device::Cpu), &config).unwrap();
    let (encoder, bases) = (
        Variables::new(2, &Device::Cpu),
        Variables::new(3, &Device::Cpu),
    );
    let weights = Weights::variables(&encoder, &Device::Cpu);
    let (projector, resampler) = (weights.pp("id_projector"), weights.pp("resampler"));
    let clip = Some(SIZES.clip_width);
    let basis = Weights::variables(&bases, &Device::Cpu);
    World {
        projector: IdProjector::load(&projector, &SIZES).unwrap(),
        resampler: Resampler::load(&resampler, &SIZES, SIZES.dim, clip).unwrap(),
        basis: Basis::load(&basis, &unet, Kind::Id, K, RANK).unwrap(),
        unet,
        encoder,
        bases,
    }
}

/// A face embedding and CLIP's states of two people.
fn inputs() -> (Tensor, Tensor) {
    let mut chance = Chance::at(9, 0, "inputs");
    let mut normal = |shape: &[usize]| chance.normal(shape, &Device::Cpu).unwrap();
    let faces = normal(&[2, SIZES.embedding]);
    let lengths = faces.sqr().unwrap().sum_keepdim(1).unwrap().sqrt().unwrap();
    let faces = faces.broadcast_div(&lengths).unwrap();
    (faces, normal(&[2, 5, SIZES.clip_width]))
}

impl World {
    fn coefficients(&self) -> Tensor {
        let (faces, clip) = inputs();
        let tokens = self.projector.forward(&faces).unwrap();
        self.resampler.forward(&tokens, Some(&clip)).unwrap()
    }

    fn own_terms(&self) -> Vec<Unmerged> {
        let tokens = normalised(&self.coefficients()).unwrap();
        self.basis.own_terms(&self.unet, &tokens, 1.0).unwrap()
    }

    fn told(&self, own: &[Option<&Unmerged>]) -> Tensor {
        let (latents, _) = latents();
        let times = [500.0; 2];
        self.unet
            .forward(&latents, &times, &conditioning(), own)
            .unwrap()
    }
}

fn latents() -> (Tensor, Tensor) {
    let mut chance = Chance::at(9, 1, "latents");
    let mut normal = || chance.normal(&[2, 4, 8, 8], &Device::Cpu).unwrap();
    (normal(), normal())
}

fn conditioning() -> Conditioning {
    let mut chance = Chance::at(9, 2, "text");
    Conditioning {
        text: chance.normal(&[2, 6, 12], &Device::Cpu).unwrap(),
        pooled: chance.normal(&[2, 16], &Device::Cpu).unwrap(),
        time_ids: [64.0, 64.0, 0.0, 0.0, 64.0, 64.0],
    }
}

/// The variables below a prefix, in a file.
fn save(variables: &Variables, prefix: &str, path: &Path) {
    let all = variables.all().into_iter();
    let named = all.filter_map(|(name, var)| {
        let name = name.strip_prefix(prefix)?.to_owned();
        Some((name, var.as_tensor().clone()))
    });
    let named: HashMap<String, Tensor> = named.collect();
    candle_core::safetensors::save(&named, path).unwrap();
}

/// The model's folder, as it is released.
fn released(world: &World) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    let encoder = &world.encoder;
    save(encoder, "id_projector.", &file("id_projector.safetensors"));
    save(encoder, "resampler.", &file("resampler.safetensors"));
    save(&world.bases, "", &file("hyper_lora_modules.safetensors"));
    write_modules(&world.unet, &file("hyper_lora_modules.json")).unwrap();
    dir
}

fn number(x: &Tensor) -> f64 {
    f64::from(x.to_dtype(DType::F32).unwrap().to_scalar::<f32>().unwrap())
}

/// ‖a − b‖ / ‖b‖.
fn distance(a: &Tensor, b: &Tensor) -> f64 {
    let norm = |x: Tensor| number(&x.sqr().unwrap().sum_all().unwrap()).sqrt();
    norm((a - b).unwrap()) / norm(b.clone())
}

#[test]
fn what_is_saved_is_what_enrolment_computes_with() {
    let world = world();
    let dir = released(&world);
    let encoder = Encoder::load(dir.path(), SIZES.dim_head, &Device::Cpu).unwrap();
    let (faces, clip) = inputs();
    let loaded = encoder.per_photo(&clip, &faces).unwrap();
    let trained = world.coefficients();
    for (person, loaded) in loaded.iter().enumerate() {
        let shape = (loaded.tokens(), loaded.k());
        let loaded = Tensor::from_slice(loaded.values(), shape, &Device::Cpu).unwrap();
        assert!(distance(&trained.get(person).unwrap(), &loaded) < 1e-5);
    }
}

#[test]
fn what_is_saved_is_what_the_worker_synthesises_with() {
    let world = world();
    let dir = released(&world);
    let basis = likeness_hyperlora::Basis::load(dir.path(), &Device::Cpu).unwrap();
    assert_eq!(basis.tokens(), SIZES.tokens);
    let coefficients = world.coefficients();
    let own = world.own_terms();
    let trained = world.told(&[Some(&own[0]), Some(&own[1])]);
    let theirs: Vec<Unmerged> = (0..2)
        .map(|person| {
            let values = coefficients.get(person).unwrap().flatten_all().unwrap();
            let values = values.to_vec1::<f32>().unwrap();
            let one = Coefficients::new(SIZES.tokens, K, values).unwrap();
            let lora = basis.synthesize(&one.normalised(), Kind::Id).unwrap();
            let terms = lora.matrices.iter().map(|matrix| {
                let up = (&matrix.up * matrix.scale()).unwrap();
                (matrix.target(), matrix.down.clone(), up)
            });
            world.unet.own_terms(terms.collect()).unwrap()
        })
        .collect();
    let loaded = world.told(&[Some(&theirs[0]), Some(&theirs[1])]);
    let base = world.told(&[]);
    assert!(distance(&trained, &base) > 0.01, "the terms do something");
    assert!(distance(&trained, &loaded) < 1e-5);
}

#[test]
fn every_weight_of_the_hypernetwork_gets_a_gradient_that_is_not_zero() {
    let world = world();
    let own = world.own_terms();
    let own: Vec<Option<&Unmerged>> = own.iter().map(Some).collect();
    let (latents, noise) = latents();
    let noised = Noised {
        latents: &latents,
        noise: &noise,
        timesteps: &[100, 900],
    };
    let noising = Noising::scaled_linear();
    let loss = loss(&world.unet, &conditioning(), &noised, &own, &noising).unwrap();
    let mut all = world.encoder.all();
    all.extend(world.bases.all());
    let gradients = Gradients::of(&loss, &all).unwrap();
    for name in all.keys() {
        let largest = gradients.named(name).unwrap().abs().unwrap();
        let largest = number(&largest.flatten_all().unwrap().max(0).unwrap());
        assert!(largest > 1e-10, "{name}: {largest}");
    }
}

#[test]
fn at_the_start_nobody_has_any_effect_and_only_up_moves() {
    let world = world();
    Basis::start(&world.bases, "", &world.unet, Kind::Id, K, RANK).unwrap();
    let own = world.own_terms();
    let told = world.told(&[Some(&own[0]), Some(&own[1])]);
    assert!(distance(&told, &world.told(&[])) < 1e-7);
    let loss = told.sqr().unwrap().sum_all().unwrap();
    let all = world.bases.all();
    let gradients = Gradients::of(&loss, &all).unwrap();
    for name in all.keys() {
        let moves = number(
            &gradients
                .named(name)
                .unwrap()
                .sqr()
                .unwrap()
                .sum_all()
                .unwrap(),
        ) > 0.0;
        assert_eq!(moves, name.ends_with("up_basis"), "{name}");
    }
    let down = &all["0.to_q.id_down_basis"];
    let spread = number(&down.sqr().unwrap().mean_all().unwrap()) * 16.0;
    assert!((0.7..1.4).contains(&spread), "variance {spread}/in");
}

#[test]
fn a_batchs_terms_do_what_each_samples_do() {
    let world = world();
    let own = world.own_terms();
    let tokens = normalised(&world.coefficients()).unwrap();
    let ones = Tensor::ones(2, DType::F32, &Device::Cpu).unwrap();
    let both = batch_terms(&world.unet, &[(&world.basis, &tokens, &ones)]).unwrap();
    let each = world.told(&[Some(&own[0]), Some(&own[1])]);
    assert!(distance(&world.told(&[Some(&both)]), &each) < 1e-5);
    // Two bases stack: one at half the weight twice is the whole, and at weight 0 a sample is as without.
    let half = (&ones * 0.5).unwrap();
    let part = (&world.basis, &tokens, &half);
    let twice = batch_terms(&world.unet, &[part, part]).unwrap();
    assert!(distance(&world.told(&[Some(&twice)]), &each) < 1e-5);
    let first = Tensor::new(&[1f32, 0.0], &Device::Cpu).unwrap();
    let first = batch_terms(&world.unet, &[(&world.basis, &tokens, &first)]).unwrap();
    let alone = world.told(&[Some(&own[0]), None]);
    assert!(distance(&world.told(&[Some(&first)]), &alone) < 1e-5);
}
