//! The stage of the face detector: scenes with a drawn person or nobody.

use candle_core::Device;
use image::RgbImage;
use likeness_face::Detector as FromFile;
use likeness_sdxl::parts::{Variables, Weights};
use rayon::prelude::*;

use super::{Watch, World};
use crate::detector::{Detector, SIDE, Wanted, pictures};
use crate::pictures::images;
use crate::recipe::Portraits;
use crate::run::{Ended, Part, Stage, run, unwritable};
use crate::scenes::{Scene, scene};
use crate::{Chance, Error, Group, chart, export, layer};

const NAME: &str = "detector";
/// Pictures on a sheet.
const SHOWN: u64 = 8;

/// Trains it, or loads what was trained. The weights bear the ONNX file's names below `detector.`.
pub(super) fn train(world: &World<'_>, watch: &mut Watch<'_>) -> Result<(Variables, Ended), Error> {
    let variables = Variables::new(world.recipe.seed, world.device);
    let weights = Weights::variables(&variables, world.device);
    let detector = Detector::load(&weights.pp(NAME))?;
    layer::start(&variables)?;
    let (portraits, seed) = (world.recipe.portraits, world.recipe.seed);
    let part = |part: Part| {
        let scenes: Vec<Scene> = (0..part.samples as u64)
            .into_par_iter()
            .map(|n| {
                let number = part.number * part.samples as u64 + n;
                let mut chance = Chance::at(seed, number, "scenes");
                scene(&mut chance, portraits.shown(), SIDE as u32)
            })
            .collect();
        let seen: Vec<&RgbImage> = scenes.iter().map(|s| &s.picture).collect();
        let faces: Vec<_> = scenes.iter().map(|s| s.face).collect();
        let told = detector.forward(&pictures(&seen, world.device)?)?;
        Ok(Wanted::of(&faces, world.device)?.loss(&told)?)
    };
    let stage = Stage {
        name: NAME,
        variables: variables.all(),
        group: &|_, var| Group::of(var),
        loss: &part,
        sheet: Some(&|| sheet(&variables, portraits)),
    };
    let ended = run(&stage, &world.base.detector, world.out, watch)?;
    Ok((variables, ended))
}

/// People who were held out, small and large, with the faces that the detector's file finds.
fn sheet(variables: &Variables, portraits: Portraits) -> Result<RgbImage, Error> {
    let bytes = export::detector(&export::below(&variables.all(), NAME))?;
    let file = tempfile::NamedTempFile::new();
    let file = file.map_err(|e| unwritable(&std::env::temp_dir(), &e))?;
    std::fs::write(file.path(), bytes).map_err(|e| unwritable(file.path(), &e))?;
    let detector = FromFile::scrfd(file.path())?;
    let who: Vec<(u64, u64)> = (0..SHOWN.min(portraits.held_out))
        .map(|n| (portraits.shown() + n, n))
        .collect();
    let rows = [64, 128].map(|side| {
        let drawn = images(&crate::pictures(&who, side, &Device::Cpu)?)?;
        let shown = drawn.into_iter().map(|mut picture| {
            for face in detector.detect(&picture)? {
                chart::frame(&mut picture, face.bbox);
                chart::mark(&mut picture, &face.keypoints.unwrap_or_default());
            }
            Ok(picture)
        });
        shown.collect::<Result<Vec<_>, Error>>()
    });
    let [small, large] = rows;
    Ok(chart::sheet(&[], &[small?, large?]))
}
