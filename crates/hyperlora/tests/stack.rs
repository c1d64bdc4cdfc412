//! Sums of LoRAs against the same sums in f64, and the accuracy of a slider through the stored form.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor, safetensors};
use likeness_domain::coefficients::{self, Coefficients, StoredCoefficients};
use likeness_hyperlora::{
    Attention, Basis, Block, Error, Kind, Lora, LoraMatrix, Place, Projection, Stack, Update,
};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution as _, StandardNormal};

fn normal(rng: &mut ChaCha8Rng, shape: &[usize]) -> Tensor {
    let values: Vec<f32> = StandardNormal
        .sample_iter(rng)
        .take(shape.iter().product())
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn block(transformer: usize) -> Block {
    Block {
        place: Place::Mid,
        transformer,
        attention: Attention::Text,
    }
}

fn matrix(rng: &mut ChaCha8Rng, transformer: usize, rank: usize, alpha: f64) -> LoraMatrix {
    LoraMatrix {
        block: block(transformer),
        projection: Projection::K,
        down: normal(rng, &[rank, 5]),
        up: normal(rng, &[7, rank]),
        alpha,
    }
}

fn lora(seed: u64, sizes: &[(usize, usize, f64)]) -> Lora {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let matrices = sizes
        .iter()
        .map(|&(at, rank, alpha)| matrix(&mut rng, at, rank, alpha));
    Lora {
        matrices: matrices.collect(),
    }
}

fn product(up: &Tensor, down: &Tensor) -> Vec<f64> {
    let [up, down] = [up, down].map(|tensor| tensor.to_dtype(DType::F64).unwrap());
    up.matmul(&down)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}

/// Σ scale · (alpha/r) · up · down of one matrix, in f64.
fn sum(terms: &[(&LoraMatrix, f64)]) -> Vec<f64> {
    let mut sum = vec![0.0; 35];
    for (matrix, scale) in terms {
        let scale = scale * matrix.alpha / matrix.down.dims()[0] as f64;
        let delta = product(&matrix.up, &matrix.down);
        sum.iter_mut()
            .zip(delta)
            .for_each(|(sum, value)| *sum += scale * value);
    }
    sum
}

fn relative_error(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let error: f64 = found
        .iter()
        .zip(expected)
        .map(|(a, b)| (a - b).powi(2))
        .sum();
    (error / expected.iter().map(|b| b * b).sum::<f64>()).sqrt()
}

fn assert_update(update: &Update, rank: usize, terms: &[(&LoraMatrix, f64)]) {
    assert_eq!(
        (update.up.dims(), update.down.dims()),
        (&[7, rank][..], &[rank, 5][..])
    );
    let error = relative_error(&product(&update.up, &update.down), &sum(terms));
    assert!(error < 1e-6, "{}: {error}", update.target());
}

#[test]
fn everything_that_stacks_becomes_one_update_per_matrix() {
    let id = lora(1, &[(0, 4, 2.0), (1, 4, 2.0)]);
    let base = lora(2, &[(0, 2, 1.0), (1, 2, 1.0)]);
    let (before, after) = (
        lora(3, &[(0, 4, 2.0), (1, 4, 2.0)]),
        lora(4, &[(0, 4, 2.0), (1, 4, 2.0)]),
    );
    let imported = lora(5, &[(2, 3, 3.0), (0, 1, 8.0)]);
    let mut stack = Stack::default();
    assert!(stack.is_empty());
    stack.push(&id, 0.8).unwrap();
    stack.push(&base, 1.0).unwrap();
    stack.push_slider(&before, &after, 0.7).unwrap();
    stack.push(&imported, -0.3).unwrap();
    let updates = stack.updates().unwrap();
    assert_eq!(updates.len(), 3);
    let terms = |at: usize| {
        [(&id, 0.8), (&base, 1.0), (&after, 0.7), (&before, -0.7)]
            .map(|(lora, scale)| (&lora.matrices[at], scale))
    };
    let first: Vec<_> = terms(0)
        .into_iter()
        .chain([(&imported.matrices[1], -0.3)])
        .collect();
    assert_update(&updates[0], 15, &first);
    assert_update(&updates[1], 14, &terms(1));
    assert_update(&updates[2], 3, &[(&imported.matrices[0], -0.3)]);
    assert_eq!(
        updates[1].target(),
        "mid_block.attentions.0.transformer_blocks.1.attn2.to_k"
    );
}

#[test]
fn downs_stay_as_they_are() {
    let id = lora(1, &[(0, 4, 2.0)]);
    let mut stack = Stack::default();
    stack.push(&id, -0.8).unwrap();
    let update = stack.updates().unwrap().remove(0);
    assert_eq!(
        update.down.to_vec2::<f32>().unwrap(),
        id.matrices[0].down.to_vec2::<f32>().unwrap()
    );
    let up = (&id.matrices[0].up * -0.4).unwrap();
    assert_eq!(
        update.up.to_vec2::<f32>().unwrap(),
        up.to_vec2::<f32>().unwrap()
    );
}

#[test]
fn a_slider_of_equal_ends_or_of_strength_zero_changes_nothing() {
    let id = lora(1, &[(0, 4, 2.0)]);
    let mut stack = Stack::default();
    stack.push(&id, 0.0).unwrap();
    stack
        .push_slider(&id, &lora(2, &[(0, 4, 2.0)]), 0.0)
        .unwrap();
    assert!(stack.is_empty() && stack.updates().unwrap().is_empty());
    stack.push_slider(&id, &id, 0.7).unwrap();
    let update = stack.updates().unwrap().remove(0);
    assert!(
        product(&update.up, &update.down)
            .iter()
            .all(|value| value.abs() < 1e-6)
    );
}

#[test]
fn what_does_not_add_up_is_refused_and_leaves_the_stack_alone() {
    let mut stack = Stack::default();
    let id = lora(1, &[(0, 4, 2.0)]);
    stack.push(&id, 1.0).unwrap();
    let mut wide = lora(2, &[(1, 2, 2.0), (0, 2, 2.0)]);
    wide.matrices[1].down = Tensor::ones((2, 6), DType::F32, &Device::Cpu).unwrap();
    assert!(matches!(
        stack.push(&id, f64::NAN),
        Err(Error::Scale { .. })
    ));
    let text = stack.push(&wide, 1.0).err().unwrap().to_string();
    assert!(
        text.contains("mid_block.attentions.0.transformer_blocks.0.attn2.to_k: [7, 5] and [7, 6]"),
        "{text}"
    );
    for (before, after) in [(&id, &wide), (&wide, &id), (&wide, &wide)] {
        assert!(matches!(
            stack.push_slider(before, after, 0.7),
            Err(Error::Stack { .. })
        ));
    }
    let updates = stack.updates().unwrap();
    assert_eq!(updates.len(), 1);
    assert_update(&updates[0], 4, &[(&id.matrices[0], 1.0)]);
}

#[test]
fn debug_shows_shapes_alone() {
    let id = lora(1, &[(0, 1, 0.123_456)]);
    let mut stack = Stack::default();
    stack.push(&id, 0.654_321).unwrap();
    let text = format!("{id:?} {stack:?} {:?}", stack.updates().unwrap());
    let name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k [7, 1] x [1, 5]]";
    let expected =
        format!("Lora {{ matrices: [LoraMatrix[{name}] }} Stack[1 matrices] [Update[{name}]");
    assert_eq!(text, expected);
}

