//! The stage of the landmark model: views of drawn faces, around boxes as inexact as a detector's.

use candle_core::Tensor;
use image::RgbImage;
use likeness_sdxl::parts::{Variables, Weights};
use rayon::prelude::*;

use super::{Watch, World};
use crate::landmarker::{Landmarker, NUMBERS, SIDE, views};
use crate::run::{Ended, Part, Stage, run};
use crate::scenes::{View, view};
use crate::{Chance, Error, Group, chart, layer};

const NAME: &str = "landmarks";
/// Pictures on a sheet.
const SHOWN: u64 = 8;
/// Brings the loss to the order of 1.
const SCALE: f64 = 10.0;

/// Trains it, or loads what was trained. The weights bear the ONNX file's names below `landmarks.`.
pub(super) fn train(world: &World<'_>, watch: &mut Watch<'_>) -> Result<(Variables, Ended), Error> {
    let variables = Variables::new(world.recipe.seed, world.device);
    let weights = Weights::variables(&variables, world.device);
    let model = Landmarker::load(&weights.pp(NAME))?;
    layer::start(&variables)?;
    let (portraits, seed) = (world.recipe.portraits, world.recipe.seed);
    let part = |part: Part| {
        let first = part.number * part.samples as u64;
        let seen: Vec<View> = (0..part.samples as u64)
            .into_par_iter()
            .map(|n| {
                let mut chance = Chance::at(seed, first + n, "views");
                let person = chance.below(portraits.shown() as usize) as u64;
                view(&mut chance, person)
            })
            .collect();
        let (told, wanted) = told(&model, &seen, world)?;
        Ok(((told - wanted)?.abs()?.mean_all()? * SCALE)?)
    };
    let sheet = || {
        let seen: Vec<View> = (0..SHOWN.min(portraits.held_out))
            .map(|n| view(&mut Chance::at(seed, n, "sheet"), portraits.shown() + n))
            .collect();
        sheet(&told(&model, &seen, world)?.0, &seen)
    };
    let stage = Stage {
        name: NAME,
        variables: variables.all(),
        group: &|_, var| Group::of(var),
        loss: &part,
        sheet: Some(&sheet),
    };
    let ended = run(&stage, &world.base.landmarks, world.out, watch)?;
    Ok((variables, ended))
}

/// What the model tells of views, and what is right, [n, 212].
fn told(model: &Landmarker, seen: &[View], world: &World<'_>) -> Result<(Tensor, Tensor), Error> {
    let pictures: Vec<&RgbImage> = seen.iter().map(|v| &v.picture).collect();
    let told = model.forward(&views(&pictures, world.device)?)?;
    let wanted: Vec<f32> = seen.iter().flat_map(|v| v.landmarks).flatten().collect();
    let wanted = Tensor::from_vec(wanted, (seen.len(), NUMBERS), world.device)?;
    Ok((told, wanted))
}

/// Views with the landmarks that the model tells.
fn sheet(told: &Tensor, seen: &[View]) -> Result<RgbImage, Error> {
    let shown = seen.iter().zip(told.to_vec2::<f32>()?);
    let shown = shown.map(|(view, told)| {
        let mut picture = view.picture.clone();
        let pixel = |v: f32| (v + 1.0) * SIDE as f32 / 2.0;
        let (points, _) = told.as_chunks::<2>();
        let points: Vec<[f32; 2]> = points.iter().map(|p| p.map(pixel)).collect();
        chart::mark(&mut picture, &points);
        picture
    });
    let shown: Vec<RgbImage> = shown.collect();
    let rows: Vec<Vec<RgbImage>> = shown.chunks(4).map(<[RgbImage]>::to_vec).collect();
    Ok(chart::sheet(&[], &rows))
}
