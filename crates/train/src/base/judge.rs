//! The stage of the judge. It stands beside the others: it is shown none of their models, and none of them is shown it.

use std::collections::HashMap;
use std::path::Path;

use candle_core::Device;
use likeness_sdxl::parts::{Variables, Weights};

use super::Watch;
use crate::judge::{Judge, spoilt};
use crate::recipe::Recipe;
use crate::run::{Ended, Part, Plan, Stage, run};
use crate::{Chance, Error, Group};

const NAME: &str = "judge";

/// Trains it, or goes on with it, and writes its file.
pub(super) fn train(
    recipe: &Recipe,
    plan: &Plan,
    out: &Path,
    device: &Device,
    watch: &mut Watch<'_>,
) -> Result<Ended, Error> {
    let variables = Variables::new(recipe.seed, device);
    let judge = Judge::load(&Weights::variables(&variables, device), device)?;
    let (people, seed) = (recipe.portraits.shown(), recipe.seed);
    let part = |part: Part| {
        let mut chance = Chance::at(seed, part.number, NAME);
        let who: Vec<(u64, u64)> = (0..part.samples)
            .map(|_| {
                (
                    chance.below(people as usize) as u64,
                    chance.below(1 << 20) as u64,
                )
            })
            .collect();
        Ok(judge.loss(&spoilt(&who, seed, part.number), &who)?)
    };
    let stage = Stage {
        name: NAME,
        variables: variables.all(),
        group: &|_, var| Group::of(var),
        loss: &part,
        sheet: None,
    };
    let ended = run(&stage, plan, out, watch)?;
    if ended == Ended::Done {
        write(&variables, &out.join("judge.safetensors"))?;
    }
    Ok(ended)
}

/// The weights alone, by their names.
fn write(variables: &Variables, path: &Path) -> Result<(), Error> {
    let all = variables.all().into_iter();
    let tensors: HashMap<_, _> = all
        .map(|(name, var)| (name, var.as_detached_tensor()))
        .collect();
    candle_core::safetensors::save(&tensors, path).map_err(|error| Error::Write {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}
