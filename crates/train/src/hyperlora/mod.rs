//! HyperLoRA's three stages (Li et al., CVPR 2025), over a frozen base: 1, the Base-LoRA alone, from pictures with the face
//! blurred; 2a, the ID-LoRA from CLIP's features; 2b, the ID-LoRA from the face embedding, too. What the Base-LoRA has explained of
//! a picture, the ID-LoRA need not learn.

mod frozen;
mod network;
mod prepared;
mod seen;
mod shards;
mod sheet;
#[cfg(test)]
mod testing;

use std::path::Path;

use candle_core::{Device, Tensor};
use likeness_sdxl::parts::{UNet, UNetConfig, Weights};

use self::frozen::Real;
pub(crate) use self::network::Network;
use self::network::{Over, Shown};
use self::seen::{Captioned, Seen};
use crate::base::{Trained, Watch, World, trained};
use crate::denoise::{Noised, Noising, loss};
use crate::recipe::Recipe;
use crate::run::{Ended, Part, Plan, Stage, run};
use crate::{Chance, Error, Ranks, export};

/// How often a caption is left out, for guidance.
const DROPPED: f64 = 0.1;
/// And in stage 1: what a caption tells, the Base-LoRA would not learn to.
const DROPPED_ALONE: f64 = 0.5;

/// The stages by name; each has a folder of this name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    Base,
    Clip,
    Face,
}

impl Which {
    fn name(self) -> &'static str {
        match self {
            Which::Base => "hyperlora-1-base",
            Which::Clip => "hyperlora-2a-clip",
            Which::Face => "hyperlora-2b-face",
        }
    }
}

/// Trains a recipe's HyperLoRA into the folder `out`, and the base before it where that is not done yet; or over the base of a
/// bundle, where the recipe names one.
///
/// # Errors
/// A recipe without `[base]` or `[hyperlora]`; whatever stops a stage.
pub fn train(
    recipe: &Recipe,
    out: &Path,
    device: &Device,
    watch: &mut Watch<'_>,
) -> Result<Ended, Error> {
    train_with(recipe, out, device, &Ranks::One, watch)
}

/// The same as one of several workers, who train over a bundle's base in one folder, which all of them see.
///
/// # Errors
/// As [`train`]; several workers and a base of the recipe's own.
pub fn train_with(
    recipe: &Recipe,
    out: &Path,
    device: &Device,
    ranks: &Ranks,
    watch: &mut Watch<'_>,
) -> Result<Ended, Error> {
    let missing = |section: &str| Error::Recipe {
        reason: format!("[{section}] is missing"),
    };
    let plan = recipe
        .hyperlora
        .as_ref()
        .ok_or_else(|| missing("hyperlora"))?;
    if let (Some(from), Some(data)) = (&recipe.from, &recipe.data) {
        let real = Real {
            recipe,
            from,
            data,
            plan,
            out,
            device,
        };
        return frozen::train(&real, ranks, watch);
    }
    if ranks.world() > 1 {
        return Err(Error::Recipe {
            reason: "[from] is missing: several workers train over a bundle's base only".to_owned(),
        });
    }
    let base = recipe.base.as_ref().ok_or_else(|| missing("base"))?;
    let world = World {
        recipe,
        base,
        out,
        device,
    };
    let Some(trained) = trained(&world, watch)? else {
        return Ok(Ended::Stopped);
    };
    let unet = unet(&world, &trained)?;
    let network = Network::start(over(&world, &unet)?, plan, recipe.seed)?;
    let ended = stages(&network, &world, &trained, watch)?;
    if ended == Ended::Done {
        export::bundle::bundle(&world, &trained, &network, &out.join("bundle"))?;
    }
    Ok(ended)
}

fn stages(
    network: &Network<'_>,
    world: &World<'_>,
    trained: &Trained,
    watch: &mut Watch<'_>,
) -> Result<Ended, Error> {
    let who = world.everyone();
    let stages = network.stages();
    let before = |(which, plan): &(Which, &Plan)| world.untrained(which.name(), plan.rate.steps);
    let some = if stages.iter().any(before) {
        &who[..]
    } else {
        &who[..1]
    };
    let seen = Seen::of(world, trained, some)?;
    let captions = Captioned::of(world, trained)?;
    for (which, plan) in stages {
        let run = Run {
            network,
            world,
            trained,
            who: &who,
            seen: &seen,
            captions: &captions,
            noising: Noising::scaled_linear(),
            which,
        };
        if run.stage(plan, watch)? == Ended::Stopped {
            return Ok(Ended::Stopped);
        }
    }
    Ok(Ended::Done)
}

