//! A tiny SDXL for the tests: configurations, tokenizer and tensor shapes from `tests/data`, weights
//! from a hash of their names, as `tests/parity/sdxl_tiny.py` makes them for the reference numbers.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};

use crate::weights::Weights;
use crate::{LoadOptions, SampleRequest, Scheduler, Sdxl};

/// The model's folder, removed when dropped.
pub struct TinySdxl {
    dir: tempfile::TempDir,
}

/// `tests/data/tiny.json`.
pub fn fixture() -> Value {
    serde_json::from_str(include_str!("../tests/data/tiny.json")).unwrap()
}

/// `tests/data/expected.safetensors`.
pub fn expected() -> HashMap<String, Tensor> {
    let data = include_bytes!("../tests/data/expected.safetensors");
    candle_core::safetensors::load_buffer(data, &Device::Cpu).unwrap()
}

impl TinySdxl {
    /// Writes the whole folder.
    pub fn write() -> TinySdxl {
        let model = TinySdxl {
            dir: tempfile::tempdir().unwrap(),
        };
        let fixture = fixture();
        model.json("model_index.json", &index());
        model.json(
            "scheduler/scheduler_config.json",
            &fixture["configs"]["scheduler"],
        );
        for part in ["unet", "vae", "text_encoder", "text_encoder_2"] {
            model.json(&format!("{part}/config.json"), &fixture["configs"][part]);
            model.weights(part, &fixture["shapes"][part]);
        }
        model.tokenizer("tokenizer", &fixture, "<|endoftext|>");
        model.tokenizer("tokenizer_2", &fixture, "!");
        model
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    pub fn load(&self) -> Result<Sdxl, crate::Error> {
        self.load_as(DType::F32)
    }

    pub fn load_as(&self, dtype: DType) -> Result<Sdxl, crate::Error> {
        Sdxl::load(
            self.dir.path(),
            &LoadOptions {
                device: Device::Cpu,
                dtype,
            },
        )
    }

    /// Opens one part's weights in f32.
    pub fn open(&self, part: &str) -> Weights {
        let dir = self.path(part);
        Weights::open(&dir, stem(part), &Device::Cpu, DType::F32).unwrap()
    }

    pub fn json(&self, file: &str, value: &Value) {
        let path = self.path(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, value.to_string()).unwrap();
    }

    /// Changes one field of a JSON file.
    pub fn set(&self, file: &str, field: &str, value: Value) {
        let text = std::fs::read_to_string(self.path(file)).unwrap();
        let mut json: Value = serde_json::from_str(&text).unwrap();
        json[field] = value;
        self.json(file, &json);
    }

    /// Writes a part's weights; `shapes` maps names to shapes.
    pub fn weights(&self, part: &str, shapes: &Value) {
        let tensors: HashMap<String, Tensor> = shapes
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, shape)| (name.clone(), hashed_tensor(name, shape)))
            .collect();
        let file = self.path(&format!("{part}/{}.safetensors", stem(part)));
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        candle_core::safetensors::save(&tensors, file).unwrap();
    }

    fn tokenizer(&self, part: &str, fixture: &Value, pad: &str) {
        self.json(&format!("{part}/vocab.json"), &fixture["vocab"]);
        self.json(
            &format!("{part}/tokenizer_config.json"),
            &json!({ "pad_token": pad }),
        );
        let merges: Vec<&str> = fixture["merges"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| m.as_str().unwrap())
            .collect();
        let text = format!("#version: 0.2\n{}\n", merges.join("\n"));
        std::fs::write(self.path(&format!("{part}/merges.txt")), text).unwrap();
    }
}

/// The weight file's name without its ending.
pub fn stem(part: &str) -> &'static str {
    if part.starts_with("text_encoder") {
        "model"
    } else {
        "diffusion_pytorch_model"
    }
}

fn index() -> Value {
    json!({
        "_class_name": "StableDiffusionXLPipeline",
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "force_zeros_for_empty_prompt": true,
    })
}

/// Uniform in [-1, 1): splitmix64 over fnv1a64(name) + index.
fn hashed(name: &str, count: usize) -> impl Iterator<Item = f32> {
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (1..=count as u64).map(move |i| {
        let mut z = seed.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        (z >> 40) as f32 / 8_388_608.0 - 1.0
    })
}

fn hashed_tensor(name: &str, shape: &Value) -> Tensor {
    let shape: Vec<usize> = serde_json::from_value(shape.clone()).unwrap();
    let count: usize = shape.iter().product();
    let (scale, shift) = match shape.len() {
        0 | 1 if name.ends_with("weight") => (0.125, 1.0),
        0 | 1 => (0.125, 0.0),
        _ => ((3.0 / (count / shape[0]) as f64).sqrt() as f32, 0.0),
    };
    let values: Vec<f32> = hashed(name, count).map(|v| v * scale + shift).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// The fixture's prompts at its size, with 8 steps of `scheduler`.
pub fn request(scheduler: Scheduler) -> SampleRequest {
    let fixture = fixture();
    let text = |field: &str| fixture[field].as_str().unwrap().to_owned();
    SampleRequest {
        prompt: text("prompt"),
        negative_prompt: Some(text("negative")),
        width: 96,
        height: 80,
        steps: 8,
        guidance: 5.0,
        guidance_rescale: 0.0,
        scheduler,
        seed: 11,
        clip_skip: 2,
        init: None,
    }
}

/// ‖a − b‖ / ‖b‖.
pub fn relative_error(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    let norm = |x: &Tensor| {
        let x = x.to_dtype(DType::F64).unwrap();
        x.sqr()
            .unwrap()
            .sum_all()
            .unwrap()
            .to_scalar::<f64>()
            .unwrap()
            .sqrt()
    };
    let (a, b) = (
        a.to_dtype(DType::F64).unwrap(),
        b.to_dtype(DType::F64).unwrap(),
    );
    norm(&(a - &b).unwrap()) / norm(&b)
}

/// Directory of a file, for tests that damage it.
pub fn truncate(path: &Path, keep: impl Fn(u64) -> u64) {
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    let length = file.metadata().unwrap().len();
    file.set_len(keep(length)).unwrap();
}
