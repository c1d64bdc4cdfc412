//! Single-file checkpoints. `tests/parity/sdxl_single_file.py` made the table of names, and had
//! diffusers read a file by it.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde_json::json;

use crate::testing::{TinySdxl, request, stem, truncate};
use crate::{Error, LoadOptions, SampleRequest, Scheduler, Sdxl, SdxlConfig};

type Tensors = HashMap<String, Tensor>;

/// Name in the file → (form, part, names in diffusers).
type Table = BTreeMap<String, (String, String, Vec<String>)>;

const CONV_IN: &str = "model.diffusion_model.input_blocks.0.0.weight";
const TO_K: &str = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight";

/// The tiny model's tensors as one file has them.
fn tensors(folder: &TinySdxl) -> Tensors {
    let table: Table =
        serde_json::from_str(include_str!("../../tests/data/single_file.json")).unwrap();
    let part = |name: &str| {
        let file = folder.path(&format!("{name}/{}.safetensors", stem(name)));
        candle_core::safetensors::load(file, &Device::Cpu).unwrap()
    };
    let parts = ["text_encoder", "text_encoder_2", "unet", "vae"].map(|name| (name, part(name)));
    let parts = HashMap::from(parts);
    let one = |(name, (form, part, sources)): (String, (String, String, Vec<String>))| {
        let sources: Vec<_> = sources.iter().map(|s| &parts[part.as_str()][s]).collect();
        let tensor = Tensor::cat(&sources, 0).unwrap();
        let tensor = match form.as_str() {
            "transposed" => tensor.t().unwrap().contiguous().unwrap(),
            "point" => tensor.unsqueeze(2).unwrap().unsqueeze(3).unwrap(),
            _ => tensor,
        };
        (name, tensor)
    };
    let mut tensors: Tensors = table.into_iter().map(one).collect();
    let ids = Tensor::arange(0i64, 77, &Device::Cpu).unwrap();
    let clip = "conditioner.embedders.0.transformer.text_model.embeddings.position_ids";
    tensors.insert(clip.to_owned(), ids);
    tensors.insert("model_ema.num_updates".to_owned(), zeros(&[1]));
    tensors
}

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap()
}

fn write(folder: &TinySdxl, tensors: &Tensors) -> PathBuf {
    let path = folder.path("single.safetensors");
    candle_core::safetensors::save(tensors, &path).unwrap();
    path
}

fn options(dtype: DType) -> LoadOptions {
    LoadOptions {
        device: Device::Cpu,
        dtype,
    }
}

fn load(folder: &TinySdxl, path: &Path) -> Result<Sdxl, Error> {
    Sdxl::load_single_file(path, Some(&folder.path("")), &options(DType::F32))
}

#[track_caller]
fn error_of(result: Result<Sdxl, Error>) -> Error {
    match result {
        Ok(_) => panic!("loaded"),
        Err(error) => error,
    }
}

/// The latents after two steps, which text states, pooled text and UNet go into, and the picture.
fn sampled(model: &Sdxl) -> (Vec<f32>, Vec<u8>) {
    let mut latents = Vec::new();
    let short = SampleRequest {
        steps: 2,
        ..request(Scheduler::Euler)
    };
    let picture = model.sample(&short, &mut |step| {
        latents = step.latents().flatten_all().unwrap().to_vec1().unwrap();
        ControlFlow::Continue(())
    });
    (latents, picture.unwrap().into_raw())
}

