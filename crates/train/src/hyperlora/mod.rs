//! HyperLoRA's three stages (Li et al., CVPR 2025), over a frozen base: 1, the Base-LoRA alone, from pictures with the face
//! blurred; 2a, the ID-LoRA from CLIP's features; 2b, the ID-LoRA from the face embedding, too. What the Base-LoRA has explained of
//! a picture, the ID-LoRA need not learn.

mod seen;
mod sheet;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor, Var};
use likeness_hyperlora::{Kind, ResamplerSizes};
use likeness_sdxl::Unmerged;
use likeness_sdxl::parts::{UNet, UNetConfig, Variables, Weights};

use self::seen::{Captioned, Seen};
use crate::base::{Trained, Watch, World, trained};
use crate::denoise::{Noised, Noising, loss};
use crate::hypernetwork::{Basis, IdProjector, Resampler, batch_terms, modules, normalised};
use crate::recipe::{HyperLora, Recipe};
use crate::recognizer::EMBEDDING;
use crate::run::{Ended, Part, Plan, Stage, run};
use crate::vision::VisionConfig;
use crate::{Chance, Error, Group, export};

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

/// Trains a recipe's HyperLoRA into the folder `out`, and the base before it where that is not done yet.
///
/// # Errors
/// A recipe without `[base]` or `[hyperlora]`; whatever stops a stage.
pub fn train(
    recipe: &Recipe,
    out: &Path,
    device: &Device,
    watch: &mut Watch<'_>,
) -> Result<Ended, Error> {
    let missing = |section: &str| Error::Recipe {
        reason: format!("[{section}] is missing"),
    };
    let base = recipe.base.as_ref().ok_or_else(|| missing("base"))?;
    let plan = recipe
        .hyperlora
        .as_ref()
        .ok_or_else(|| missing("hyperlora"))?;
    let world = World {
        recipe,
        base,
        out,
        device,
    };
    let Some(trained) = trained(&world, watch)? else {
        return Ok(Ended::Stopped);
    };
    let network = Network::load(&world, &trained, plan)?;
    let ended = network.train(&world, &trained, watch)?;
    if ended == Ended::Done {
        export::bundle::bundle(&world, &trained, &network, &out.join("bundle"))?;
    }
    Ok(ended)
}

/// A HyperLoRA in training, over its base.
pub(crate) struct Network<'a> {
    plan: &'a HyperLora,
    pub variables: Variables,
    pub unet: UNet,
    sizes: ResamplerSizes,
    projector: IdProjector,
    resampler: Resampler,
    basis: Basis,
    /// As trained in stage 1, and as looked at afterwards.
    base: Option<[(Resampler, Basis); 2]>,
}

impl<'a> Network<'a> {
    /// At its start.
    pub fn load(world: &World<'_>, trained: &Trained, plan: &'a HyperLora) -> Result<Self, Error> {
        let device = world.device;
        let (config, path) = world.config("unet.json")?;
        let weights = Weights::frozen(&trained.painter, device);
        let unet = UNet::load(&weights.pp("unet"), &UNetConfig::parse(config, &path)?)?;
        let (mut config, _) = world.config("clip.json")?;
        let vision = VisionConfig::parse(config["vision_config"].take(), "clip.json")?;
        let sizes = ResamplerSizes {
            tokens: modules(&unet)?.len() * 8,
            dim: plan.dim,
            heads: plan.heads,
            dim_head: plan.dim_head,
            ff: plan.ff,
            depth: plan.depth,
            k: plan.k,
            id_tokens: plan.id_tokens,
            embedding: EMBEDDING,
            clip_width: vision.width(),
        };
        let variables = Variables::new(world.recipe.seed, device);
        let weights = Weights::variables(&variables, device);
        let (k, width) = (plan.k, sizes.clip_width);
        let id_resampler =
            Resampler::load(&weights.pp("resampler"), &sizes, plan.dim, Some(width))?;
        let projector = IdProjector::load(&weights.pp("id_projector"), &sizes)?;
        Basis::start(&variables, "basis", &unet, Kind::Id, k, plan.rank)?;
        let basis = Basis::load(&weights.pp("basis"), &unet, Kind::Id, k, plan.rank)?;
        let base = plan.base.as_ref().map(|_| {
            Basis::start(&variables, "basis", &unet, Kind::Base, k, plan.base_rank)?;
            let frozen = Weights::frozen(&variables, device);
            let one = |weights: &Weights| {
                let resampler =
                    Resampler::load(&weights.pp("base_resampler"), &sizes, width, None)?;
                let basis =
                    Basis::load(&weights.pp("basis"), &unet, Kind::Base, k, plan.base_rank)?;
                Ok::<_, Error>((resampler, basis))
            };
            Ok::<_, Error>([one(&weights)?, one(&frozen)?])
        });
        Ok(Self {
            plan,
            variables,
            unet,
            sizes,
            projector,
            resampler: id_resampler,
            basis,
            base: base.transpose()?,
        })
    }

