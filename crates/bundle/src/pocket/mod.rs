//! The pocket bundle: every file of a real bundle, in exactly the real formats, at tiny sizes, so that every part runs, on any
//! machine, in seconds.
//!
//! [`trained`] writes the one that everything runs on by default. It was trained on drawn portraits and keeps who is
//! drawn in them; of photos of people it knows nothing.
//!
//! [`make`] writes one for tests. **Its weights are random and its pictures mean nothing**: a render depends on prompt,
//! seed, identity and scale as a real one does, but shows coloured texture and nobody's face.

mod base;
pub(crate) mod folder;
mod hyperlora;
mod recognizer;
mod tensors;
mod tokenizer;
mod trained;
mod unet;

pub use base::add_base;
pub use trained::{trained, trained_digest};

use std::collections::BTreeMap;
use std::path::Path;

use sha2::Digest;

use crate::error::Error;
use crate::layout::{Config, TextConfig, UnetConfig, VaeConfig, VisionConfig};
use crate::manifest::{
    About, Builtin, Defaults, Face, HyperLora, MANIFEST, Manifest, Model, Name, Part, RelPath,
    Sha256,
};

/// The name of every pocket bundle.
pub const NAME: &str = "pocket";
/// Grows with every change of the bytes that [`make`] writes.
pub const VERSION: &str = "1";

macro_rules! asset {
    ($name:literal) => {
        include_str!(concat!("../../assets/pocket/", $name))
    };
}

const TEXT_ENCODER: &str = asset!("text_encoder.json");
const TEXT_ENCODER_2: &str = asset!("text_encoder_2.json");
const UNET: &str = asset!("unet.json");
const VAE: &str = asset!("vae.json");
const CLIP_VISION: &str = asset!("clip_vision.json");

/// Files of a bundle by their paths in it.
type Files = BTreeMap<String, Vec<u8>>;

/// What [`trained`] and [`make`] found to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// The bundle was written.
    Written,
    /// The directory already held exactly this bundle.
    AlreadyThere,
}

/// Makes the pocket bundle of random weights of `seed` in `dir`, which must be new, empty or exactly this bundle already.
/// The same seed gives the same bytes on every machine.
///
/// The files are written into a sibling directory that is renamed at the end: `dir` never holds half a
/// bundle.
///
/// # Errors
/// [`Error::NotEmpty`] when `dir` holds anything else; [`Error::Io`].
pub fn make(dir: impl AsRef<Path>, seed: u64) -> Result<Made, Error> {
    folder::fill(dir.as_ref(), &files(seed)?)
}

/// Every file of the bundle, with the manifest.
fn files(seed: u64) -> Result<Files, Error> {
    let mut files = Files::new();
    sdxl(&mut files, seed)?;
    hyperlora_release(&mut files, seed)?;
    clip_vision(&mut files, seed)?;
    files.insert(
        "face/recognizer.onnx".to_owned(),
        recognizer::recognizer(seed),
    );
    files.insert("README.txt".to_owned(), readme(seed).into_bytes());
    let manifest = manifest(&files)?;
    files.insert(MANIFEST.to_owned(), manifest.into_bytes());
    Ok(files)
}

fn sdxl(files: &mut Files, seed: u64) -> Result<(), Error> {
    put(files, "sdxl/model_index.json", asset!("model_index.json"));
    put(
        files,
        "sdxl/scheduler/scheduler_config.json",
        asset!("scheduler_config.json"),
    );
    tokenizers(files)?;
    for (folder, config, projected) in [
        ("text_encoder", TEXT_ENCODER, false),
        ("text_encoder_2", TEXT_ENCODER_2, true),
    ] {
        put(files, &format!("sdxl/{folder}/config.json"), config);
        let name = format!("sdxl/{folder}/model.safetensors");
        let weights = parse::<TextConfig>(config)?
            .layout(projected)
            .draw(seed, &name);
        files.insert(name.clone(), weights.to_f32_file(&name)?);
    }
    put(files, "sdxl/unet/config.json", UNET);
    let name = "sdxl/unet/diffusion_pytorch_model.safetensors";
    let unet: UnetConfig = parse(UNET)?;
    let mut weights = unet.layout().draw(seed, name);
    unet.pass_noise_through(&mut weights);
    files.insert(name.to_owned(), weights.to_f16_file(name)?);
    put(files, "sdxl/vae/config.json", VAE);
    let name = "sdxl/vae/diffusion_pytorch_model.safetensors";
    let weights = parse::<VaeConfig>(VAE)?.layout().draw(seed, name);
    files.insert(name.to_owned(), weights.to_f32_file(name)?);
    Ok(())
}

