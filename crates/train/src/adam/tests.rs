//! AdamW against torch 2.15's, and a run that stops against one that does not.

use candle_core::Device;

use super::*;
use crate::{Chance, load, save};

type Variables = BTreeMap<String, Var>;

fn start() -> Variables {
    let weight = Var::new(&[[1f32, -2.0], [0.5, 3.0]], &Device::Cpu).unwrap();
    let bias = Var::new(&[0.3f32, -0.7], &Device::Cpu).unwrap();
    BTreeMap::from([("weight".to_owned(), weight), ("bias".to_owned(), bias)])
}

/// Σ (x · weightᵀ + bias)².
fn loss(variables: &Variables, x: &Tensor) -> Tensor {
    let product = x.matmul(&variables["weight"].t().unwrap()).unwrap();
    let y = product.broadcast_add(&variables["bias"]).unwrap();
    y.sqr().unwrap().sum_all().unwrap()
}

fn optimizer(variables: &Variables) -> AdamW {
    let settings = Settings {
        weight_decay: 0.1,
        average: 0.9,
        ..Settings::default()
    };
    let group = |name: &str, var: &Var| Group {
        rate: if name == "bias" { 3.0 } else { 1.0 },
        ..Group::of(var)
    };
    AdamW::new(variables, settings, group).unwrap()
}

fn step(optimizer: &mut AdamW, variables: &Variables, x: &Tensor) -> f64 {
    let gradients = Gradients::of(&loss(variables, x), variables).unwrap();
    optimizer.step(&gradients, 0.01).unwrap()
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn close(found: &[f32], expected: &[f32]) -> bool {
    found
        .iter()
        .zip(expected)
        .all(|(a, b)| (a - b).abs() < 1e-5)
}

#[test]
fn steps_equal_torchs() {
    let variables = start();
    let mut adam = optimizer(&variables);
    let x = Tensor::new(&[[0.5f32, 1.5], [-1.0, 2.0], [3.0, 0.25]], &Device::Cpu).unwrap();
    let first = step(&mut adam, &variables, &x);
    assert!((first - 51.941_876).abs() < 1e-3);
    assert!(close(
        &numbers(&variables["weight"]),
        &[0.989, -1.988, 0.4895, 2.987]
    ));
    assert!(close(&numbers(&variables["bias"]), &[0.33, -0.73]));
    let last = (0..4).map(|_| step(&mut adam, &variables, &x)).last();
    assert!((last.unwrap() - 49.390_83).abs() < 1e-3);
    let expected = [0.945_076_4, -1.940_136_2, 0.448_189_44, 2.935_127_7];
    assert!(close(&numbers(&variables["weight"]), &expected));
    assert!(close(
        &numbers(&variables["bias"]),
        &[0.449_810_5, -0.849_955_2]
    ));
}

#[test]
fn the_average_begins_at_the_weights_and_lags_behind_them() {
    let variables = start();
    let mut adam = optimizer(&variables);
    let average = |adam: &AdamW| numbers(&adam.averages().unwrap()["weight"]);
    assert_eq!(average(&adam), numbers(&variables["weight"]));
    let x = Tensor::new(&[[1f32, 1.0]], &Device::Cpu).unwrap();
    step(&mut adam, &variables, &x);
    let after_one = numbers(&variables["weight"]);
    assert!(close(&average(&adam), &after_one));
    step(&mut adam, &variables, &x);
    // (0.9 · 0.1 · first + 0.1 · second) / (1 − 0.9²).
    let mix = |(first, second): (&f32, &f32)| (0.09 * first + 0.1 * second) / 0.19;
    let after_two = numbers(&variables["weight"]);
    let expected: Vec<f32> = after_one.iter().zip(&after_two).map(mix).collect();
    assert!(close(&average(&adam), &expected));
}

#[test]
fn a_gradient_that_is_not_finite_moves_nothing() {
    let variables = start();
    let mut adam = optimizer(&variables);
    let x = Tensor::new(&[[f32::NAN, 1.0]], &Device::Cpu).unwrap();
    let gradients = Gradients::of(&loss(&variables, &x), &variables).unwrap();
    let error = adam.step(&gradients, 0.01).unwrap_err();
    assert!(matches!(error, Error::NotFinite { step: 0, .. }), "{error}");
    assert_eq!(numbers(&variables["weight"]), [1.0, -2.0, 0.5, 3.0]);
    assert_eq!(adam.steps(), 0);
}

/// Steps with noise, as a trainer draws it.
fn run(adam: &mut AdamW, variables: &Variables, until: u64) {
    while adam.steps() < until {
        let mut chance = Chance::at(7, adam.steps(), "noise");
        let x = chance.normal(&[3, 2], &Device::Cpu).unwrap();
        step(adam, variables, &x);
    }
}

#[test]
fn a_run_that_stops_goes_on_as_if_it_had_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.safetensors");
    let whole = start();
    let mut adam = optimizer(&whole);
    run(&mut adam, &whole, 7);
    save(&adam, &path).unwrap();
    run(&mut adam, &whole, 20);

    let resumed = start();
    let mut again = optimizer(&resumed);
    load(&mut again, &path).unwrap();
    assert_eq!(again.steps(), 7);
    run(&mut again, &resumed, 20);
    for name in ["weight", "bias"] {
        assert_eq!(numbers(&resumed[name]), numbers(&whole[name]));
        let average = |adam: &AdamW| numbers(&adam.averages().unwrap()[name]);
        assert_eq!(average(&again), average(&adam));
    }
}

#[test]
fn a_checkpoint_of_another_model_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.safetensors");
    let mut other = start();
    other.insert("extra".to_owned(), Var::new(&[1f32], &Device::Cpu).unwrap());
    save(&optimizer(&other), &path).unwrap();
    let refused = |variables: &Variables, path: &std::path::Path| {
        let before = numbers(&variables["bias"]);
        let error = load(&mut optimizer(variables), path).unwrap_err();
        assert_eq!(numbers(&variables["bias"]), before);
        error.to_string()
    };
    assert!(refused(&start(), &path).contains("which this model does not have"));
    save(&optimizer(&start()), &path).unwrap();
    assert!(refused(&other, &path).contains("lacks `average.extra`"));
    let wide = Var::zeros((3, 2), candle_core::DType::F32, &Device::Cpu).unwrap();
    let mut reshaped = start();
    reshaped.insert("weight".to_owned(), wide);
    assert!(refused(&reshaped, &path).contains("expected F32 of [3, 2]"));
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 5]).unwrap();
    refused(&start(), &path);
    candle_core::safetensors::save(
        &std::collections::HashMap::from([("weight.bias", start()["bias"].as_tensor().clone())]),
        &path,
    )
    .unwrap();
    assert!(refused(&start(), &path).contains("not a checkpoint of a training run"));
    refused(&start(), &folder.path().join("none"));
}
