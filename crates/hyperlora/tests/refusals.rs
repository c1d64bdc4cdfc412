//! What does not fit is refused with the file, the tensor and what was expected.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::float_cmp)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor, safetensors};
use likeness_domain::coefficients::Coefficients;
use likeness_hyperlora::{Basis, Encoder, Error, Inputs, Kind};

const RESAMPLER: &str = "resampler.safetensors";
const PROJECTOR: &str = "id_projector.safetensors";
const BASIS: &str = "hyper_lora_modules.safetensors";
const NAMES: &str = "hyper_lora_modules.json";

type Tensors = HashMap<String, Tensor>;

/// A copy of the golden model that can be spoilt.
struct Model(tempfile::TempDir);

impl Model {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/model");
        for file in [RESAMPLER, PROJECTOR, BASIS, NAMES] {
            std::fs::copy(from.join(file), dir.path().join(file)).unwrap();
        }
        Self(dir)
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    fn change(self, file: &str, change: impl FnOnce(&mut Tensors)) -> Self {
        let mut tensors = safetensors::load(self.path(file), &Device::Cpu).unwrap();
        change(&mut tensors);
        safetensors::save(&tensors, self.path(file)).unwrap();
        self
    }

    fn change_text(self, file: &str, change: impl FnOnce(String) -> String) -> Self {
        let text = std::fs::read_to_string(self.path(file)).unwrap();
        std::fs::write(self.path(file), change(text)).unwrap();
        self
    }

    fn encoder(&self) -> Result<Encoder, Error> {
        Encoder::load(self.0.path(), 16, &Device::Cpu)
    }

    fn basis(&self) -> Result<Basis, Error> {
        Basis::load(self.0.path(), &Device::Cpu)
    }

    fn encoder_refusal(&self) -> String {
        self.encoder().err().unwrap().to_string()
    }

    fn basis_refusal(&self) -> String {
        self.basis().err().unwrap().to_string()
    }
}

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap()
}

/// Unit embeddings and arbitrary CLIP states for n photos.
fn inputs(n: usize) -> (Tensor, Tensor) {
    let clip = Tensor::arange(0.0_f32, (n * 17 * 32) as f32, &Device::Cpu).unwrap();
    let clip = (clip * 0.01)
        .unwrap()
        .sin()
        .unwrap()
        .reshape((n, 17, 32))
        .unwrap();
    let face = Tensor::full(512.0_f32.sqrt().recip(), (n, 512), &Device::Cpu).unwrap();
    (clip, face)
}

fn assert_names(refusal: &str, parts: &[&str]) {
    for part in parts {
        assert!(refusal.contains(part), "{part:?} is not in {refusal:?}");
    }
}

#[test]
fn damaged_files_are_refused_by_path() {
    let model = Model::new();
    for (length, file) in [
        (0, RESAMPLER),
        (7, RESAMPLER),
        (5000, RESAMPLER),
        (604_000, PROJECTOR),
    ] {
        let model = Model::new();
        let bytes = std::fs::read(model.path(RESAMPLER)).unwrap();
        std::fs::write(model.path(file), &bytes[..length]).unwrap();
        assert_names(&model.encoder_refusal(), &[file, "safetensors"]);
    }
    std::fs::remove_file(model.path(PROJECTOR)).unwrap();
    assert_names(&model.encoder_refusal(), &[PROJECTOR, "No such file"]);
    let bytes = std::fs::read(model.path(BASIS)).unwrap();
    std::fs::write(model.path(BASIS), &bytes[..bytes.len() - 1]).unwrap();
    assert_names(
        &model.basis_refusal(),
        &[BASIS, "not a complete safetensors file"],
    );
}

#[test]
fn tensors_that_do_not_fit_are_all_named() {
    let model = Model::new().change(RESAMPLER, |tensors| {
        tensors.remove("layers.1.norm_ff.bias");
        tensors.insert("layers.0.attn2.to_k.weight".into(), zeros(&[48, 63]));
        tensors.insert("stray".into(), zeros(&[2]));
    });
    assert_names(
        &model.encoder_refusal(),
        &[
            RESAMPLER,
            "layers.1.norm_ff.bias [64] is missing",
            "layers.0.attn2.to_k.weight has shape [48, 63], expected [48, 64]",
            "stray [2] does not belong here",
        ],
    );
    let model = Model::new().change(PROJECTOR, |tensors| {
        tensors.insert(
            "0.bias".into(),
            Tensor::zeros(128, DType::I64, &Device::Cpu).unwrap(),
        );
    });
    assert_names(
        &model.encoder_refusal(),
        &["0.bias is I64, expected F32, F16 or BF16"],
    );
}