fn over<'a>(world: &World<'a>, unet: &'a UNet) -> Result<Over<'a>, Error> {
    Ok(Over {
        unet,
        clip_width: world.vision()?.width(),
        device: world.device,
    })
}

fn unet(world: &World<'_>, trained: &Trained) -> Result<UNet, Error> {
    let (config, path) = world.config("unet.json")?;
    let weights = Weights::frozen(&trained.painter, world.device);
    let config = UNetConfig::parse(config, &path)?;
    Ok(UNet::load(&weights.pp("unet"), &config)?)
}

/// One stage at work.
struct Run<'a> {
    network: &'a Network<'a>,
    world: &'a World<'a>,
    trained: &'a Trained,
    who: &'a [(u64, u64)],
    seen: &'a Seen,
    captions: &'a Captioned,
    noising: Noising,
    which: Which,
}

/// What is drawn for the samples of a part.
#[derive(Default)]
struct Drawn {
    /// The pictures that are painted.
    painted: Vec<u32>,
    /// The pictures that the ID-LoRA is made from.
    enrolled: Vec<u32>,
    captions: Vec<u32>,
    /// 1 where the Base-LoRA takes part.
    with_base: Vec<f32>,
}

impl Run<'_> {
    fn stage(&self, plan: &Plan, watch: &mut Watch<'_>) -> Result<Ended, Error> {
        let variables = self.network.trained_in(self.which);
        let stage = Stage {
            name: self.which.name(),
            variables,
            group: &|name, var| self.network.group(name, var),
            loss: &|part| self.loss(part),
            sheet: Some(&|| self.sheet()),
        };
        run(&stage, plan, self.world.out, watch)
    }

    fn loss(&self, part: Part) -> Result<Tensor, Error> {
        let mut chance = Chance::at(self.world.recipe.seed, part.number, self.which.name());
        let drawn = self.draw(&mut chance, part.samples);
        let timesteps = Noising::draw(&mut chance, part.samples);
        let device = self.world.device;
        let at = |places: &[u32]| Tensor::from_slice(places, places.len(), device);
        let painted = at(&drawn.painted)?;
        let latents = self.trained.latents.all.index_select(&painted, 0)?;
        let noise = chance.normal(latents.dims(), device)?;
        let noised = Noised {
            latents: &latents,
            noise: &noise,
            timesteps: &timesteps,
        };
        let with_base = Tensor::from_slice(&drawn.with_base, part.samples, device)?;
        let (seen, enrolled) = (self.seen, at(&drawn.enrolled)?);
        let of = |what: &Tensor, places: &Tensor| Ok(what.index_select(places, 0)?);
        let shown = Shown {
            clip: &|| of(&seen.clip, &enrolled),
            base: &|| of(&seen.base, &painted),
            faces: &|| of(&seen.faces, &enrolled),
            with_base: &with_base,
        };
        let terms = self.network.terms(self.which, &shown)?;
        let conditioning = self.captions.conditioning(drawn.captions)?;
        loss(
            self.network.unet,
            &conditioning,
            &noised,
            &[Some(&terms)],
            &self.noising,
        )
    }

    /// The three scenarios, at random for each sample: with the trigger words and both LoRAs; with them and the ID-LoRA alone; without
    /// them and with both, since a caller who forgets them is to get the person all the same.
    fn draw(&self, chance: &mut Chance, samples: usize) -> Drawn {
        let pictures = self.world.recipe.portraits.pictures as usize;
        let alone = self.which == Which::Base;
        let mut drawn = Drawn::default();
        for _ in 0..samples {
            let painted = chance.below(self.who.len());
            let same = chance.happens(self.network.plan.same_picture);
            let other = painted / pictures * pictures + chance.below(pictures);
            let scenario = chance.below(3);
            let dropped = chance.happens(if alone { DROPPED_ALONE } else { DROPPED });
            let caption = self.captions.place(self.who[painted].1, scenario < 2);
            drawn.painted.push(painted as u32);
            drawn
                .enrolled
                .push(if same { painted } else { other } as u32);
            let nothing = self.captions.nothing();
            drawn.captions.push(if dropped { nothing } else { caption });
            drawn.with_base.push(f32::from(scenario != 1));
        }
        drawn
    }
}

#[cfg(test)]
mod tests;
