//! Against numbers computed by the authors' implementation on a tiny model of the released layout.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::float_cmp)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor, safetensors};
use likeness_domain::coefficients::{Coefficients, StoredCoefficients, identity};
use likeness_hyperlora::{Basis, Encoder, Inputs, Kind, LoraMatrix, Naming, Provenance};

const DIM_HEAD: usize = 16;
const TOLERANCE: f64 = 1e-5;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

fn load(name: &str) -> HashMap<String, Tensor> {
    safetensors::load(golden(name), &Device::Cpu).unwrap()
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// ‖found − expected‖ / ‖expected‖.
fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |value: f32| f64::from(value) * f64::from(value);
    let error: f64 = found.iter().zip(expected).map(|(a, b)| square(a - b)).sum();
    (error / expected.iter().map(|b| square(*b)).sum::<f64>()).sqrt()
}

fn assert_close(what: &str, found: &[f32], expected: &[f32]) {
    let error = relative_error(found, expected);
    println!("{what}: relative error {error:.2e}");
    assert!(error <= TOLERANCE, "{what}: {error}");
}

fn per_photo() -> Vec<Coefficients> {
    let encoder = Encoder::load(&golden("model"), DIM_HEAD, &Device::Cpu).unwrap();
    assert_eq!((encoder.tokens(), encoder.k()), (48, 16));
    assert_eq!(
        (encoder.inputs(), encoder.has_base()),
        (Inputs::Both, false)
    );
    let inputs = load("inputs.safetensors");
    encoder
        .per_photo(
            &inputs["clip_hidden"],
            &inputs["arcface"].squeeze(1).unwrap(),
        )
        .unwrap()
}

/// The mean of exact coefficients: the stored form would add the rounding of f16.
fn exact_identity(photos: &[Coefficients]) -> Coefficients {
    let mut values = vec![0.0; photos[0].values().len()];
    for photo in photos {
        values
            .iter_mut()
            .zip(photo.values())
            .for_each(|(sum, value)| *sum += value);
    }
    for value in &mut values {
        *value /= photos.len() as f32;
    }
    Coefficients::new(photos[0].tokens(), photos[0].k(), values)
        .unwrap()
        .normalised()
}

#[test]
fn coefficients_are_the_authors() {
    let expected = load("expected.safetensors");
    let photos = per_photo();
    let all: Vec<f32> = photos
        .iter()
        .flat_map(|photo| photo.values().to_vec())
        .collect();
    assert_close(
        "per photo, one",
        photos[0].values(),
        &flat(&expected["img0.proj_out_per_image"]),
    );
    assert_close(
        "per photo, two",
        &all,
        &flat(&expected["multi01.proj_out_per_image"]),
    );
    let one = photos[0].normalised();
    assert_close(
        "coefficients of one photo",
        one.values(),
        &flat(&expected["img0.tokens"]),
    );
    let two = exact_identity(&photos);
    assert_close(
        "coefficients of two photos",
        two.values(),
        &flat(&expected["multi01.tokens"]),
    );
}

#[test]
fn stored_photos_give_the_same_identity_within_f16() {
    let expected = load("expected.safetensors");
    let stored: Vec<_> = per_photo()
        .iter()
        .map(StoredCoefficients::from_coefficients)
        .collect();
    let error = relative_error(
        identity(&stored).unwrap().values(),
        &flat(&expected["multi01.tokens"]),
    );
    println!("coefficients of two stored photos: relative error {error:.2e}");
    assert!(error < 4e-4);
}

fn provenance() -> Provenance {
    Provenance {
        bundle: "golden".into(),
        bundle_version: "1".into(),
        bundle_digest: "00".into(),
        licences: vec![],
        kind: Kind::Id,
    }
}

#[test]
fn the_lora_is_the_authors_name_by_name() {
    let basis = Basis::load(&golden("model"), &Device::Cpu).unwrap();
    assert_eq!(
        (basis.tokens(), basis.k(), basis.modules().len()),
        (48, 16, 6)
    );
    assert_eq!(
        (basis.rank(Kind::Id), basis.rank(Kind::Base)),
        (Some(4), None)
    );
    assert_eq!(basis.naming(), Naming::Sgm);
    let lora = basis
        .synthesize(&per_photo()[0].normalised(), Kind::Id)
        .unwrap();

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lora.safetensors");
    lora.save(&path, Naming::Sgm, &provenance()).unwrap();
    let found = safetensors::load(&path, &Device::Cpu).unwrap();
    let expected = load("lora_img0.safetensors");
    assert_eq!(found.len(), expected.len());
    let mut worst = 0.0_f64;
    for (name, expected) in &expected {
        assert_eq!(found[name].dims(), expected.dims(), "{name}");
        worst = worst.max(relative_error(&flat(&found[name]), &flat(expected)));
    }
    println!("LoRA of one photo, worst tensor: relative error {worst:.2e}");
    assert!(worst <= TOLERANCE, "{worst}");
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        1,
        "nothing else is left"
    );
}

#[test]
fn the_lora_in_diffusers_naming_has_the_same_numbers() {
    let basis = Basis::load(&golden("model"), &Device::Cpu).unwrap();
    let lora = basis
        .synthesize(&per_photo()[0].normalised(), Kind::Id)
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lora.safetensors");
    lora.save(&path, Naming::Diffusers, &provenance()).unwrap();
    let found = safetensors::load(&path, &Device::Cpu).unwrap();
    let expected = load("lora_img0.safetensors");
    assert_eq!(found.len(), expected.len());
    for (sgm, diffusers) in [
        ("input_blocks_4_1", "down_blocks_1_attentions_0"),
        ("output_blocks_0_1", "up_blocks_0_attentions_0"),
        ("middle_block_1", "mid_block_attentions_0"),
    ] {
        for (name, expected) in expected.iter().filter(|(name, _)| name.contains(sgm)) {
            let found = flat(&found[&name.replace(sgm, diffusers)]);
            assert!(
                relative_error(&found, &flat(expected)) <= TOLERANCE,
                "{name}"
            );
        }
    }
    let targets: Vec<_> = lora.matrices.iter().map(LoraMatrix::target).collect();
    assert_eq!(
        targets[3],
        "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0"
    );
    assert_eq!(
        targets[8],
        "up_blocks.0.attentions.0.transformer_blocks.1.attn1.to_q"
    );
    assert_eq!(lora.matrices[0].alpha, 2.0);
}
