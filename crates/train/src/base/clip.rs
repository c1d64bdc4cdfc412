//! The stage of CLIP: its vision tower learns to tell people's attributes from crops of their faces, as enrolment makes them, and
//! both towers learn which caption belongs to a whole portrait.

use candle_core::D;
use likeness_portraits::{Setting, caption};
use likeness_sdxl::parts::{ClipSkip, TextConfig, TextEncoder, Variables, Weights};

use super::captions::Captions;
use super::{Watch, World};
use crate::attributes::Attributes;
use crate::contrast::{loss, unit};
use crate::crops::{Crops, clip_pictures, crops, whole};
use crate::run::{Ended, Part, Stage, run};
use crate::vision::{Vision, VisionConfig};
use crate::{Chance, Error, Group};

const NAME: &str = "clip";
/// Of the contrastive loss; CLIP's starts at 0.07 and is learnt.
const TEMPERATURE: f64 = 0.07;

/// Trains both towers, or loads what was trained. The weights bear a CLIPModel's names below `clip.`.
pub(super) fn train(world: &World<'_>, watch: &mut Watch<'_>) -> Result<(Variables, Ended), Error> {
    let (mut config, path) = world.config("clip.json")?;
    let vision = VisionConfig::parse(config["vision_config"].take(), "clip.json")?;
    let text = TextConfig::parse(config["text_config"].take(), &path)?;
    let captions = Captions::load(&world.base.models, text.max_position_embeddings)?;
    let variables = Variables::new(world.recipe.seed, world.device);
    let weights = Weights::variables(&variables, world.device);
    let tower = Vision::load(&weights.pp("clip"), &vision)?;
    let writer = TextEncoder::load(&weights.pp("clip"), &text, true)?;
    let attributes = Attributes::load(&weights.pp("attributes"), vision.width())?;
    let last = ClipSkip::new(1, writer.layer_count()).ok_or_else(|| no_layers(&path))?;
    let side = vision.image_size as u32;
    let (portraits, seed) = (world.recipe.portraits, world.recipe.seed);
    let who = world.everyone();
    let seen = world
        .untrained(NAME, world.base.clip.rate.steps)
        .then(|| crops(&who, side, seed));
    let seen = seen.unwrap_or_default();
    let part = |part: Part| {
        let mut chance = Chance::at(seed, part.number, "clip");
        let faces: Vec<usize> = (0..part.samples)
            .map(|_| chance.below(seen.len()))
            .collect();
        let wholes: Vec<(u64, u64)> = (0..part.samples / 2)
            .map(|_| {
                let person = chance.below(portraits.shown() as usize) as u64;
                (person, chance.below(1 << 20) as u64)
            })
            .collect();
        let drawn: Vec<_> = wholes.iter().map(|&(p, s)| whole(p, s, side)).collect();
        let pictures = faces.iter().map(|&at| Crops::clip(&seen[at]));
        let pictures: Vec<_> = pictures.chain(&drawn).collect();
        let states = tower.states(&clip_pictures(&pictures, world.device)?)?;
        let own = states.narrow(0, 0, faces.len())?.mean(1)?;
        let people: Vec<u64> = faces.iter().map(|&at| who[at].0).collect();
        let told = attributes.loss(&own, &people)?;
        let embedded = tower.embeddings(&states.narrow(0, faces.len(), drawn.len())?)?;
        let texts: Vec<String> = wholes
            .iter()
            .map(|&(_, s)| caption(&Setting::drawn(s)))
            .collect();
        let written = writer.forward(&captions.windows(&texts)?, last)?;
        let pooled = written.pooled.unwrap_or(written.states.mean(D::Minus2)?);
        let paired = loss(&unit(&embedded)?, &unit(&pooled)?, TEMPERATURE)?;
        Ok((told + (paired * 0.25)?)?)
    };
    let stage = Stage {
        name: NAME,
        variables: variables.all(),
        group: &|_, var| Group::of(var),
        loss: &part,
        sheet: None,
    };
    let ended = run(&stage, &world.base.clip, world.out, watch)?;
    Ok((variables, ended))
}

fn no_layers(path: &std::path::Path) -> Error {
    Error::Recipe {
        reason: format!(
            "model file {}: the text tower has no layers",
            path.display()
        ),
    }
}