#[test]
fn weights_that_are_not_finite_are_refused() {
    let model = Model::new().change(RESAMPLER, |tensors| {
        tensors.insert(
            "proj_in.bias".into(),
            Tensor::full(f32::NAN, 64, &Device::Cpu).unwrap(),
        );
    });
    assert_names(
        &model.encoder_refusal(),
        &[RESAMPLER, "proj_in.bias", "not finite"],
    );

    let name = "3.to_v.id_up_basis";
    let model = Model::new().change(BASIS, |tensors| {
        let infinite = Tensor::full(f32::INFINITY, (16, 4, 96), &Device::Cpu).unwrap();
        tensors.insert(name.into(), infinite);
    });
    let coefficients = Coefficients::new(48, 16, vec![0.25; 768]).unwrap();
    let refusal = model
        .basis()
        .unwrap()
        .synthesize(&coefficients, Kind::Id)
        .err()
        .unwrap();
    assert_names(&refusal.to_string(), &[BASIS, name, "not finite"]);
}

#[test]
fn a_width_of_heads_that_does_not_divide_is_refused() {
    for dim_head in [0, 7] {
        let refusal = Encoder::load(Model::new().0.path(), dim_head, &Device::Cpu)
            .err()
            .unwrap();
        assert_names(&refusal.to_string(), &[RESAMPLER, "dim_head", "48"]);
    }
}

#[test]
fn names_that_do_not_fit_the_tensors_are_refused() {
    let swapped = Model::new().change_text(NAMES, |text| {
        text.replace("input_blocks_4_1", "x")
            .replace("middle_block_1", "input_blocks_4_1")
            .replace("lora_unet_x", "lora_unet_middle_block_1")
    });
    // The same sizes in the same order: only the blocks are others.
    assert!(swapped.basis().is_ok());
    let wider = Model::new().change_text(NAMES, |text| text.replacen("64", "65", 1));
    assert_names(
        &wider.basis_refusal(),
        &[
            BASIS,
            "0.to_k.id_down_basis has shape [16, 64, 4], expected [16, 65, 4]",
        ],
    );
    let fewer = Model::new().change_text(NAMES, |_| {
        let name = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1";
        format!("{{\"{name}\": {{\"hidden_size\": 64, \"cross_attention_dim\": 0}}}}")
    });
    assert_names(
        &fewer.basis_refusal(),
        &["1.to_k.id_down_basis [16, 72, 4] does not belong here"],
    );
}

#[test]
fn a_list_of_modules_that_makes_no_sense_is_refused() {
    let refusal = |from: &str, to: &str| {
        Model::new()
            .change_text(NAMES, |text| text.replace(from, to))
            .basis_refusal()
    };
    assert_names(
        &refusal("4_1_trans", "3_1_trans"),
        &[NAMES, "not an attention module of SDXL"],
    );
    assert_names(
        &refusal("middle_block_1", "input_blocks_4_1"),
        &["a second time"],
    );
    assert_names(
        &refusal("middle_block_1", "mid_block_attentions_0"),
        &["of both"],
    );
    assert_names(&refusal("null", "72"), &["cross_attention_dim of an attn1"]);
    assert_names(
        &refusal("72", "null"),
        &["attn2 without cross_attention_dim"],
    );
    assert_names(
        &refusal("\"hidden_size\": 96", "\"hidden_size\": 0"),
        &["hidden_size is 0"],
    );
    assert_names(
        &refusal("\"hidden_size\"", "\"size\""),
        &[NAMES, "hidden_size"],
    );
    assert_names(
        &Model::new()
            .change_text(NAMES, |_| "{}".into())
            .basis_refusal(),
        &["0 modules"],
    );
    assert_names(
        &Model::new()
            .change_text(NAMES, |_| "[1]".into())
            .basis_refusal(),
        &["a map"],
    );
}

#[test]
fn coefficients_of_another_encoder_are_refused() {
    let basis = Model::new().basis().unwrap();
    let other = Coefficients::new(48, 15, vec![0.1; 720]).unwrap();
    let refusal = basis
        .synthesize(&other, Kind::Id)
        .err()
        .unwrap()
        .to_string();
    assert_eq!(
        refusal,
        "coefficients of 48 x 15 numbers, but the basis takes 48 x 16: they belong to another encoder"
    );
    let own = Coefficients::new(48, 16, vec![0.1; 768]).unwrap();
    assert!(matches!(
        basis.synthesize(&own, Kind::Base),
        Err(Error::NoBase)
    ));
}

