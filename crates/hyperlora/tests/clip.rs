//! Against hidden states computed by transformers on two tiny models: quick_gelu with projection, and
//! gelu without (whose names have no `vision_model.` in front).

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor, safetensors};
use likeness_hyperlora::{ClipImage, ClipVision, Error};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/clip")
        .join(name)
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn check(name: &str, size: usize, shape: &[usize]) {
    let vision = ClipVision::load(&golden(name), &Device::Cpu).unwrap();
    assert_eq!((vision.image_size(), vision.width()), (size, 48));
    let example = golden(name).join("expected.safetensors");
    let example = safetensors::load(example, &Device::Cpu).unwrap();
    let found = vision.hidden_states(&example["pixel_values"]).unwrap();
    assert_eq!(found.dims(), shape);
    let (found, expected) = (flat(&found), flat(&example["hidden"]));
    let square = |value: f32| f64::from(value) * f64::from(value);
    let error: f64 = found
        .iter()
        .zip(&expected)
        .map(|(a, b)| square(a - b))
        .sum();
    let error = (error / expected.iter().map(|b| square(*b)).sum::<f64>()).sqrt();
    println!("CLIP {name}: relative error {error:.2e}");
    assert!(error <= 1e-5, "{error}");
}

#[test]
fn hidden_states_are_those_of_transformers_with_quick_gelu() {
    check("quick_gelu", 32, &[2, 17, 48]);
}

#[test]
fn hidden_states_are_those_of_transformers_with_gelu() {
    check("gelu", 28, &[2, 5, 48]);
}

/// The first numbers were computed in plain Python from transformers' hidden states: the last layer, the final LayerNorm and the
/// projection, of which the second model has none.
#[test]
fn embeddings_are_of_the_last_layer_and_projected_where_there_is_a_projection() {
    for (name, projects, expected) in [
        (
            "quick_gelu",
            true,
            [
                [-0.243_448, -0.086_212, -0.265_697, -0.147_772],
                [-0.192_684, -0.107_488, -0.234_615, 0.019_931],
            ],
        ),
        (
            "gelu",
            false,
            [
                [0.037_524, 0.183_974, -0.050_826, 0.102_827],
                [0.074_199, 0.146_475, -0.124_317, 0.108_854],
            ],
        ),
    ] {
        let clip = ClipImage::load(&golden(name), &Device::Cpu).unwrap();
        assert_eq!(clip.projects(), projects);
        let example = golden(name).join("expected.safetensors");
        let example = safetensors::load(example, &Device::Cpu).unwrap();
        let found = clip.embeddings(&example["pixel_values"]).unwrap();
        let found = found.to_vec2::<f32>().unwrap();
        for (found, expected) in found.iter().zip(expected) {
            let length: f32 = found.iter().map(|v| v * v).sum();
            assert!((length - 1.0).abs() < 1e-5);
            for (found, expected) in found.iter().zip(expected) {
                // Six digits were printed.
                assert!((found - expected).abs() < 5e-6, "{found} {expected}");
            }
        }
    }
}

/// A copy of a folder with its configuration changed.
fn with_config(change: impl Fn(&str) -> String) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let model = "model.safetensors";
    std::fs::copy(golden("quick_gelu").join(model), dir.path().join(model)).unwrap();
    let config = std::fs::read_to_string(golden("quick_gelu").join("config.json")).unwrap();
    std::fs::write(dir.path().join("config.json"), change(&config)).unwrap();
    dir
}

fn refusal(dir: &tempfile::TempDir) -> String {
    ClipVision::load(dir.path(), &Device::Cpu)
        .err()
        .unwrap()
        .to_string()
}

#[test]
fn the_vision_part_of_a_whole_configuration_is_used() {
    let dir =
        with_config(|config| format!("{{\"vision_config\": {config}, \"text_config\": {{}}}}"));
    assert_eq!(
        ClipVision::load(dir.path(), &Device::Cpu)
            .unwrap()
            .image_size(),
        32
    );
}

