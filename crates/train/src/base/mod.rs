//! A base model, part by part.

mod autoencoder;
pub(crate) mod captions;
mod clip;
mod detector;
mod face;
mod judge;
mod landmarks;
pub(crate) mod painter;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use candle_core::{Device, Var};
use likeness_sdxl::parts::{Vae, Variables};
use serde_json::Value;

use self::painter::Latents;
use crate::recipe::{Base, Recipe};
use crate::run::{Ended, Progress};
use crate::vision::VisionConfig;
use crate::{Error, checkpoint};

/// What all stages share.
pub(crate) struct World<'a> {
    pub recipe: &'a Recipe,
    pub base: &'a Base,
    pub out: &'a Path,
    pub device: &'a Device,
}

/// A base whose stages are all done.
pub(crate) struct Trained {
    pub vae: Vae,
    /// The vae's, by a diffusers folder's names.
    pub autoencoder: Variables,
    /// Below `clip.`.
    pub clip: Variables,
    /// Below `face.`.
    pub face: Variables,
    /// Below `detector.` and `landmarks.`.
    pub faces: BTreeMap<String, Var>,
    /// Below `unet.`, `text_encoder.` and `text_encoder_2.`.
    pub painter: Variables,
    pub latents: Latents,
}

/// Whoever wants to see how far it is, and may stop it.
pub type Watch<'a> = dyn FnMut(Progress<'_>) -> ControlFlow<()> + 'a;

/// Trains a recipe's base into the folder `out`, stage after stage; what is there already is gone on with.
///
/// # Errors
/// A recipe without a base; whatever stops a stage.
pub fn train(
    recipe: &Recipe,
    out: &Path,
    device: &Device,
    watch: &mut Watch<'_>,
) -> Result<Ended, Error> {
    let base = recipe.base.as_ref().ok_or_else(no_base)?;
    let world = World {
        recipe,
        base,
        out,
        device,
    };
    let trained = trained(&world, watch)?;
    Ok(trained.map_or(Ended::Stopped, |_| Ended::Done))
}

/// All stages, or nothing if one was stopped.
pub(crate) fn trained(world: &World<'_>, watch: &mut Watch<'_>) -> Result<Option<Trained>, Error> {
    let (vae, autoencoder, ended) = autoencoder::train(world, watch)?;
    if ended == Ended::Stopped {
        return Ok(None);
    }
    let (clip, ended) = clip::train(world, watch)?;
    if ended == Ended::Stopped {
        return Ok(None);
    }
    let (face, ended) = face::train(world, watch)?;
    if ended == Ended::Stopped {
        return Ok(None);
    }
    let (faces, ended) = faces(world, watch)?;
    if ended == Ended::Stopped {
        return Ok(None);
    }
    let latents = painter::encode(world, &vae, &autoencoder)?;
    let (painter, ended) = painter::train(world, &latents, watch)?;
    if ended == Ended::Stopped {
        return Ok(None);
    }
    if autoencoder::train_decoder(world, &vae, &autoencoder, watch)? == Ended::Stopped {
        return Ok(None);
    }
    Ok(Some(Trained {
        vae,
        autoencoder,
        clip,
        face,
        faces,
        painter,
        latents,
    }))
}

/// Trains the face detector and the landmark model alone. The weights bear the ONNX files' names below `detector.` and
/// `landmarks.`.
///
/// # Errors
/// As [`train`].
pub fn train_faces(
    recipe: &Recipe,
    out: &Path,
    device: &Device,
    watch: &mut Watch<'_>,
) -> Result<(BTreeMap<String, Var>, Ended), Error> {
    let base = recipe.base.as_ref().ok_or_else(no_base)?;
    let world = World {
        recipe,
        base,
        out,
        device,
    };
    faces(&world, watch)
}

/// The detector's and the landmark model's stages.
pub(crate) fn faces(
    world: &World<'_>,
    watch: &mut Watch<'_>,
) -> Result<(BTreeMap<String, Var>, Ended), Error> {
    let (detector, ended) = detector::train(world, watch)?;
    let mut all = detector.all();
    if ended == Ended::Stopped {
        return Ok((all, ended));
    }
    let (landmarks, ended) = landmarks::train(world, watch)?;
    all.extend(landmarks.all());
    Ok((all, ended))
}

fn no_base() -> Error {
    Error::Recipe {
        reason: "[base] is missing: this recipe trains no base model".to_owned(),
    }
}

/// Trains a recipe's judge alone, into `judge.safetensors` of the folder `out`. It is shown no model and no held-out person.
///
/// # Errors
/// A recipe without a judge; whatever stops a stage.
pub fn train_judge(
    recipe: &Recipe,
    out: &Path,
    device: &Device,
    watch: &mut Watch<'_>,
) -> Result<Ended, Error> {
    let plan = recipe.base.as_ref().and_then(|base| base.judge);
    let plan = plan.ok_or_else(|| Error::Recipe {
        reason: "[base.judge] is missing: this recipe trains no judge".to_owned(),
    })?;
    judge::train(recipe, &plan, out, device, watch)
}

impl World<'_> {
    /// All pictures of all who are shown: person and setting.
    pub fn everyone(&self) -> Vec<(u64, u64)> {
        let portraits = self.recipe.portraits;
        let pictures =
            |person| (0..portraits.pictures).map(move |n| (person, portraits.setting(person, n)));
        (0..portraits.shown()).flat_map(pictures).collect()
    }

    /// Whether a stage has steps before it, by its checkpoint.
    pub fn untrained(&self, stage: &str, steps: u64) -> bool {
        checkpoint::steps(&self.out.join(stage).join("checkpoint.safetensors")) < steps
    }

    /// CLIP's vision tower's configuration.
    pub fn vision(&self) -> Result<VisionConfig, Error> {
        let (mut config, _) = self.config("clip.json")?;
        VisionConfig::parse(config["vision_config"].take(), "clip.json")
    }

    /// A part's configuration.
    pub fn config(&self, name: &str) -> Result<(Value, PathBuf), Error> {
        let path = self.base.models.join(name);
        let wrong = |reason: String| Error::Recipe {
            reason: format!("model file {}: {reason}", path.display()),
        };
        let text = std::fs::read_to_string(&path).map_err(|e| wrong(e.to_string()))?;
        let json = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
        Ok((json, path))
    }
}