    fn train(
        &self,
        world: &World<'_>,
        trained: &Trained,
        watch: &mut Watch<'_>,
    ) -> Result<Ended, Error> {
        let who = world.everyone();
        let stages = self.stages();
        let before =
            |(which, plan): &(Which, &Plan)| world.untrained(which.name(), plan.rate.steps);
        let some = if stages.iter().any(before) {
            &who[..]
        } else {
            &who[..1]
        };
        let seen = Seen::of(world, trained, some)?;
        let captions = Captioned::of(world, trained)?;
        let first = self.plan.base.as_ref().map(|plan| (Which::Base, plan));
        let second = [
            (Which::Clip, &self.plan.clip),
            (Which::Face, &self.plan.face),
        ];
        for (which, plan) in first.into_iter().chain(second) {
            let run = Run {
                network: self,
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

    /// The stages and their plans, in order.
    fn stages(&self) -> Vec<(Which, &Plan)> {
        let first = self.plan.base.as_ref().map(|plan| (Which::Base, plan));
        let second = [
            (Which::Clip, &self.plan.clip),
            (Which::Face, &self.plan.face),
        ];
        first.into_iter().chain(second).collect()
    }

    /// Width of a head, which the files do not say.
    pub fn dim_head(&self) -> usize {
        self.plan.dim_head
    }

    /// What a stage trains.
    fn trained_in(&self, which: Which) -> BTreeMap<String, Var> {
        let all = self.variables.all().into_iter();
        let own = all.filter(|(name, _)| {
            let of_base = name.starts_with("base_resampler.") || name.contains(".base_");
            let of_projector = name.starts_with("id_projector.");
            match which {
                Which::Base => of_base,
                Which::Clip => !of_base && !of_projector,
                Which::Face => !of_base,
            }
        });
        own.collect()
    }

    /// The ID-LoRA's unit tokens [b, tokens, k] from CLIP's states and, in stage 2b, face embeddings.
    fn coefficients(&self, clip: &Tensor, faces: Option<&Tensor>) -> Result<Tensor, Error> {
        let tokens = match faces {
            Some(faces) => self.projector.forward(faces)?,
            None => Tensor::zeros(
                (clip.dim(0)?, self.sizes.id_tokens, self.sizes.dim),
                clip.dtype(),
                clip.device(),
            )?,
        };
        Ok(normalised(&self.resampler.forward(&tokens, Some(clip))?)?)
    }
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
        let bases = self.network.plan.bases_rate;
        let group = |name: &str, var: &Var| {
            let own = Group::of(var);
            let rate = if name.ends_with("_basis") { bases } else { 1.0 };
            Group { rate, ..own }
        };
        let stage = Stage {
            name: self.which.name(),
            variables,
            group: &group,
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
        let terms = self.terms(&at(&drawn.enrolled)?, &painted, &with_base)?;
        let conditioning = self.captions.conditioning(drawn.captions)?;
        loss(
            &self.network.unet,
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

    /// The low-rank terms of a batch: the ID-LoRA from the pictures `enrolled`, the Base-LoRA from those that are painted.
    fn terms(
        &self,
        enrolled: &Tensor,
        painted: &Tensor,
        with_base: &Tensor,
    ) -> Result<Unmerged, Error> {
        let Network {
            unet, basis, base, ..
        } = self.network;
        let ones = with_base.ones_like()?;
        let blurred = |resampler: &Resampler| -> Result<Tensor, Error> {
            let states = self.seen.base.index_select(painted, 0)?;
            Ok(normalised(&resampler.forward(&states, None)?)?)
        };
        if let (Which::Base, Some([(resampler, basis), _])) = (self.which, base) {
            return batch_terms(unet, &[(basis, &blurred(resampler)?, &ones)]);
        }
        let clip = self.seen.clip.index_select(enrolled, 0)?;
        let faces = self.seen.faces.index_select(enrolled, 0)?;
        let faces = (self.which == Which::Face).then_some(&faces);
        let own = self.network.coefficients(&clip, faces)?;
        match base {
            Some([_, (resampler, base)]) => {
                let other = blurred(resampler)?.detach();
                batch_terms(unet, &[(basis, &own, &ones), (base, &other, with_base)])
            }
            None => batch_terms(unet, &[(basis, &own, &ones)]),
        }
    }
}

#[cfg(test)]
mod tests;
