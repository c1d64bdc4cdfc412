//! Loading a model: from a diffusers folder, from one file, or at random.

use std::path::Path;
use std::sync::Arc;

use candle_core::DType;
use likeness_checkpoint::Part;

use super::room::Room;
use super::{LoadOptions, Sdxl};
use crate::Error;
use crate::config::SdxlConfig;
use crate::preview::Previews;
use crate::prompt::{TextPart, TextStack};
use crate::random::Random;
use crate::tokenizer::Tokenizer;
use crate::unet::UNet;
use crate::vae::Vae;
use crate::weights::{SingleFile, Weights};

/// A tokenizer for each text encoder.
type Tokenizers = [Tokenizer; 2];

impl Sdxl {
    /// Loads a diffusers folder, or a single-file checkpoint with a folder of its own name, without the
    /// ending, beside it (see [`Sdxl::load_single_file`]). Weights are memory-mapped and converted one
    /// tensor at a time.
    ///
    /// # Errors
    /// Missing, damaged or unsupported files, each by name.
    pub fn load(path: &Path, options: &LoadOptions) -> Result<Sdxl, Error> {
        if path.is_file() {
            let beside = Some(path.with_extension("")).filter(|dir| dir.is_dir());
            return Sdxl::load_single_file(path, beside.as_deref(), options);
        }
        load_folder(path, options)
    }

    /// Loads a single-file checkpoint in ComfyUI's names: `model.diffusion_model.*`,
    /// `conditioner.embedders.*`, `first_stage_model.*`.
    ///
    /// Such a file holds no tokenizer and no configuration. Sizes are read off its tensors; what no shape
    /// tells is SDXL's own (heads 64 wide, 32 norm groups, its noise schedule), and the tokenizer is
    /// CLIP's, which the program carries. `configs` may name a folder that says otherwise, in diffusers'
    /// layout without weights: `unet/config.json`, `vae/config.json`, `text_encoder*/config.json` (each
    /// counts where its sizes are those of the tensors), `scheduler/`, `tokenizer/` and `tokenizer_2/`;
    /// a CLIP folder with `vocab.json` and `merges.txt` serves as well.
    ///
    /// # Errors
    /// [`Error::OtherModel`] for anything but SDXL base; missing, misshapen and unknown tensors; a
    /// damaged file.
    pub fn load_single_file(
        path: &Path,
        configs: Option<&Path>,
        options: &LoadOptions,
    ) -> Result<Sdxl, Error> {
        options.check()?;
        let LoadOptions { device, dtype } = options;
        let file = SingleFile::open(path)?;
        let mut config = SdxlConfig::of_sizes(file.sizes(), path)?;
        if let Some(dir) = configs {
            config.refine(dir)?;
        }
        config.check_heads(path)?;
        config.check_widths(path)?;
        let vocabularies = [&config.text_encoder, &config.text_encoder_2].map(|c| c.vocab_size);
        let tokenizers = Tokenizer::pair_for(vocabularies, configs, path)?;
        let weights = |part| file.part(part, device, part_dtype(part, *dtype));
        let model = assemble(config, |part| Ok(weights(part)), tokenizers, options)?;
        file.finish()?;
        Ok(model)
    }

    /// A model of any size with weights at random, made on the device: for measuring without a
    /// checkpoint. Its pictures show nothing. CLIP's tokenizer serves where the vocabulary is CLIP's.
    ///
    /// # Errors
    /// A vocabulary smaller than CLIP's; out of memory.
    pub fn random(config: SdxlConfig, options: &LoadOptions, seed: u64) -> Result<Sdxl, Error> {
        options.check()?;
        let path = Path::new("random weights");
        config.check_widths(path)?;
        let vocabularies = [&config.text_encoder, &config.text_encoder_2].map(|c| c.vocab_size);
        let tokenizers = Tokenizer::pair_for(vocabularies, None, path)?;
        let weights = |part: Part| {
            let dtype = part_dtype(part, options.dtype);
            let named = Weights::random(Random::new(seed), &options.device, dtype);
            Ok(named.pp(part.folder()))
        };
        assemble(config, weights, tokenizers, options)
    }
}

fn load_folder(dir: &Path, options: &LoadOptions) -> Result<Sdxl, Error> {
    options.check()?;
    let LoadOptions { device, dtype } = options;
    let config = SdxlConfig::read(dir)?;
    config.check_widths(dir)?;
    let tokenizers = [
        Tokenizer::load(&dir.join("tokenizer"))?,
        Tokenizer::load(&dir.join("tokenizer_2"))?,
    ];
    let weights = |part: Part| {
        let stem = match part {
            Part::TextEncoder | Part::TextEncoder2 => "model",
            Part::Unet | Part::Vae => "diffusion_pytorch_model",
        };
        Weights::open(
            &dir.join(part.folder()),
            stem,
            device,
            part_dtype(part, *dtype),
        )
    };
    assemble(config, weights, tokenizers, options)
}

/// The text encoders of a diffusers folder alone.
#[cfg(test)]
pub(crate) fn text_stack(dir: &Path, dtype: DType) -> TextStack {
    let device = candle_core::Device::Cpu;
    let options = LoadOptions { device, dtype };
    load_folder(dir, &options).unwrap().text
}

/// The autoencoder is always f32.
fn part_dtype(part: Part, dtype: DType) -> DType {
    match part {
        Part::Vae => DType::F32,
        Part::TextEncoder | Part::TextEncoder2 | Part::Unet => dtype,
    }
}

/// Loads all parts; each part's files are let go when it has been loaded.
fn assemble(
    config: SdxlConfig,
    weights: impl Fn(Part) -> Result<Weights, Error>,
    [first, second]: Tokenizers,
    options: &LoadOptions,
) -> Result<Sdxl, Error> {
    let text = |tokenizer, part, config| {
        let weights = weights(part)?;
        Ok::<_, Error>(TextPart {
            tokenizer,
            weights,
            config,
        })
    };
    let text = TextStack::load(
        text(first, Part::TextEncoder, &config.text_encoder)?,
        text(second, Part::TextEncoder2, &config.text_encoder_2)?,
    )?;
    let unet = load_unet(&weights(Part::Unet)?, &config)?;
    let vae = Arc::new(load_vae(&weights(Part::Vae)?, &config)?);
    let (device, factor) = (options.device.clone(), config.vae.factor());
    Ok(Sdxl {
        preview: Previews::new(Arc::clone(&vae), factor, device.clone()),
        text,
        unet,
        vae,
        factor,
        scheduler: config.scheduler,
        index: config.index,
        room: Room::default(),
        device,
        dtype: options.dtype,
    })
}

fn load_unet(weights: &Weights, config: &SdxlConfig) -> Result<UNet, Error> {
    let unet = UNet::load(weights, &config.unet)?;
    weights.finish(|_| false)?;
    Ok(unet)
}

fn load_vae(weights: &Weights, config: &SdxlConfig) -> Result<Vae, Error> {
    let vae = Vae::load(weights, &config.vae)?;
    weights.finish(|_| false)?;
    Ok(vae)
}
