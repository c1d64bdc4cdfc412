//! What a training is to do, from a TOML file.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::run::Plan;

mod real;

pub use real::{Data, From, Precision};

/// A whole recipe: `configs/pocket.toml` is one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Everything that is drawn follows from it.
    pub seed: u64,
    /// Drawn portraits to train on; nobody where there are `data`.
    #[serde(default)]
    pub portraits: Portraits,
    /// The base model's parts, if they are trained, too.
    pub base: Option<Base>,
    /// A base that is there already, to train HyperLoRA over.
    pub from: Option<From>,
    /// Pictures to train on over such a base.
    pub data: Option<Data>,
    /// HyperLoRA's stages.
    pub hyperlora: Option<HyperLora>,
}

/// Sizes and stages of a HyperLoRA.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HyperLora {
    /// Numbers per token of the coefficients.
    pub k: usize,
    /// Of the ID-LoRA.
    pub rank: usize,
    /// Of the Base-LoRA.
    pub base_rank: usize,
    /// Width of the resamplers' latents.
    pub dim: usize,
    /// Layers of the resamplers.
    pub depth: usize,
    /// Heads of their attentions.
    pub heads: usize,
    /// Width of a head.
    pub dim_head: usize,
    /// Width of their feed-forward layers.
    pub ff: usize,
    /// Tokens that a face embedding becomes.
    pub id_tokens: usize,
    /// How often the picture that is shown to the ID-LoRA is the one that is painted, and not any of the person's.
    pub same_picture: f64,
    /// The bases' learning rate, as a multiple of the resamplers'.
    pub bases_rate: f64,
    /// Stage 1: the Base-LoRA alone, from pictures with the face blurred. Left out, there is none.
    pub base: Option<Plan>,
    /// Stage 2a: the ID-LoRA from CLIP's features.
    pub clip: Plan,
    /// Stage 2b: the ID-LoRA from the face embedding, too.
    pub face: Plan,
}

/// People who are drawn, numbered from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Portraits {
    /// Height and width of what the model paints, in pixels.
    pub side: u32,
    /// How many people there are.
    pub people: u64,
    /// The last so many of them are shown to no stage of the training.
    pub held_out: u64,
    /// Pictures of each of them.
    pub pictures: u64,
}

impl Portraits {
    /// How many may be shown.
    pub fn shown(&self) -> u64 {
        self.people - self.held_out
    }

    /// The setting of a person's picture of this number.
    pub fn setting(&self, person: u64, picture: u64) -> u64 {
        person * self.pictures + picture
    }
}

/// The stages of a base model. Each part has the file in `models` for its configuration that the bundle will have, too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Base {
    /// The folder of `vae.json`, `unet.json`, `text_encoder.json`, `text_encoder_2.json` and `clip.json`, from the recipe's
    /// folder on.
    pub models: PathBuf,
    /// The autoencoder.
    pub autoencoder: Plan,
    /// Its decoder, after everything that sees latents: they stay what they are.
    pub decoder: Option<Plan>,
    /// CLIP: half as many whole portraits come to a batch's faces.
    pub clip: Plan,
    /// The face embedder: a batch is pairs of one person's pictures.
    pub face: Plan,
    /// The face detector.
    pub detector: Plan,
    /// The landmark model.
    pub landmarks: Plan,
    /// The UNet and its text encoders.
    pub painter: Plan,
    /// The judge of an evaluation, which is part of no bundle: without it none is trained.
    pub judge: Option<Plan>,
}

impl Recipe {
    /// Reads a file; the folder of the models' configurations comes back as a path from here.
    ///
    /// # Errors
    /// [`Error::Recipe`], with what was expected and where.
    pub fn read(path: &Path) -> Result<Recipe, Error> {
        let wrong = |reason: String| Error::Recipe {
            reason: format!("file {}: {reason}", path.display()),
        };
        let text = std::fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
        let mut recipe: Recipe = toml::from_str(&text).map_err(|e| wrong(e.to_string()))?;
        recipe.check().map_err(|e| wrong(e.to_string()))?;
        if let Some(folder) = path.parent() {
            recipe.lie_in(folder);
        }
        Ok(recipe)
    }

    /// Paths are meant from the recipe's folder on.
    fn lie_in(&mut self, folder: &Path) {
        if let Some(base) = &mut self.base {
            base.models = folder.join(&base.models);
        }
        if let Some(from) = &mut self.from {
            from.bundle = folder.join(&from.bundle);
        }
        if let Some(data) = &mut self.data {
            let shards = folder.join(&data.shards);
            data.shards = shards.to_string_lossy().into_owned();
        }
    }

    fn check(&self) -> Result<(), Error> {
        if let Some(hyperlora) = &self.hyperlora {
            hyperlora.check()?;
        }
        if self.from.is_some() || self.data.is_some() {
            return self.check_real();
        }
        self.portraits.check()?;
        self.base.as_ref().map_or(Ok(()), Base::check)
    }
}

impl Portraits {
    fn check(&self) -> Result<(), Error> {
        let Portraits {
            side,
            people,
            held_out,
            pictures,
        } = *self;
        let wrong = |reason: &str| {
            Err(Error::Recipe {
                reason: format!("[portraits]: {reason}"),
            })
        };
        if !likeness_portraits::SIDES.contains(&side) || !side.is_multiple_of(8) {
            return wrong("`side` must be a multiple of 8 from 32 to 512");
        }
        if held_out == 0 || people < held_out + 2 || pictures < 2 {
            return wrong(
                "at least 1 `held_out`, 2 more `people`, and 2 `pictures` of each are needed",
            );
        }
        Ok(())
    }
}

impl HyperLora {
    fn check(&self) -> Result<(), Error> {
        let sizes = [
            self.k,
            self.rank,
            self.base_rank,
            self.dim,
            self.depth,
            self.heads,
            self.dim_head,
            self.ff,
            self.id_tokens,
        ];
        let wrong = |reason: &str| {
            Err(Error::Recipe {
                reason: format!("[hyperlora]: {reason}"),
            })
        };
        if sizes.contains(&0) {
            return wrong("every size must be at least 1");
        }
        if !(0.0..=1.0).contains(&self.same_picture) {
            return wrong("`same_picture` must be from 0 to 1");
        }
        if !(self.bases_rate > 0.0 && self.bases_rate.is_finite()) {
            return wrong("`bases_rate` must be above 0");
        }
        if let Some(base) = &self.base {
            base.check("hyperlora.base")?;
        }
        self.clip.check("hyperlora.clip")?;
        self.face.check("hyperlora.face")
    }
}

impl Base {
    fn check(&self) -> Result<(), Error> {
        self.autoencoder.check("base.autoencoder")?;
        if let Some(decoder) = &self.decoder {
            decoder.check("base.decoder")?;
        }
        self.clip.check("base.clip")?;
        self.face.check("base.face")?;
        self.detector.check("base.detector")?;
        self.landmarks.check("base.landmarks")?;
        self.painter.check("base.painter")?;
        self.judge.map_or(Ok(()), |plan| plan.check("base.judge"))
    }
}
