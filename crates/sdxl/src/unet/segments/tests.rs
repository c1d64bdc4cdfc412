use candle_core::Device;

use super::*;
use crate::config::UNetConfig;
use crate::testing::{fixture, relative_error};
use crate::weights::{Variables, Weights};

/// A frozen UNet with three levels, transformers of one and two blocks, and samples with terms of their own.
struct World {
    unet: UNet,
    latents: Tensor,
    conditioning: Conditioning,
    /// Down and up of every matrix.
    vars: Vec<(String, Var, Var)>,
}

fn random(dims: &[usize], spread: f32) -> Tensor {
    Tensor::randn(0f32, spread, dims, &Device::Cpu).unwrap()
}

fn world(side: usize) -> World {
    let config = fixture()["configs"]["unet"].clone();
    let config = UNetConfig::parse(config, std::path::Path::new("tiny")).unwrap();
    let variables = Variables::new(5, &Device::Cpu);
    UNet::load(&Weights::variables(&variables, &Device::Cpu), &config).unwrap();
    let unet = UNet::load(&Weights::frozen(&variables, &Device::Cpu), &config).unwrap();
    let pooled = config.added_dim - 6 * config.time_id_dim;
    let vars = unet.attention_matrices().into_iter().map(|matrix| {
        let var = |dims: &[usize]| Var::from_tensor(&random(dims, 0.2)).unwrap();
        let (down, up) = (var(&[2, matrix.cols, 3]), var(&[2, 3, matrix.rows]));
        (matrix.name, down, up)
    });
    World {
        latents: random(&[2, 4, side, side], 1.0),
        conditioning: Conditioning {
            text: random(&[2, 7, config.cross_attention_dim], 1.0),
            pooled: random(&[2, pooled], 1.0),
            time_ids: [64.0, 64.0, 0.0, 0.0, 64.0, 64.0],
        },
        vars: vars.collect(),
        unet,
    }
}

impl World {
    /// The factors are twice the variables, so that there is something behind them that has a gradient.
    fn own(&self) -> Unmerged {
        let twice = |var: &Var| (var.as_tensor() * 2.0).unwrap();
        let terms = self.vars.iter();
        let terms = terms.map(|(name, down, up)| (name.clone(), twice(down), twice(up)));
        self.unet.batch_terms(terms.collect()).unwrap()
    }

    fn weights(&self) -> Tensor {
        let count = self.latents.elem_count();
        let weights: Vec<f32> = (0..count).map(|i| (i as f32 * 0.7).sin()).collect();
        Tensor::from_vec(weights, self.latents.shape(), &Device::Cpu).unwrap()
    }
}

fn largest_difference(side: usize) -> f64 {
    let world = world(side);
    let times = [300.0, 900.0];
    let own = world.own();
    let told = world
        .unet
        .forward(&world.latents, &times, &world.conditioning, &[Some(&own)])
        .unwrap();
    let loss = (&told * world.weights()).unwrap().sum_all().unwrap();
    let plain = loss.backward().unwrap();
    let mut seen = None;
    let found = world
        .unet
        .descend(&world.latents, &times, &world.conditioning, &own, |told| {
            seen = Some(told.clone());
            Ok::<_, Error>(world.weights())
        })
        .unwrap();
    // To the bit: both passes run the same operations.
    assert!(relative_error(&seen.unwrap(), &told) == 0.0);
    assert_eq!(found.len(), 2 * world.vars.len());
    let sums = found.iter().map(|(factor, gradient)| {
        assert!(!gradient.track_op());
        (factor * gradient).unwrap().sum_all().unwrap()
    });
    let sum = sums.reduce(|a, b| (a + b).unwrap()).unwrap();
    let segmented = sum.backward().unwrap();
    let vars = world.vars.iter().flat_map(|(_, down, up)| [down, up]);
    let errors = vars.map(|var| {
        let (ours, theirs) = (segmented.get(var).unwrap(), plain.get(var).unwrap());
        let largest = theirs.abs().unwrap().max_all().unwrap();
        assert!(largest.to_scalar::<f32>().unwrap() > 0.0);
        relative_error(ours, theirs)
    });
    errors.fold(0.0, f64::max)
}

#[test]
fn gradients_in_segments_are_those_of_the_whole_pass() {
    for side in [8, 16] {
        let error = largest_difference(side);
        // Seen: 1e-6 to 2e-6, since gradients that meet are added in another order.
        assert!(error < 1e-5, "side {side}: {error:e}");
    }
}
