//! Sizes and forms that the authors' example does not cover, against a second implementation in torch
//! (`tests/parity/lora_encoder.py`): heads · dim_head ≠ dim, odd sizes, all number types, one input alone,
//! three photos, a Base-LoRA of half the rank, diffusers naming.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor, safetensors};
use likeness_domain::coefficients::Coefficients;
use likeness_hyperlora::{Basis, Encoder, Inputs, Kind, Lora, Naming};

const DIM: usize = 24;
const DIM_HEAD: usize = 5;
const INNER: usize = 3 * DIM_HEAD;
const DEPTH: usize = 3;
const FF: usize = 60;
const K: usize = 11;
const ID_TOKENS: usize = 5;
const ID_WIDTH: usize = 18;
const EMBEDDING: usize = 512;
const CLIP_WIDTH: usize = 20;
const CLIP_TOKENS: usize = 7;
const PHOTOS: usize = 3;
const RANK: usize = 6;
const BASE_RANK: usize = 3;
/// Width of what each module reads and of what it attends to.
const MODULES: [(usize, usize); 3] = [(12, 12), (12, 10), (16, 16)];
const TOKENS: usize = 8 * MODULES.len();
const MODULES_JSON: &str = r#"{
    "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1": {"hidden_size": 12, "cross_attention_dim": null},
    "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2": {"cross_attention_dim": 10, "hidden_size": 12},
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1": {"hidden_size": 16, "cross_attention_dim": 0, "note": "more"}
}"#;

