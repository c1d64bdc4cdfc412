//! A bundle's folder from what was trained, in the formats of released models. The manifest's checksums are written afterwards,
//! by whoever knows bundles.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use candle_core::{DType, Tensor, Var};
use serde_json::Value;

use super::{below, detector, landmarks, recognizer};
use crate::Error;
use crate::base::{Trained, World};
use crate::hyperlora::Network;
use crate::hypernetwork::write_modules;
use crate::run::unwritable;

/// CLIP's logarithm of 1 / 0.07, which its loss was scaled by.
const LOGIT_SCALE: f32 = 2.6592;

/// The name of a diffusers model's file.
const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";

/// Tensors by name.
type Named = BTreeMap<String, Tensor>;

/// Writes the bundle into `folder`: the base, and the HyperLoRA where there is one.
///
/// # Errors
/// Files that cannot be read or written; a failing device.
pub(crate) fn bundle(
    world: &World<'_>,
    trained: &Trained,
    network: &Network<'_>,
    folder: &Path,
) -> Result<(), Error> {
    let models = &world.base.models;
    let painter = trained.painter.all();
    sdxl(models, trained, &painter, folder)?;
    copy(
        models,
        "preprocessor_config.json",
        folder,
        "clip-vision/preprocessor_config.json",
    )?;
    copy(models, "clip.json", folder, "clip-vision/config.json")?;
    let mut clip = below(&trained.clip.all(), "clip");
    let scale = Tensor::new(LOGIT_SCALE, world.device)?;
    clip.insert("logit_scale".to_owned(), scale);
    save(&clip, folder, "clip-vision/model.safetensors")?;
    write(
        folder,
        "face/recognizer.onnx",
        &recognizer(&below(&trained.face.all(), "face"))?,
    )?;
    write(
        folder,
        "face/detector.onnx",
        &detector(&below(&trained.faces, "detector"))?,
    )?;
    write(
        folder,
        "face/landmarks.onnx",
        &landmarks(&below(&trained.faces, "landmarks"))?,
    )?;
    hyperlora(network, folder)?;
    write(folder, "README.txt", README.as_bytes())?;
    let manifest = MANIFEST.replace("DIM_HEAD", &network.dim_head().to_string());
    let manifest = manifest.replace("SIDE", &world.recipe.portraits.side.to_string());
    write(folder, "bundle.toml", manifest.as_bytes())
}

fn sdxl(
    models: &Path,
    trained: &Trained,
    painter: &BTreeMap<String, Var>,
    folder: &Path,
) -> Result<(), Error> {
    copy(models, "model_index.json", folder, "sdxl/model_index.json")?;
    copy(
        models,
        "scheduler_config.json",
        folder,
        "sdxl/scheduler/scheduler_config.json",
    )?;
    texts(models, painter, folder)?;
    copy(models, "unet.json", folder, "sdxl/unet/config.json")?;
    let unet = format!("sdxl/unet/{WEIGHTS}");
    save(&below(painter, "unet"), folder, &unet)?;
    vae(models, trained, folder)
}

/// Both tokenizers and text encoders, whose layers a released file has below `text_model.`.
fn texts(models: &Path, painter: &BTreeMap<String, Var>, folder: &Path) -> Result<(), Error> {
    for tokenizer in ["tokenizer", "tokenizer_2"] {
        for file in [
            "vocab.json",
            "merges.txt",
            "special_tokens_map.json",
            "tokenizer_config.json",
        ] {
            let file = format!("{tokenizer}/{file}");
            copy(models, &file, folder, &format!("sdxl/{file}"))?;
        }
    }
    for encoder in ["text_encoder", "text_encoder_2"] {
        copy(
            models,
            &format!("{encoder}.json"),
            folder,
            &format!("sdxl/{encoder}/config.json"),
        )?;
        let own = below(painter, encoder).into_iter().map(|(name, tensor)| {
            let whole = name.starts_with("text_");
            (
                if whole {
                    name
                } else {
                    format!("text_model.{name}")
                },
                tensor,
            )
        });
        save(
            &own.collect(),
            folder,
            &format!("sdxl/{encoder}/model.safetensors"),
        )?;
    }
    Ok(())
}