#[test]
fn a_single_file_gives_the_folders_numbers_to_the_bit() {
    let folder = TinySdxl::write();
    let path = write(&folder, &tensors(&folder));
    let model = load(&folder, &path).unwrap();
    let reference = folder.load().unwrap();
    assert!(sampled(&model) == sampled(&reference));
    let picture = image::RgbImage::from_fn(16, 16, |x, y| image::Rgb([x as u8, y as u8, 9]));
    let latents = |model: &Sdxl| {
        let encoded = model.encode(&picture).unwrap();
        encoded.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    assert_eq!(latents(&model), latents(&reference));
    let names = |model: &Sdxl| model.attention_matrices();
    assert_eq!(names(&model), names(&reference));
}

#[test]
fn half_precision_files_load_as_half_precision_folders_do() {
    let folder = TinySdxl::write();
    let all = tensors(&folder);
    let half = |tensor: &Tensor| match tensor.dtype() {
        DType::F32 => tensor.to_dtype(DType::F16).unwrap(),
        _ => tensor.clone(),
    };
    let halves: Tensors = all.iter().map(|(n, t)| (n.clone(), half(t))).collect();
    let path = write(&folder, &halves);
    for part in ["text_encoder", "text_encoder_2", "unet", "vae"] {
        let file = folder.path(&format!("{part}/{}.safetensors", stem(part)));
        let own = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
        let own: Tensors = own.iter().map(|(n, t)| (n.clone(), half(t))).collect();
        let variant = folder.path(&format!("{part}/{}.fp16.safetensors", stem(part)));
        candle_core::safetensors::save(&own, variant).unwrap();
        std::fs::remove_file(file).unwrap();
    }
    for dtype in [DType::F32, DType::F16] {
        let configs = folder.path("");
        let model = Sdxl::load_single_file(&path, Some(&configs), &options(dtype)).unwrap();
        assert!(sampled(&model) == sampled(&folder.load_as(dtype).unwrap()));
    }
}

#[test]
fn a_folder_of_the_files_own_name_says_what_the_file_does_not() {
    let folder = TinySdxl::write();
    let path = write(&folder, &tensors(&folder));
    let error = error_of(Sdxl::load(&path, &options(DType::F32)));
    assert!(error.to_string().contains("heads of 64"), "{error}");
    let beside = path.with_extension("");
    for file in [
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "text_encoder_2/config.json",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
    ] {
        let to = beside.join(file);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(folder.path(file), to).unwrap();
    }
    // The second tokenizer, the noise schedule and the index are SDXL's own then.
    let model = Sdxl::load(&path, &options(DType::F32)).unwrap();
    assert!(sampled(&model) == sampled(&folder.load().unwrap()));
    std::fs::remove_dir_all(beside.join("tokenizer")).unwrap();
    let error = error_of(Sdxl::load(&path, &options(DType::F32)));
    assert!(matches!(error, Error::Tokenizer { .. }), "{error}");
}

#[test]
fn every_tensor_is_accounted_for() {
    let folder = TinySdxl::write();
    let mut all = tensors(&folder);
    all.insert("model.diffusion_model.surplus".to_owned(), zeros(&[2]));
    all.insert("z".to_owned(), zeros(&[2]));
    match error_of(load(&folder, &write(&folder, &all))) {
        Error::UnknownTensors { count, first, .. } => {
            assert_eq!(
                (count, first.as_str()),
                (2, "model.diffusion_model.surplus")
            );
        }
        other => panic!("{other}"),
    }
    let mut all = tensors(&folder);
    all.remove(TO_K);
    let error = error_of(load(&folder, &write(&folder, &all)));
    assert!(
        matches!(&error, Error::MissingTensor { tensor, .. } if tensor == TO_K),
        "{error}"
    );
    all.insert(TO_K.to_owned(), zeros(&[32, 48]));
    let error = error_of(load(&folder, &write(&folder, &all)));
    let Error::TensorShape {
        tensor,
        expected,
        found,
        ..
    } = &error
    else {
        panic!("{error}");
    };
    assert_eq!((tensor.as_str(), &found[..]), (TO_K, &[32, 48][..]));
    assert_eq!(expected, &[32, 64]);
    let stacked = "conditioner.embedders.1.model.transformer.resblocks.1.attn.in_proj_weight";
    let mut all = tensors(&folder);
    all.insert(stacked.to_owned(), zeros(&[95, 32]));
    let error = error_of(load(&folder, &write(&folder, &all)));
    assert!(error.to_string().contains("expected [96, 32]"), "{error}");
}

#[test]
fn other_models_are_refused_by_name() {
    let folder = TinySdxl::write();
    let base = tensors(&folder);
    let with = |name: &str, shape: &[usize]| {
        let mut all = base.clone();
        all.insert(name.to_owned(), zeros(shape));
        error_of(load(&folder, &write(&folder, &all)))
    };
    let alone = |name: &str| {
        let all = Tensors::from([(name.to_owned(), zeros(&[2, 2]))]);
        error_of(load(&folder, &write(&folder, &all)))
    };
    let cases = [
        (with(CONV_IN, &[16, 9, 3, 3]), "inpainting"),
        (with("v_pred", &[1]), "epsilon"),
        (with("joint_blocks.0.x", &[1]), "Stable Diffusion 3"),
        (alone("double_blocks.0.img_attn.qkv.weight"), "Flux"),
        (alone("unet.x.to_q.lora_A.weight"), "LoRA"),
        (alone("cond_stage_model.transformer.text_model.x"), "1.x"),
        (alone("cond_stage_model.model.ln_final.weight"), "2.x"),
        (
            alone("down_blocks.0.resnets.0.conv1.weight"),
            "diffusers folder",
        ),
        (alone("x"), "no SDXL checkpoint"),
    ];
    for (error, word) in cases {
        let named = matches!(error, Error::OtherModel { .. }) && error.to_string().contains(word);
        assert!(named, "{word}: {error}");
    }
    let refiner = base.iter().filter_map(|(name, tensor)| {
        let name = name.replace("embedders.1.", "embedders.0.");
        (!name.starts_with("conditioner.embedders.0.transformer")).then(|| (name, tensor.clone()))
    });
    let error = error_of(load(&folder, &write(&folder, &refiner.collect())));
    assert!(error.to_string().contains("refiner"), "{error}");
}

#[test]
fn files_that_are_no_whole_checkpoint_are_named() {
    let folder = TinySdxl::write();
    let path = write(&folder, &tensors(&folder));
    for keep in [
        |length| length - 1,
        |length| length / 2,
        |_| 100,
        |_| 3,
        |_| 0,
    ] {
        truncate(&path, keep);
        let error = error_of(load(&folder, &path));
        assert!(matches!(error, Error::Weights { .. }), "{error}");
    }
    for start in [b"PK\x03\x04.........".as_slice(), b"\x80\x02\x8a\x0al\xfc"] {
        let pickle = folder.path("model.ckpt");
        std::fs::write(&pickle, start).unwrap();
        assert!(matches!(
            error_of(load(&folder, &pickle)),
            Error::Pickle { .. }
        ));
    }
    let gone = folder.path("gone.safetensors");
    assert!(matches!(error_of(load(&folder, &gone)), Error::Io { .. }));
}

#[test]
fn eight_bit_floats_are_refused() {
    let folder = TinySdxl::write();
    let mut all = tensors(&folder);
    let small = all[TO_K].to_dtype(DType::F8E4M3).unwrap();
    all.insert(TO_K.to_owned(), small);
    let error = error_of(load(&folder, &write(&folder, &all)));
    assert!(
        matches!(&error, Error::TensorType { tensor, .. } if tensor == TO_K),
        "{error}"
    );
    assert!(error.to_string().contains("F16"), "{error}");
}

#[test]
fn random_weights_sample_finite_pictures() {
    let folder = TinySdxl::write();
    for file in ["text_encoder/config.json", "text_encoder_2/config.json"] {
        folder.set(file, "vocab_size", json!(49_408));
    }
    let config = || SdxlConfig::read(&folder.path("")).unwrap();
    let random = |seed| Sdxl::random(config(), &options(DType::F32), seed).unwrap();
    let (latents, picture) = sampled(&random(1));
    assert!(latents.iter().all(|v| v.is_finite()));
    assert!(picture.iter().any(|v| *v != picture[0]));
    assert!(sampled(&random(1)).0 == latents);
    assert!(sampled(&random(2)).0 != latents);
    let half = Sdxl::random(config(), &options(DType::F16), 1).unwrap();
    assert!(sampled(&half).0.iter().all(|v| v.is_finite()));
}

#[test]
fn full_size_is_sdxl_base() {
    let config = SdxlConfig::full_size().unwrap();
    config.check_heads(Path::new("")).unwrap();
    config.check_widths(Path::new("")).unwrap();
    assert_eq!(
        config.unet.down.iter().map(|l| l.heads).collect::<Vec<_>>(),
        [5, 10, 20]
    );
    assert_eq!(config.unet.time_id_dim, 256);
    assert_eq!(config.text_encoder_2.num_attention_heads, 20);
    assert_eq!(config.vae.factor(), 8);
}
