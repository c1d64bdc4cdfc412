//! The stage of the UNet and its text encoders, all at once: the noise in portraits' latents is to be told, from captions.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Tensor};
use likeness_portraits::{Setting, caption};
use likeness_sdxl::parts::{
    ClipSkip, Conditioning, TextConfig, TextEncoder, UNet, UNetConfig, Vae, Variables, Weights,
};
use sha2::{Digest as _, Sha256};

use super::captions::{Captions, TRIGGER};
use super::{Watch, World};
use crate::denoise::{Noised, Noising, loss};
use crate::pictures::pictures;
use crate::recipe::Portraits;
use crate::run::{Ended, Part, Stage, run};
use crate::{Chance, Error, Group};

const NAME: &str = "painter";
/// How often a caption is left out, for guidance.
const DROPPED: f64 = 0.1;
/// Portraits that are encoded at once.
const AT_ONCE: usize = 32;

/// Latents [n, 4, h, w] of all who are shown, at a spread of 1, and the factor that brought them there.
pub(crate) struct Latents {
    pub all: Tensor,
    pub scaling: f64,
}

/// All pictures of all who are shown, encoded; kept beside the autoencoder, as they do not change. Those that another autoencoder
/// made, or that are of other pictures, are not looked at.
pub(super) fn encode(
    world: &World<'_>,
    vae: &Vae,
    autoencoder: &Variables,
) -> Result<Latents, Error> {
    let kept = world.out.join("autoencoder/latents.safetensors");
    let made_of = made_of(world, autoencoder)?;
    if let Some(latents) = kept_latents(world, &kept, &made_of)? {
        return Ok(latents);
    }
    let latents = encoded(world, vae)?;
    let scaling = Tensor::new(latents.scaling, world.device)?;
    let count = made_of.len();
    let named = [
        ("latents", latents.all.clone()),
        ("scaling", scaling),
        ("made_of", Tensor::from_vec(made_of, count, world.device)?),
    ];
    candle_core::safetensors::save(&HashMap::from(named), kept)?;
    Ok(latents)
}

/// What the latents follow from: the pictures, and the encoder's weights.
fn made_of(world: &World<'_>, autoencoder: &Variables) -> Result<Vec<u8>, Error> {
    let Portraits {
        side,
        people,
        held_out,
        pictures,
    } = world.recipe.portraits;
    let mut digest = Sha256::new();
    for number in [u64::from(side), people, held_out, pictures] {
        digest.update(number.to_le_bytes());
    }
    for (name, var) in autoencoder.all() {
        // The decoder may be trained on.
        if name.starts_with("encoder.") || name.starts_with("quant_conv.") {
            digest.update(name.as_bytes());
            for number in var.flatten_all()?.to_vec1::<f32>()? {
                digest.update(number.to_le_bytes());
            }
        }
    }
    Ok(digest.finalize().to_vec())
}

/// Those in a file, if they were made of the same.
fn kept_latents(world: &World<'_>, kept: &Path, made_of: &[u8]) -> Result<Option<Latents>, Error> {
    if !kept.exists() {
        return Ok(None);
    }
    // A damaged file is one that does not count.
    let Ok(mut found) = candle_core::safetensors::load(kept, world.device) else {
        return Ok(None);
    };
    let found = ["latents", "scaling", "made_of"].map(|name| found.remove(name));
    let [Some(all), Some(scaling), Some(was_made_of)] = found else {
        return Ok(None);
    };
    let same = was_made_of.dtype() == DType::U8 && was_made_of.rank() == 1;
    if !same || was_made_of.to_vec1::<u8>()? != made_of {
        return Ok(None);
    }
    let scaling = scaling.to_scalar::<f64>()?;
    Ok(Some(Latents { all, scaling }))
}

fn encoded(world: &World<'_>, vae: &Vae) -> Result<Latents, Error> {
    let who = world.everyone();
    let encoded = who.chunks(AT_ONCE).map(|who| {
        let drawn = pictures(who, world.recipe.portraits.side, world.device)?;
        Ok(vae.moments(&drawn)?.narrow(1, 0, 4)?.detach())
    });
    let all = Tensor::cat(&encoded.collect::<Result<Vec<_>, Error>>()?, 0)?;
    let mean = all.mean_all()?;
    let spread = all.broadcast_sub(&mean)?.sqr()?.mean_all()?;
    let scaling = 1.0 / f64::from(spread.to_scalar::<f32>()?).sqrt();
    Ok(Latents {
        all: (all * scaling)?,
        scaling,
    })
}

