//! The stage of the face embedder: two pictures of a person are to be near, and their attributes told from either.

use candle_core::Tensor;
use likeness_sdxl::parts::{Variables, Weights};

use super::{Watch, World};
use crate::attributes::Attributes;
use crate::contrast::{loss, unit};
use crate::crops::{Crops, crops, face_pictures};
use crate::recognizer::{EMBEDDING, Recognizer};
use crate::run::{Ended, Part, Stage, run};
use crate::{Chance, Error, Group};

const NAME: &str = "face";
const TEMPERATURE: f64 = 0.1;
/// Unit vectors of 512 numbers are spread like this before attributes are told from them.
const SPREAD: f64 = 22.6;

/// Trains it, or loads what was trained. The weights bear the ONNX file's names below `face.`.
pub(super) fn train(world: &World<'_>, watch: &mut Watch<'_>) -> Result<(Variables, Ended), Error> {
    let variables = Variables::new(world.recipe.seed, world.device);
    let weights = Weights::variables(&variables, world.device);
    let embedder = Recognizer::load(&weights.pp("face"))?;
    let attributes = Attributes::load(&weights.pp("attributes"), EMBEDDING)?;
    let (portraits, seed) = (world.recipe.portraits, world.recipe.seed);
    let who = world.everyone();
    let seen = world
        .untrained(NAME, world.base.face.rate.steps)
        .then(|| crops(&who, 64, seed));
    let seen = seen.unwrap_or_default();
    let part = |part: Part| {
        let mut chance = Chance::at(seed, part.number, "face");
        let pairs: Vec<[usize; 2]> = (0..part.samples / 2)
            .map(|_| {
                let person = chance.below(portraits.shown() as usize);
                let (each, first) = (
                    portraits.pictures as usize,
                    person * portraits.pictures as usize,
                );
                let one = chance.below(each);
                let other = (one + 1 + chance.below(each - 1)) % each;
                [first + one, first + other]
            })
            .collect();
        let side = |of: usize| -> Result<Tensor, Error> {
            let faces: Vec<_> = pairs
                .iter()
                .map(|pair| Crops::face(&seen[pair[of]]))
                .collect();
            Ok(unit(
                &embedder.forward(&face_pictures(&faces, world.device)?)?,
            )?)
        };
        let (left, right) = (side(0)?, side(1)?);
        let people: Vec<u64> = pairs.iter().map(|pair| who[pair[0]].0).collect();
        let told = attributes.loss(&(&left * SPREAD)?, &people)?;
        let told = (told + attributes.loss(&(&right * SPREAD)?, &people)?)?;
        Ok((loss(&left, &right, TEMPERATURE)? + (told * 0.5)?)?)
    };
    let stage = Stage {
        name: NAME,
        variables: variables.all(),
        group: &|_, var| Group::of(var),
        loss: &part,
        sheet: None,
    };
    let ended = run(&stage, &world.base.face, world.out, watch)?;
    Ok((variables, ended))
}