/// Uniform in [-1, 1), as the script makes it.
fn noise(name: &str, shape: &[usize]) -> Vec<f64> {
    let start = name.bytes().fold(0xCBF2_9CE4_8422_2325_u64, |state, byte| {
        (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    });
    let number = |i: u64| {
        let z = start.wrapping_add(i.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f64 / f64::from(1 << 23) - 1.0
    };
    (1..=shape.iter().product::<usize>() as u64)
        .map(number)
        .collect()
}

/// A file of weights in the making.
struct Weights {
    file: &'static str,
    dtype: DType,
    tensors: HashMap<String, Tensor>,
}

impl Weights {
    fn new(file: &'static str, dtype: DType) -> Self {
        let tensors = HashMap::new();
        Self {
            file,
            dtype,
            tensors,
        }
    }

    fn put(&mut self, name: &str, shape: &[usize], of: impl Fn(f64) -> f64) {
        let noise = noise(&format!("{}/{name}", self.file), shape);
        let values: Vec<f32> = noise.into_iter().map(|x| of(x) as f32).collect();
        let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
        self.tensors
            .insert(name.into(), tensor.to_dtype(self.dtype).unwrap());
    }

    fn matrix(&mut self, name: &str, out: usize, width: usize) {
        self.put(&format!("{name}.weight"), &[out, width], |x| {
            x * (3.0 / width as f64).sqrt()
        });
    }

    fn linear(&mut self, name: &str, out: usize, width: usize) {
        self.matrix(name, out, width);
        self.put(&format!("{name}.bias"), &[out], |x| x * 0.1);
    }

    fn norm(&mut self, name: &str, width: usize) {
        self.put(&format!("{name}.weight"), &[width], |x| 1.0 + x * 0.1);
        self.put(&format!("{name}.bias"), &[width], |x| x * 0.1);
    }

    fn other(&mut self, name: &str, shape: &[usize]) {
        self.put(name, shape, |x| x * 0.5);
    }

    fn save(&self, dir: &Path, name: &str) {
        safetensors::save(&self.tensors, dir.join(name)).unwrap();
    }
}

fn resampler(file: &'static str, dtype: DType, first: usize, second: Option<usize>) -> Weights {
    let mut to = Weights::new(file, dtype);
    to.other("latents", &[1, TOKENS, DIM]);
    to.linear("proj_in", DIM, first);
    to.linear("proj_out", K, DIM);
    let (mut norms, mut attentions) = (
        vec!["attn1", "attn2_l", "attn2_x", "ff"],
        vec!["attn1", "attn2"],
    );
    if let Some(second) = second {
        to.linear("proj_in_2", DIM, second);
        norms.extend(["attn3_l", "attn3_y"]);
        attentions.push("attn3");
    }
    for layer in 0..DEPTH {
        let at = |name: &str| format!("layers.{layer}.{name}");
        for norm in &norms {
            to.norm(&at(&format!("norm_{norm}")), DIM);
        }
        for attention in &attentions {
            for part in ["q", "k", "v"] {
                to.matrix(&at(&format!("{attention}.to_{part}")), INNER, DIM);
            }
            to.matrix(&at(&format!("{attention}.to_out.0")), DIM, INNER);
        }
        to.linear(&at("ff.net.0.proj"), FF, DIM);
        to.linear(&at("ff.net.2"), DIM, FF);
    }
    to
}

fn projector(dtype: DType) -> Weights {
    let mut to = Weights::new("id_projector", dtype);
    to.linear("0", ID_TOKENS * ID_WIDTH, EMBEDDING);
    to.norm("2", ID_WIDTH);
    to
}

fn basis(dtype: DType) -> Weights {
    let mut to = Weights::new("basis", dtype);
    for (number, (hidden, context)) in MODULES.into_iter().enumerate() {
        for (matrix, width) in [
            ("to_q", hidden),
            ("to_k", context),
            ("to_v", context),
            ("to_out", hidden),
        ] {
            for (kind, rank) in [("id", RANK), ("base", BASE_RANK)] {
                to.other(
                    &format!("{number}.{matrix}.{kind}_down_basis"),
                    &[K, width, rank],
                );
                to.other(
                    &format!("{number}.{matrix}.{kind}_up_basis"),
                    &[K, rank, hidden],
                );
            }
        }
    }
    to
}

fn model(inputs: Inputs, dtype: DType) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = match inputs {
        Inputs::Both => (ID_WIDTH, Some(CLIP_WIDTH)),
        Inputs::Clip => (CLIP_WIDTH, None),
        Inputs::ArcFace => (ID_WIDTH, None),
    };
    resampler("resampler", dtype, first, second).save(dir.path(), "resampler.safetensors");
    if inputs != Inputs::Clip {
        projector(dtype).save(dir.path(), "id_projector.safetensors");
    }
    if inputs == Inputs::Both {
        let base = resampler("base_resampler", dtype, CLIP_WIDTH, None);
        base.save(dir.path(), "base_resampler.safetensors");
    }
    basis(dtype).save(dir.path(), "hyper_lora_modules.safetensors");
    std::fs::write(dir.path().join("hyper_lora_modules.json"), MODULES_JSON).unwrap();
    std::fs::write(dir.path().join("sizes.json"), "{}").unwrap();
    dir
}

/// What the cameras saw: CLIP states and unit face embeddings.
fn inputs() -> (Tensor, Tensor) {
    let shape = [PHOTOS, CLIP_TOKENS, CLIP_WIDTH];
    let clip: Vec<f32> = noise("clip_hidden", &shape)
        .iter()
        .map(|x| (x * 2.0) as f32)
        .collect();
    let faces: Vec<f32> = noise("arcface", &[PHOTOS, EMBEDDING])
        .iter()
        .map(|x| *x as f32)
        .collect();
    let unit = |face: &[f32]| {
        let length = face
            .iter()
            .map(|x| f64::from(*x).powi(2))
            .sum::<f64>()
            .sqrt();
        face.iter()
            .map(move |x| (f64::from(*x) / length) as f32)
            .collect::<Vec<_>>()
    };
    let faces: Vec<f32> = faces.chunks_exact(EMBEDDING).flat_map(unit).collect();
    let tensor = |values, shape: &[usize]| Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
    (tensor(clip, &shape), tensor(faces, &[PHOTOS, EMBEDDING]))
}

/// The expected numbers of one case.
struct Expected {
    case: &'static str,
    tensors: HashMap<String, Tensor>,
    worst: f64,
}

impl Expected {
    fn of(case: &'static str) -> Self {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("tests/golden/encoder/expected.safetensors");
        let tensors = safetensors::load(path, &Device::Cpu).unwrap();
        Self {
            case,
            tensors,
            worst: 0.0,
        }
    }

    fn check(&mut self, what: &str, found: &[f32]) {
        let name = format!("{}.{what}", self.case);
        let expected: Vec<f32> = self.tensors[&name]
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap();
        assert_eq!(found.len(), expected.len(), "{name}");
        let square = |value: f32| f64::from(value) * f64::from(value);
        let error: f64 = found
            .iter()
            .zip(&expected)
            .map(|(a, b)| square(a - b))
            .sum();
        let error = (error / expected.iter().map(|b| square(*b)).sum::<f64>()).sqrt();
        assert!(error <= 1e-5, "{name}: {error}");
        self.worst = self.worst.max(error);
    }

    fn check_photos(&mut self, what: &str, photos: &[Coefficients]) {
        let all: Vec<f32> = photos
            .iter()
            .flat_map(|photo| photo.values().to_vec())
            .collect();
        self.check(what, &all);
    }

    fn check_lora(&mut self, kind: Kind, lora: &Lora) {
        assert_eq!(lora.matrices.len(), 4 * MODULES.len());
        let names = (0..MODULES.len()).flat_map(|module| {
            ["to_q", "to_k", "to_v", "to_out"].map(|matrix| format!("{kind}.{module}.{matrix}"))
        });
        for (matrix, name) in lora.matrices.iter().zip(names) {
            let flat = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            self.check(&format!("{name}.up"), &flat(&matrix.up));
            self.check(&format!("{name}.down"), &flat(&matrix.down));
        }
    }
}

/// The mean of exact coefficients, normalised: the stored form would add the rounding of f16.
fn identity(photos: &[Coefficients]) -> Coefficients {
    let mean = |at| {
        photos
            .iter()
            .map(|photo| f64::from(photo.values()[at]))
            .sum::<f64>()
            / photos.len() as f64
    };
    let values = (0..TOKENS * K).map(|at| mean(at) as f32).collect();
    Coefficients::new(TOKENS, K, values).unwrap().normalised()
}

fn check(case: &'static str, inputs_of_model: Inputs, dtype: DType) {
    let dir = model(inputs_of_model, dtype);
    let encoder = Encoder::load(dir.path(), DIM_HEAD, &Device::Cpu).unwrap();
    let basis = Basis::load(dir.path(), &Device::Cpu).unwrap();
    assert_eq!((encoder.tokens(), encoder.k()), (basis.tokens(), basis.k()));
    assert_eq!(
        (encoder.inputs(), basis.naming()),
        (inputs_of_model, Naming::Diffusers)
    );
    let ((clip, faces), mut expected) = (inputs(), Expected::of(case));
    let photos = match inputs_of_model {
        Inputs::Both => encoder.per_photo(&clip, &faces),
        Inputs::Clip => encoder.per_photo(&clip, None),
        Inputs::ArcFace => encoder.per_photo(None, &faces),
    };
    let photos = photos.unwrap();
    expected.check_photos("per_photo", &photos);
    let coefficients = identity(&photos);
    expected.check("coefficients", coefficients.values());
    expected.check_lora(
        Kind::Id,
        &basis.synthesize(&coefficients, Kind::Id).unwrap(),
    );
    if encoder.has_base() {
        let photos = encoder.base_per_photo(&clip).unwrap();
        expected.check_photos("base_per_photo", &photos);
        let base = basis.synthesize(&identity(&photos), Kind::Base).unwrap();
        expected.check_lora(Kind::Base, &base);
    }
    println!("{case}: worst relative error {:.1e}", expected.worst);
}

#[test]
fn a_model_with_everything_in_f32() {
    check("f32", Inputs::Both, DType::F32);
}

#[test]
fn a_model_with_everything_in_f16() {
    check("f16", Inputs::Both, DType::F16);
}

#[test]
fn a_model_with_everything_in_bf16() {
    check("bf16", Inputs::Both, DType::BF16);
}

#[test]
fn a_model_that_looks_at_clip_alone() {
    check("clip_only", Inputs::Clip, DType::F32);
}

#[test]
fn a_model_that_looks_at_the_face_embedding_alone() {
    check("arcface_only", Inputs::ArcFace, DType::F32);
}

/// Inputs in half types, and embeddings with the middle size that recognisers' outputs have.
#[test]
fn inputs_may_come_as_other_programs_keep_them() {
    let dir = model(Inputs::Both, DType::F32);
    let encoder = Encoder::load(dir.path(), DIM_HEAD, &Device::Cpu).unwrap();
    let (clip, faces) = inputs();
    let flat = encoder.per_photo(&clip, &faces).unwrap();
    assert_eq!(
        encoder
            .per_photo(&clip, &faces.unsqueeze(1).unwrap())
            .unwrap(),
        flat
    );
    for dtype in [DType::F16, DType::BF16, DType::F64] {
        let half = |tensor: &Tensor| tensor.to_dtype(dtype).unwrap();
        let rounded = |tensor: &Tensor| half(tensor).to_dtype(DType::F32).unwrap();
        let found = encoder.per_photo(&half(&clip), &half(&faces)).unwrap();
        assert_eq!(
            found,
            encoder
                .per_photo(&rounded(&clip), &rounded(&faces))
                .unwrap()
        );
    }
}