fn tokenizers(files: &mut Files) -> Result<(), Error> {
    let vocabulary = tokenizer::vocabulary(parse::<TextConfig>(TEXT_ENCODER)?.vocab_size);
    let own = [
        (
            "tokenizer",
            asset!("tokenizer_config.json"),
            asset!("special_tokens_map.json"),
        ),
        (
            "tokenizer_2",
            asset!("tokenizer_2_config.json"),
            asset!("special_tokens_map_2.json"),
        ),
    ];
    for (folder, config, special) in own {
        put(
            files,
            &format!("sdxl/{folder}/tokenizer_config.json"),
            config,
        );
        put(
            files,
            &format!("sdxl/{folder}/special_tokens_map.json"),
            special,
        );
        files.insert(
            format!("sdxl/{folder}/vocab.json"),
            vocabulary.vocab_json()?,
        );
        files.insert(format!("sdxl/{folder}/merges.txt"), vocabulary.merges_txt());
    }
    Ok(())
}

fn hyperlora_release(files: &mut Files, seed: u64) -> Result<(), Error> {
    let modules = parse::<UnetConfig>(UNET)?.attention_modules();
    let width = parse::<VisionConfig>(CLIP_VISION)?.hidden_size;
    let json = hyperlora::modules_json(&modules)?;
    files.insert("hyperlora/hyper_lora_modules.json".to_owned(), json);
    let name = "hyperlora/resampler.safetensors";
    let resampler = hyperlora::resampler(modules.len(), width).draw(seed, name);
    files.insert(name.to_owned(), resampler.to_f32_file(name)?);
    let name = "hyperlora/id_projector.safetensors";
    let projector = hyperlora::id_projector(width).draw(seed, name);
    files.insert(name.to_owned(), projector.to_f16_file(name)?);
    let name = "hyperlora/hyper_lora_modules.safetensors";
    let basis = hyperlora::basis(&modules).draw(seed, name);
    files.insert(name.to_owned(), basis.to_f16_file(name)?);
    Ok(())
}

fn clip_vision(files: &mut Files, seed: u64) -> Result<(), Error> {
    put(files, "clip-vision/config.json", CLIP_VISION);
    put(
        files,
        "clip-vision/preprocessor_config.json",
        asset!("preprocessor_config.json"),
    );
    let name = "clip-vision/model.safetensors";
    let weights = parse::<VisionConfig>(CLIP_VISION)?
        .layout()
        .draw(seed, name);
    files.insert(name.to_owned(), weights.to_f32_file(name)?);
    Ok(())
}

fn put(files: &mut Files, name: &str, text: &str) {
    files.insert(name.to_owned(), text.as_bytes().to_vec());
}

fn parse<T: Config>(config: &str) -> Result<T, Error> {
    T::parse(config.as_bytes()).map_err(Error::encode("a pocket config.json"))
}

fn manifest(files: &Files) -> Result<String, Error> {
    let path = |p: &str| RelPath::try_from(p.to_owned()).map_err(Error::encode(MANIFEST));
    let name = |n: &str| Name::try_from(n.to_owned()).map_err(Error::encode(MANIFEST));
    let mut hashes = BTreeMap::new();
    for (file, bytes) in files {
        let hash = sha2::Sha256::digest(bytes);
        hashes.insert(path(file)?, Sha256::of_bytes(&hash.into()));
    }
    let manifest = Manifest {
        bundle: About {
            name: name(NAME)?,
            version: name(VERSION)?,
            licences: vec!["Apache-2.0".to_owned()],
        },
        sdxl: Some(Model {
            path: path("sdxl")?,
            config: None,
        }),
        models: BTreeMap::new(),
        hyperlora: Some(HyperLora {
            path: path("hyperlora")?,
            dim_head: hyperlora::DIM_HEAD,
        }),
        clip_vision: Some(Part {
            path: path("clip-vision")?,
        }),
        face: Some(Face {
            builtin: Some(Builtin::Frontal),
            recognizer: Some(path("face/recognizer.onnx")?),
            // Random weights know nobody.
            same_person: Some(-1.0),
            ..Face::default()
        }),
        defaults: Defaults {
            width: 256,
            height: 256,
            ..Defaults::default()
        },
        files: hashes,
    };
    toml::to_string(&manifest).map_err(Error::encode(MANIFEST))
}

fn readme(seed: u64) -> String {
    format!(
        "The pocket bundle of Likeness, version {VERSION}, seed {seed}.\n\n\
         THE WEIGHTS ARE RANDOM AND THE PICTURES MEAN NOTHING. Every file has the format of a real\n\
         bundle at a tiny size, so that the whole of Likeness runs anywhere in seconds: pictures change\n\
         with prompt, seed, identity and scale, but show coloured texture and nobody's face.\n\n\
         Made by `likeness bundle make-pocket`; the same seed gives the same bytes. Apache-2.0.\n"
    )
}