#[test]
fn inputs_that_do_not_fit_are_refused() {
    let encoder = Model::new().encoder().unwrap();
    let (clip, face) = inputs(2);
    let refusal =
        |clip: &Tensor, face: &Tensor| encoder.per_photo(clip, face).err().unwrap().to_string();
    assert_names(
        &refusal(&zeros(&[2, 17, 31]), &face),
        &["CLIP states", "[n, t, 32]"],
    );
    assert_names(&refusal(&zeros(&[0, 17, 32]), &face), &["CLIP states"]);
    assert_names(
        &refusal(&inputs(1).0, &face),
        &["as many photos as face embeddings"],
    );
    assert_names(
        &refusal(&clip, &zeros(&[2, 511])),
        &["face embeddings", "[n, 512]"],
    );
    assert_names(
        &refusal(&clip, &(&face * 3.0).unwrap()),
        &["divide each by its length"],
    );
    let nan = (&clip * f64::NAN).unwrap();
    assert_names(&refusal(&nan, &face), &["not finite"]);
    let missing = encoder.per_photo(&clip, None).err().unwrap();
    assert_names(&missing.to_string(), &["needs a face embedding"]);
}

/// Takes the second condition away.
fn one_condition(tensors: &mut Tensors) {
    tensors.retain(|name, _| {
        !["attn3", "proj_in_2"]
            .iter()
            .any(|second| name.contains(second))
    });
}

#[test]
fn models_of_one_input_need_only_that() {
    let (clip, face) = inputs(2);
    let model = Model::new().change(RESAMPLER, one_condition);
    let encoder = model.encoder().unwrap();
    assert_eq!(encoder.inputs(), Inputs::ArcFace);
    assert_eq!(encoder.per_photo(None, &face).unwrap().len(), 2);

    std::fs::remove_file(model.path(PROJECTOR)).unwrap();
    let encoder = model.encoder().unwrap();
    assert_eq!(encoder.inputs(), Inputs::Clip);
    let alone = encoder.per_photo(&clip, None).unwrap();
    assert_eq!(alone, encoder.per_photo(&clip, &face).unwrap());
    assert!(matches!(
        encoder.per_photo(None, &face),
        Err(Error::InputMissing { .. })
    ));
}

#[test]
fn a_base_resampler_and_base_tensors_make_a_base_lora() {
    let (clip, _) = inputs(1);
    let model = Model::new();
    std::fs::copy(
        model.path(RESAMPLER),
        model.path("base_resampler.safetensors"),
    )
    .unwrap();
    assert_names(
        &model.encoder_refusal(),
        &["base_resampler.safetensors", "one condition"],
    );

    let model = model
        .change("base_resampler.safetensors", one_condition)
        .change(BASIS, |tensors| {
            let half =
                |tensor: &Tensor, dim| tensor.narrow(dim, 0, 2).unwrap().contiguous().unwrap();
            let base: Vec<_> = tensors
                .iter()
                .map(|(name, tensor)| {
                    let dim = if name.ends_with("down_basis") { 2 } else { 1 };
                    (name.replace("id_", "base_"), half(tensor, dim))
                })
                .collect();
            tensors.extend(base);
        });
    let encoder = model.encoder().unwrap();
    let coefficients = encoder.base_per_photo(&clip).unwrap()[0].normalised();
    let basis = model.basis().unwrap();
    assert_eq!(basis.rank(Kind::Base), Some(2));
    let base = basis.synthesize(&coefficients, Kind::Base).unwrap();
    let id = basis.synthesize(&coefficients, Kind::Id).unwrap();
    assert_eq!(
        (base.matrices.len(), base.matrices[5].down.dims()),
        (24, &[2, 72][..])
    );
    assert_eq!(base.matrices[0].alpha, 1.0);
    let rows = |tensor: &Tensor| tensor.to_vec2::<f32>().unwrap();
    assert_eq!(
        rows(&base.matrices[5].down),
        rows(&id.matrices[5].down)[..2]
    );
}

/// Half types on disk give what their rounded weights give in f32.
#[test]
fn half_types_on_disk_are_read() {
    let (clip, face) = inputs(1);
    for dtype in [DType::F16, DType::BF16] {
        let convert = |to: Option<DType>| {
            move |tensors: &mut Tensors| {
                for tensor in tensors.values_mut() {
                    *tensor = tensor.to_dtype(dtype).unwrap();
                    *tensor = tensor.to_dtype(to.unwrap_or(dtype)).unwrap();
                }
            }
        };
        let run = |to: Option<DType>| {
            let model = [RESAMPLER, PROJECTOR, BASIS]
                .into_iter()
                .fold(Model::new(), |model, file| model.change(file, convert(to)));
            let photo = model
                .encoder()
                .unwrap()
                .per_photo(&clip, &face)
                .unwrap()
                .remove(0);
            let lora = model
                .basis()
                .unwrap()
                .synthesize(&photo.normalised(), Kind::Id)
                .unwrap();
            let up = lora.matrices[9].up.to_vec2::<f32>().unwrap();
            (photo, up)
        };
        assert_eq!(run(None), run(Some(DType::F32)), "{dtype:?}");
    }
}