const K: usize = 128;
const RANK: usize = 8;
const WIDTH: usize = 64;

/// A basis of one module with released K and rank.
fn basis(dir: &Path) -> Basis {
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let mut tensors = HashMap::new();
    for matrix in ["to_q", "to_k", "to_v", "to_out"] {
        let name = |side: &str| format!("0.{matrix}.id_{side}_basis");
        tensors.insert(name("down"), normal(&mut rng, &[K, WIDTH, RANK]));
        tensors.insert(name("up"), normal(&mut rng, &[K, RANK, WIDTH]));
    }
    safetensors::save(&tensors, dir.join("hyper_lora_modules.safetensors")).unwrap();
    let name = "lora_unet_middle_block_1_transformer_blocks_0_attn1";
    let json =
        format!("{{\"{name}\": {{\"hidden_size\": {WIDTH}, \"cross_attention_dim\": null}}}}");
    std::fs::write(dir.join("hyper_lora_modules.json"), json).unwrap();
    Basis::load(dir, &Device::Cpu).unwrap()
}

/// `before` turned by an angle of cosine `cosine` towards a direction of its own, token by token, with a
/// length of its own.
fn turned(rng: &mut ChaCha8Rng, before: &Coefficients, cosine: f32) -> Coefficients {
    let mut values = Vec::new();
    for token in before.values().chunks_exact(K) {
        let other: Vec<f32> = StandardNormal.sample_iter(&mut *rng).take(K).collect();
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let along = dot(&other, token) / dot(token, token);
        let across: Vec<f32> = other
            .iter()
            .zip(token)
            .map(|(o, t)| o - along * t)
            .collect();
        let scale =
            (dot(token, token) / dot(&across, &across)).sqrt() * (1.0 - cosine * cosine).sqrt();
        values.extend(
            token
                .iter()
                .zip(&across)
                .map(|(t, a)| 1.7 * (cosine * t + scale * a)),
        );
    }
    Coefficients::new(before.tokens(), K, values).unwrap()
}

fn slider(basis: &Basis, before: &Coefficients, after: &Coefficients) -> Vec<f64> {
    let lora = |end: &Coefficients| basis.synthesize(&end.normalised(), Kind::Id).unwrap();
    let mut stack = Stack::default();
    stack.push_slider(&lora(before), &lora(after), 0.7).unwrap();
    let updates = stack.updates().unwrap();
    updates
        .iter()
        .flat_map(|update| product(&update.up, &update.down))
        .collect()
}

/// The gate that decided the stored form: int8 tokens would be off by 19 %.
#[test]
fn a_fine_slider_survives_the_stored_form() {
    let dir = tempfile::tempdir().unwrap();
    let basis = basis(dir.path());
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let values = normal(&mut rng, &[8 * K]).to_vec1().unwrap();
    let before = Coefficients::new(8, K, values).unwrap();
    let after = turned(&mut rng, &before, 0.999);
    let through = |exact: &Coefficients| {
        let bytes = StoredCoefficients::from_coefficients(exact).to_bytes();
        coefficients::mean(&[StoredCoefficients::from_bytes(&bytes).unwrap()]).unwrap()
    };
    let exact = slider(&basis, &before, &after);
    let error = relative_error(&slider(&basis, &through(&before), &through(&after)), &exact);
    println!("slider at cosine 0.999 through the stored form: relative error {error:.2e}");
    assert!(error <= 0.01, "{error}");
}
