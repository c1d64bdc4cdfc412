//! The autoencoder's stage.

use candle_core::{Device, Tensor};
use likeness_sdxl::parts::{Vae, VaeConfig, Variables, Weights};

use super::{Watch, World};
use crate::autoencoder::{Terms, error_terms, loss};
use crate::chart;
use crate::pictures::{images, pictures};
use crate::recipe::Portraits;
use crate::run::{Ended, Part, Stage, run};
use crate::{Chance, Error, Group};

const NAME: &str = "autoencoder";
/// Portraits on a sheet.
const SHOWN: u64 = 8;

/// Trains it, or loads what was trained.
pub(super) fn train(
    world: &World<'_>,
    watch: &mut Watch<'_>,
) -> Result<(Vae, Variables, Ended), Error> {
    let (config, path) = world.config("vae.json")?;
    let config = VaeConfig::parse(config, &path)?;
    let variables = Variables::new(world.recipe.seed, world.device);
    let vae = Vae::load(&Weights::variables(&variables, world.device), &config)?;
    let (portraits, seed) = (world.recipe.portraits, world.recipe.seed);
    let latents = portraits.side as usize / config.factor();
    let part = |part: Part| {
        let seen = draw(portraits, seed, part, world.device)?;
        let mut noise = Chance::at(seed, part.number, "latents");
        let noise = noise.normal(&[part.samples, 4, latents, latents], world.device)?;
        Ok(loss(&vae, &seen, &noise, Terms::default())?.loss)
    };
    let stage = Stage {
        name: NAME,
        variables: variables.all(),
        group: &|_, var| Group::of(var),
        loss: &part,
        sheet: Some(&|| sheet(&vae, portraits, world.device)),
    };
    let ended = run(&stage, &world.base.autoencoder, world.out, watch)?;
    Ok((vae, variables, ended))
}

/// Any of the people shown, in any setting.
fn draw(portraits: Portraits, seed: u64, part: Part, device: &Device) -> Result<Tensor, Error> {
    let mut chance = Chance::at(seed, part.number, "portraits");
    let who: Vec<(u64, u64)> = (0..part.samples)
        .map(|_| {
            let person = chance.below(portraits.shown() as usize) as u64;
            (person, chance.below(1 << 20) as u64)
        })
        .collect();
    Ok(pictures(&who, portraits.side, device)?)
}

/// Trains the decoder on, where the recipe has a stage for it: latents stay what they are, and so does all that was trained on
/// them.
pub(super) fn train_decoder(
    world: &World<'_>,
    vae: &Vae,
    variables: &Variables,
    watch: &mut Watch<'_>,
) -> Result<Ended, Error> {
    let Some(plan) = &world.base.decoder else {
        return Ok(Ended::Done);
    };
    let (portraits, seed) = (world.recipe.portraits, world.recipe.seed);
    let part = |part: Part| {
        let seen = draw(portraits, !seed, part, world.device)?;
        let latents = vae.moments(&seen)?.narrow(1, 0, 4)?.detach();
        let error = (vae.pictures(&latents)? - &seen)?;
        Ok(error_terms(&error, Terms::default())?)
    };
    let own = |name: &str| name.starts_with("decoder.") || name.starts_with("post_quant_conv.");
    let stage = Stage {
        name: "decoder",
        variables: variables
            .all()
            .into_iter()
            .filter(|(name, _)| own(name))
            .collect(),
        group: &|_, var| Group::of(var),
        loss: &part,
        sheet: Some(&|| sheet(vae, portraits, world.device)),
    };
    run(&stage, plan, world.out, watch)
}

/// People who were held out, above what the autoencoder makes of them.
fn sheet(vae: &Vae, portraits: Portraits, device: &Device) -> Result<image::RgbImage, Error> {
    let who: Vec<(u64, u64)> = (0..SHOWN.min(portraits.held_out))
        .map(|n| (portraits.shown() + n, n))
        .collect();
    let drawn = pictures(&who, portraits.side, device)?;
    let mean = vae.moments(&drawn)?.narrow(1, 0, 4)?;
    let found = vae.pictures(&mean)?;
    Ok(chart::sheet(&[], &[images(&drawn)?, images(&found)?]))
}
