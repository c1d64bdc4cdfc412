//! A base model, part by part.

mod autoencoder;
mod captions;
mod clip;
mod face;
mod judge;
mod painter;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use candle_core::Device;
use serde_json::Value;

use crate::Error;
use crate::recipe::{Base, Recipe};
use crate::run::{Ended, Progress};

/// What all stages share.
struct World<'a> {
    recipe: &'a Recipe,
    base: &'a Base,
    out: &'a Path,
    device: &'a Device,
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
    let base = recipe.base.as_ref().ok_or_else(|| Error::Recipe {
        reason: "[base] is missing: this recipe trains no base model".to_owned(),
    })?;
    let world = World {
        recipe,
        base,
        out,
        device,
    };
    let (vae, ended) = autoencoder::train(&world, watch)?;
    if ended == Ended::Stopped {
        return Ok(ended);
    }
    for stage in [clip::train, face::train] {
        let (_, ended) = stage(&world, watch)?;
        if ended == Ended::Stopped {
            return Ok(ended);
        }
    }
    let latents = painter::encode(&world, &vae)?;
    let (_, ended) = painter::train(&world, &latents, watch)?;
    Ok(ended)
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
    fn everyone(&self) -> Vec<(u64, u64)> {
        let portraits = self.recipe.portraits;
        let pictures =
            |person| (0..portraits.pictures).map(move |n| (person, portraits.setting(person, n)));
        (0..portraits.shown()).flat_map(pictures).collect()
    }

    /// Whether a stage has steps before it.
    fn untrained(&self, _stage: &str) -> bool {
        true
    }

    /// A part's configuration.
    fn config(&self, name: &str) -> Result<(Value, PathBuf), Error> {
        let path = self.base.models.join(name);
        let wrong = |reason: String| Error::Recipe {
            reason: format!("model file {}: {reason}", path.display()),
        };
        let text = std::fs::read_to_string(&path).map_err(|e| wrong(e.to_string()))?;
        let json = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
        Ok((json, path))
    }
}