#[test]
fn configurations_that_do_not_fit_are_refused() {
    let refused = |from: &str, to: &str| refusal(&with_config(|c| c.replace(from, to)));
    let activation = refused("\"quick_gelu\"", "\"silu\"");
    assert!(activation.ends_with("hidden_act = \"silu\", expected \"gelu\" or \"quick_gelu\""));
    assert!(refused("\"num_attention_heads\": 3", "\"num_attention_heads\": 5").contains("divide"));
    assert!(refused("\"patch_size\": 8", "\"patch_size\": 0").contains("patch_size = 0"));
    let size = refused("\"image_size\": 32", "\"image_size\": 64");
    assert!(
        size.contains("position_embedding.weight has shape [17, 48], expected [65, 48]"),
        "{size}"
    );
    let layers = refused("\"num_hidden_layers\": 4", "\"num_hidden_layers\": 3");
    assert!(
        layers.contains("encoder.layers.3") && layers.contains("does not belong"),
        "{layers}"
    );
    let more = refused("\"num_hidden_layers\": 4", "\"num_hidden_layers\": 5");
    assert!(
        more.contains("is missing") && more.contains("and 8 more"),
        "{more}"
    );
    assert!(refused("{", "").contains("config.json"));
}

#[test]
fn pictures_of_another_size_are_refused() {
    let vision = ClipVision::load(&golden("quick_gelu"), &Device::Cpu).unwrap();
    let pictures = Tensor::zeros((1, 3, 32, 31), candle_core::DType::F32, &Device::Cpu).unwrap();
    let error = vision.hidden_states(&pictures).err().unwrap();
    assert!(matches!(error, Error::Input { .. }), "{error}");
    assert!(
        error
            .to_string()
            .ends_with("found shape [1, 3, 32, 31], expected [n, 3, 32, 32]")
    );
}

#[test]
fn weights_in_another_form_are_refused_with_what_to_do() {
    for (file, part) in [
        ("pytorch_model.bin", "convert it"),
        ("model.safetensors.index.json", "join its shards"),
    ] {
        let dir = with_config(str::to_owned);
        std::fs::rename(dir.path().join("model.safetensors"), dir.path().join(file)).unwrap();
        let text = refusal(&dir);
        assert!(text.contains(file) && text.contains(part), "{text}");
    }
    let dir = with_config(str::to_owned);
    std::fs::write(dir.path().join("model.safetensors"), b"PK\x03\x04").unwrap();
    assert!(refusal(&dir).contains("a PyTorch pickle"));
    std::fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    assert!(refusal(&dir).contains("model.safetensors: No such file"));
}

/// As openai/clip-vit-large-patch14 ships: both towers in one file, one configuration around both.
#[test]
fn a_whole_clip_model_is_read_without_its_text_tower() {
    let dir = with_config(|config| format!("{{\"vision_config\": {config}}}"));
    let path = dir.path().join("model.safetensors");
    let mut tensors = safetensors::load(&path, &Device::Cpu).unwrap();
    let odd = Tensor::zeros((3, 5), candle_core::DType::F32, &Device::Cpu).unwrap();
    for name in [
        "text_model.embeddings.token_embedding.weight",
        "text_model.final_layer_norm.bias",
        "text_projection.weight",
        "logit_scale",
        "text_model.embeddings.position_ids",
        "vision_model.embeddings.position_ids",
    ] {
        tensors.insert(name.into(), odd.clone());
    }
    safetensors::save(&tensors, &path).unwrap();
    assert_eq!(
        ClipVision::load(dir.path(), &Device::Cpu).unwrap().width(),
        48
    );
    tensors.insert("vision_model.stray".into(), odd);
    safetensors::save(&tensors, &path).unwrap();
    assert!(refusal(&dir).contains("vision_model.stray [3, 5] does not belong here"));
}

/// Half types on disk give what their rounded weights give in f32.
#[test]
fn half_types_on_disk_are_read() {
    let pixels = Tensor::arange(0_f32, 3.0 * 32.0 * 32.0, &Device::Cpu).unwrap();
    let pixels = pixels.sin().unwrap().reshape((1, 3, 32, 32)).unwrap();
    let hidden = |dtype, to| {
        let dir = with_config(str::to_owned);
        let path = dir.path().join("model.safetensors");
        let mut tensors = safetensors::load(&path, &Device::Cpu).unwrap();
        for tensor in tensors.values_mut() {
            *tensor = tensor.to_dtype(dtype).unwrap().to_dtype(to).unwrap();
        }
        safetensors::save(&tensors, &path).unwrap();
        let vision = ClipVision::load(dir.path(), &Device::Cpu).unwrap();
        flat(&vision.hidden_states(&pixels).unwrap())
    };
    for dtype in [candle_core::DType::F16, candle_core::DType::BF16] {
        assert_eq!(hidden(dtype, dtype), hidden(dtype, candle_core::DType::F32));
    }
}
