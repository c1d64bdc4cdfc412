//! What an exported file says of itself, and that it comes back as it was.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::Device;
use likeness_domain::coefficients::Coefficients;
use likeness_hyperlora::{Basis, Kind, Lora, Naming, Provenance};
use safetensors::SafeTensors;

fn lora() -> Lora {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/model");
    let basis = Basis::load(&model, &Device::Cpu).unwrap();
    let values = (0..48 * 16)
        .map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0)
        .collect();
    let coefficients = Coefficients::new(48, 16, values).unwrap().normalised();
    basis.synthesize(&coefficients, Kind::Id).unwrap()
}

fn provenance() -> Provenance {
    Provenance {
        bundle: "tiny \"one\"".into(),
        bundle_version: "3".into(),
        bundle_digest: "0f".repeat(32),
        licences: vec!["CC-BY-NC-4.0".into(), "Apache-2.0".into()],
        kind: Kind::Id,
    }
}

fn saved(naming: Naming, provenance: &Provenance) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lora.safetensors");
    lora().save(&path, naming, provenance).unwrap();
    std::fs::read(&path).unwrap()
}

fn metadata(bytes: &[u8]) -> BTreeMap<String, String> {
    let (_, header) = SafeTensors::read_metadata(bytes).unwrap();
    header.metadata().clone().unwrap().into_iter().collect()
}

#[test]
fn a_file_says_where_it_comes_from_and_nothing_of_a_person() {
    let expected = [
        ("format", "pt"),
        ("likeness.bundle", "tiny \"one\""),
        ("likeness.bundle_digest", &"0f".repeat(32)),
        ("likeness.bundle_version", "3"),
        ("likeness.kind", "id"),
        ("likeness.naming", "sgm"),
        (
            "likeness.software",
            concat!("likeness ", env!("CARGO_PKG_VERSION")),
        ),
        ("modelspec.architecture", "stable-diffusion-xl-v1-base/lora"),
        (
            "modelspec.implementation",
            "https://github.com/Stability-AI/generative-models",
        ),
        ("modelspec.license", "CC-BY-NC-4.0; Apache-2.0"),
        ("modelspec.sai_model_spec", "1.0.0"),
        ("modelspec.title", "id LoRA by tiny \"one\" 3"),
        ("ss_base_model_version", "sdxl_base_v1-0"),
        ("ss_network_alpha", "2"),
        ("ss_network_dim", "4"),
        ("ss_network_module", "networks.lora"),
    ];
    let expected = expected
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
    assert_eq!(metadata(&saved(Naming::Sgm, &provenance())), expected);
    let base = Provenance {
        kind: Kind::Base,
        licences: vec![],
        ..provenance()
    };
    let found = metadata(&saved(Naming::Diffusers, &base));
    assert_eq!(found["likeness.kind"], "base");
    assert_eq!(found["likeness.naming"], "diffusers");
    assert!(!found.contains_key("modelspec.license"));
}

#[test]
fn the_same_lora_gives_the_same_bytes() {
    let first = saved(Naming::Sgm, &provenance());
    assert_eq!(first, saved(Naming::Sgm, &provenance()));
    assert_ne!(first, saved(Naming::Diffusers, &provenance()));
}

#[test]
fn what_was_saved_is_read_to_the_bit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lora.safetensors");
    let original = lora();
    for naming in [Naming::Sgm, Naming::Diffusers] {
        original.save(&path, naming, &provenance()).unwrap();
        let imported = Lora::load(&path).unwrap();
        assert!(imported.unknown.is_empty());
        let by_target: HashMap<_, _> = imported
            .lora
            .matrices
            .iter()
            .map(|m| (m.target(), m))
            .collect();
        assert_eq!(by_target.len(), original.matrices.len());
        for matrix in &original.matrices {
            let again = by_target[&matrix.target()];
            assert_eq!(again.alpha.to_bits(), matrix.alpha.to_bits());
            assert_eq!(
                again.down.to_vec2::<f32>().unwrap(),
                matrix.down.to_vec2::<f32>().unwrap()
            );
            assert_eq!(
                again.up.to_vec2::<f32>().unwrap(),
                matrix.up.to_vec2::<f32>().unwrap()
            );
        }
    }
}

#[test]
fn a_file_that_cannot_be_written_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let taken = dir.path().join("taken");
    std::fs::create_dir_all(taken.join("inside")).unwrap();
    let missing = dir.path().join("nowhere/lora.safetensors");
    for path in [&taken, &missing] {
        let text = lora()
            .save(path, Naming::Sgm, &provenance())
            .err()
            .unwrap()
            .to_string();
        assert!(text.starts_with(&path.display().to_string()), "{text}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}