/// Trains all three, or loads what was trained. The weights are named below `unet.`, `text_encoder.` and `text_encoder_2.`.
pub(super) fn train(
    world: &World<'_>,
    latents: &Latents,
    watch: &mut Watch<'_>,
) -> Result<(Variables, Ended), Error> {
    let variables = Variables::new(world.recipe.seed, world.device);
    let weights = Weights::variables(&variables, world.device);
    let (config, path) = world.config("unet.json")?;
    let unet = UNet::load(&weights.pp("unet"), &UNetConfig::parse(config, &path)?)?;
    let text = Text::load(world, &weights)?;
    let (portraits, seed) = (world.recipe.portraits, world.recipe.seed);
    let (noising, side) = (Noising::scaled_linear(), portraits.side as f32);
    let who = world.everyone();
    let part = |part: Part| {
        let mut chance = Chance::at(seed, part.number, "painter");
        let drawn: Vec<u32> = (0..part.samples)
            .map(|_| chance.below(who.len()) as u32)
            .collect();
        let texts = drawn.iter().map(|&at| {
            let caption = caption(&Setting::drawn(who[at as usize].1));
            if chance.happens(0.5) {
                format!("{TRIGGER}{caption}")
            } else {
                caption
            }
        });
        let texts: Vec<String> = texts.collect();
        let kept: Vec<f32> = (0..part.samples)
            .map(|_| f32::from(!chance.happens(DROPPED)))
            .collect();
        let timesteps = Noising::draw(&mut chance, part.samples);
        let at = Tensor::from_vec(drawn, part.samples, world.device)?;
        let latents = latents.all.index_select(&at, 0)?;
        let noise = Chance::at(seed, part.number, "noise").normal(latents.dims(), world.device)?;
        let noised = Noised {
            latents: &latents,
            noise: &noise,
            timesteps: &timesteps,
        };
        let conditioning = text.conditioning(&texts, &kept, side)?;
        let nobody = vec![None; part.samples];
        loss(&unet, &conditioning, &noised, &nobody, &noising)
    };
    let all = variables
        .all()
        .into_iter()
        .filter(|(name, _)| !text.unused(name));
    let stage = Stage {
        name: NAME,
        variables: all.collect(),
        group: &|_, var| Group::of(var),
        loss: &part,
        sheet: None,
    };
    let ended = run(&stage, &world.base.painter, world.out, watch)?;
    Ok((variables, ended))
}

/// Both text encoders as SDXL reads them: the penultimate layers' states side by side, and the second one's pooled text.
pub(crate) struct Text {
    captions: Captions,
    first: TextEncoder,
    second: TextEncoder,
    skip: ClipSkip,
    first_layers: usize,
}

impl Text {
    pub fn load(world: &World<'_>, weights: &Weights) -> Result<Text, Error> {
        let (config, path) = world.config("text_encoder.json")?;
        let one = TextConfig::parse(config, &path)?;
        let (config, path) = world.config("text_encoder_2.json")?;
        let two = TextConfig::parse(config, &path)?;
        let first = TextEncoder::load(&weights.pp("text_encoder"), &one, false)?;
        let second = TextEncoder::load(&weights.pp("text_encoder_2"), &two, true)?;
        let layers = first.layer_count().min(second.layer_count());
        let skip = ClipSkip::new(2, layers).ok_or_else(|| Error::Recipe {
            reason: "text encoders need 2 layers or more".to_owned(),
        })?;
        Ok(Text {
            captions: Captions::load(&world.base.models, one.max_position_embeddings)?,
            first_layers: first.layer_count(),
            first,
            second,
            skip,
        })
    }

    /// What SDXL never looks at: the first encoder behind its penultimate layer.
    fn unused(&self, name: &str) -> bool {
        let last = format!("encoder.layers.{}.", self.first_layers - 1);
        name.starts_with("text_encoder.")
            && (name.contains(&last) || name.contains("final_layer_norm"))
    }

    /// Of captions, each times `kept`: nothing stands for no caption.
    pub fn conditioning(
        &self,
        texts: &[String],
        kept: &[f32],
        side: f32,
    ) -> Result<Conditioning, Error> {
        let windows = self.captions.windows(texts)?;
        let first = self.first.forward(&windows, self.skip)?;
        let second = self.second.forward(&windows, self.skip)?;
        let states = Tensor::cat(&[&first.states, &second.states], 2)?;
        let pooled = second.pooled.ok_or_else(|| Error::Recipe {
            reason: "the second text encoder needs a projection".to_owned(),
        })?;
        let kept = Tensor::from_slice(kept, (kept.len(), 1), states.device())?;
        Ok(Conditioning {
            text: states.broadcast_mul(&kept.unsqueeze(2)?)?,
            pooled: pooled.broadcast_mul(&kept)?,
            time_ids: [side, side, 0.0, 0.0, side, side],
        })
    }
}

#[cfg(test)]
mod tests;