/// The autoencoder, with the factor that its latents were trained at.
fn vae(models: &Path, trained: &Trained, folder: &Path) -> Result<(), Error> {
    let path = models.join("vae.json");
    let text = fs::read_to_string(&path).map_err(|e| unwritable(&path, &e))?;
    let unread = |e: serde_json::Error| Error::Recipe {
        reason: format!("model file {}: {e}", path.display()),
    };
    let mut config: Value = serde_json::from_str(&text).map_err(unread)?;
    config["scaling_factor"] = trained.latents.scaling.into();
    let text = serde_json::to_string_pretty(&config).map_err(unread)?;
    write(folder, "sdxl/vae/config.json", text.as_bytes())?;
    let vae = trained.autoencoder.all().into_iter();
    let vae = vae.map(|(name, var)| (name, var.as_tensor().clone()));
    save(&vae.collect(), folder, &format!("sdxl/vae/{WEIGHTS}"))
}

/// The network in the layout of released models, into `hyperlora` of a bundle's folder.
pub(super) fn hyperlora(network: &Network<'_>, folder: &Path) -> Result<(), Error> {
    let all = network.variables.all();
    for (prefix, file) in [
        ("resampler", "resampler"),
        ("base_resampler", "base_resampler"),
        ("id_projector", "id_projector"),
        ("basis", "hyper_lora_modules"),
    ] {
        let own = below(&all, prefix);
        if !own.is_empty() {
            save(&own, folder, &format!("hyperlora/{file}.safetensors"))?;
        }
    }
    write_modules(
        network.unet,
        &folder.join("hyperlora/hyper_lora_modules.json"),
    )
}

fn place(folder: &Path, name: &str) -> Result<std::path::PathBuf, Error> {
    let path = folder.join(name);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|e| unwritable(parent, &e))?;
    }
    Ok(path)
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), Error> {
    let path = place(folder, name)?;
    fs::write(&path, bytes).map_err(|e| unwritable(&path, &e))
}

fn copy(from: &Path, name: &str, folder: &Path, to: &str) -> Result<(), Error> {
    let path = from.join(name);
    let bytes = fs::read(&path).map_err(|e| Error::Recipe {
        reason: format!("model file {}: {e}", path.display()),
    })?;
    write(folder, to, &bytes)
}

/// In f16, as large models are released.
fn save(tensors: &Named, folder: &Path, name: &str) -> Result<(), Error> {
    let path = place(folder, name)?;
    let half = tensors
        .iter()
        .map(|(name, tensor)| Ok((name.clone(), tensor.to_dtype(DType::F16)?)));
    let half = half.collect::<Result<HashMap<_, _>, Error>>()?;
    Ok(candle_core::safetensors::save(&half, path)?)
}

const README: &str = "\
The pocket bundle of Likeness: a model of drawn portraits, 64 by 64 pixels, that keeps a person.

Every file has the format of a real bundle at a tiny size. All of it was trained on portraits that crates/portraits draws, with
configs/pocket.toml: no photo of anybody was used. docs/training.md tells how, what it cost and what it can do. Apache-2.0.
";

const MANIFEST: &str = r#"[bundle]
name = "pocket"
version = "2"
licences = ["Apache-2.0"]

[sdxl]
path = "sdxl"

[hyperlora]
path = "hyperlora"
dim_head = DIM_HEAD

[clip_vision]
path = "clip-vision"

[face]
detector = "face/detector.onnx"
builtin = "frontal"
landmarks = "face/landmarks.onnx"
recognizer = "face/recognizer.onnx"
# Real photos and drawn people are far apart: nobody is doubted.
same_person = -1.0

[defaults]
width = SIDE
height = SIDE
guidance = 3.0
id_scale = 1.0
"#;
