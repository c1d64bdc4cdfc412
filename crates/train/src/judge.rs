//! A judge of pictures: convolutions that tell a drawn person's attributes and the setting from one picture.
//!
//! It decides what an evaluation says, so nothing that it judges may know it: it is shown the training's people, drawn anew and
//! spoilt as a small model's pictures are, and no model's output.

use std::path::Path;

use candle_core::{D, DType, Device, Result as Compute, Tensor};
use image::RgbImage;
use image::imageops::{FilterType, resize};
use likeness_portraits::{Class, Identity, Setting, draw};
use likeness_sdxl::parts::{Conv, ConvShape, GroupNorm, Linear, Weights};
use rayon::prelude::*;

use crate::attributes::{class_loss, level_loss};
use crate::{Chance, Error};

/// The side of the pictures that it looks at; others are brought to it.
pub const SIDE: u32 = 64;
/// Channels and stride of every convolution.
const STAGES: [(usize, usize); 7] = [
    (24, 2),
    (32, 1),
    (64, 2),
    (64, 1),
    (96, 2),
    (96, 1),
    (64, 2),
];
const GROUPS: usize = 8;
/// The side of what the last convolution gives.
const LAST_SIDE: usize = 4;
const HIDDEN: usize = 128;
/// The strongest blur and noise that spoil a picture: the share that each neighbour of a pixel gets, and the deviation in levels
/// of 255. All weaker ones are as likely.
const MOST_BLUR: f64 = 0.3;
const MOST_NOISE: f64 = 8.0;

/// The network.
pub struct Judge {
    stages: Vec<(Conv, GroupNorm)>,
    hidden: Linear,
    out: Linear,
    device: Device,
}

/// What is told of one picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// As [`Identity::levels`], each from -1 to 1.
    pub levels: [f32; 6],
    /// As [`Identity::CLASSES`]: the probability of every option.
    pub identity: Vec<Vec<f32>>,
    /// As [`Setting::CLASSES`]: the probability of every option.
    pub setting: Vec<Vec<f32>>,
}

impl Told {
    /// The likeliest options, as [`Identity::classes`].
    pub fn classes(&self) -> Vec<usize> {
        self.identity.iter().map(|options| best(options)).collect()
    }

    /// The likeliest options, as [`Setting::classes`].
    pub fn setting_classes(&self) -> Vec<usize> {
        self.setting.iter().map(|options| best(options)).collect()
    }
}

fn best(options: &[f32]) -> usize {
    let likelier = |best: usize, (at, p): (usize, &f32)| if *p > options[best] { at } else { best };
    options.iter().enumerate().fold(0, likelier)
}

impl Judge {
    /// From weights of its names.
    ///
    /// # Errors
    /// Missing tensors and wrong shapes.
    pub fn load(weights: &Weights, device: &Device) -> Result<Judge, Error> {
        let mut before = 3;
        let mut stages = Vec::with_capacity(STAGES.len());
        for (at, (channels, stride)) in STAGES.into_iter().enumerate() {
            let shape = ConvShape {
                kernel: 3,
                stride,
                padding: 1,
            };
            let conv = Conv::load(&weights.pp(format!("conv{at}")), before, channels, shape)?;
            let norm = GroupNorm::load(&weights.pp(format!("norm{at}")), channels, GROUPS, 1e-5)?;
            stages.push((conv, norm));
            before = channels;
        }
        let numbers =
            Identity::LEVELS.len() + options(&Identity::CLASSES) + options(&Setting::CLASSES);
        Ok(Judge {
            stages,
            hidden: Linear::load(
                &weights.pp("hidden"),
                before * LAST_SIDE * LAST_SIDE,
                HIDDEN,
            )?,
            out: Linear::load(&weights.pp("out"), HIDDEN, numbers)?,
            device: device.clone(),
        })
    }

    /// From a file that a training wrote.
    ///
    /// # Errors
    /// No such file, a damaged one, missing tensors and wrong shapes.
    pub fn read(path: &Path, device: &Device) -> Result<Judge, Error> {
        if path.extension().is_none_or(|kind| kind != "safetensors") || !path.is_file() {
            return Err(Error::Checkpoint {
                path: path.to_owned(),
                reason: "expected the judge.safetensors that `likeness train judge` wrote"
                    .to_owned(),
            });
        }
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let folder = path.parent().unwrap_or(Path::new("."));
        let weights = Weights::open(folder, &stem, device, DType::F32)?;
        let judge = Judge::load(&weights, device)?;
        weights.finish(|_| false)?;
        Ok(judge)
    }

    /// What is told of each picture.
    ///
    /// # Errors
    /// A failing device.
    pub fn tell(&self, pictures: &[RgbImage]) -> Result<Vec<Told>, Error> {
        let told = pictures.chunks(64).map(|some| self.tell_some(some));
        Ok(told.collect::<Compute<Vec<_>>>()?.concat())
    }

    fn tell_some(&self, pictures: &[RgbImage]) -> Compute<Vec<Told>> {
        let numbers = self.forward(&tensor(pictures, &self.device)?)?;
        let rows = numbers.to_vec2::<f32>()?;
        Ok(rows.iter().map(|row| told(row)).collect())
    }

    /// Pictures [b, 3, 64, 64] from -1 to 1 to all numbers told: levels, then the options' logits.
    fn forward(&self, pictures: &Tensor) -> Compute<Tensor> {
        let mut x = pictures.clone();
        for (conv, norm) in &self.stages {
            x = norm.forward_silu(&conv.forward(&x)?)?;
        }
        let hidden = self.hidden.forward(&x.flatten_from(1)?)?.silu()?;
        self.out.forward(&hidden)
    }

    /// How far what is told of the pictures of these people in these settings is from the truth: levels and classes of the
    /// people, and half as much the settings' classes.
    ///
    /// # Errors
    /// A failing device.
    pub fn loss(&self, pictures: &[RgbImage], who: &[(u64, u64)]) -> Compute<Tensor> {
        let numbers = self.forward(&tensor(pictures, &self.device)?)?;
        let people: Vec<Identity> = who.iter().map(|who| Identity::drawn(who.0)).collect();
        let levels: Vec<_> = people.iter().map(Identity::levels).collect();
        let classes: Vec<_> = people.iter().map(Identity::classes).collect();
        let settings: Vec<_> = who
            .iter()
            .map(|who| Setting::drawn(who.1).classes())
            .collect();
        let (first, own) = (Identity::LEVELS.len(), options(&Identity::CLASSES));
        let identity = class_loss(
            &numbers.narrow(1, first, own)?,
            &Identity::CLASSES,
            &classes,
        )?;
        let rest = numbers.narrow(D::Minus1, first + own, options(&Setting::CLASSES))?;
        let setting = class_loss(&rest, &Setting::CLASSES, &settings)?;
        (level_loss(&numbers, &levels)? + identity)? + (setting * 0.5)?
    }
}

fn options(classes: &[Class]) -> usize {
    classes.iter().map(|class| class.options.len()).sum()
}

fn told(row: &[f32]) -> Told {
    let (levels, rest) = row.split_at(Identity::LEVELS.len());
    let (identity, setting) = rest.split_at(options(&Identity::CLASSES));
    let mut own = [0.0; 6];
    for (own, told) in own.iter_mut().zip(levels) {
        *own = told.clamp(-1.0, 1.0);
    }
    Told {
        levels: own,
        identity: probabilities(identity, &Identity::CLASSES),
        setting: probabilities(setting, &Setting::CLASSES),
    }
}

fn probabilities(logits: &[f32], classes: &[Class]) -> Vec<Vec<f32>> {
    let mut rest = logits;
    let one = |class: &Class| {
        let (own, after) = rest.split_at(class.options.len());
        rest = after;
        let most = own.iter().copied().fold(f32::MIN, f32::max);
        let shares: Vec<f32> = own.iter().map(|v| (v - most).exp()).collect();
        let sum: f32 = shares.iter().sum();
        shares.iter().map(|share| share / sum).collect()
    };
    classes.iter().map(one).collect()
}

/// Pictures of any size as [n, 3, 64, 64] from -1 to 1.
fn tensor(pictures: &[RgbImage], device: &Device) -> Compute<Tensor> {
    let plane = (SIDE * SIDE) as usize;
    let rows = pictures.par_iter().flat_map_iter(|picture| {
        let levels = if picture.dimensions() == (SIDE, SIDE) {
            picture.as_raw().clone()
        } else {
            resize(picture, SIDE, SIDE, FilterType::Triangle).into_raw()
        };
        (0..3 * plane).map(move |at| f32::from(levels[at % plane * 3 + at / plane]) / 127.5 - 1.0)
    });
    let numbers: Vec<f32> = rows.collect();
    let side = SIDE as usize;
    Tensor::from_vec(numbers, (pictures.len(), 3, side, side), device)
}

/// The pictures of these people in these settings, as they are drawn.
pub fn drawn(who: &[(u64, u64)]) -> Vec<RgbImage> {
    who.par_iter().map(draw_one).collect()
}

fn draw_one(&(person, setting): &(u64, u64)) -> RgbImage {
    draw(&Identity::drawn(person), &Setting::drawn(setting), SIDE)
}

/// The pictures of these people in these settings, as soft and as noisy as a small model's: how much follows from seed and
/// step.
pub fn spoilt(who: &[(u64, u64)], seed: u64, step: u64) -> Vec<RgbImage> {
    let count = who.len() as u64;
    let one = |(at, who): (usize, &(u64, u64))| {
        let mut chance = Chance::at(seed, step * count + at as u64, "spoil");
        spoil(&draw_one(who), &mut chance)
    };
    who.par_iter().enumerate().map(one).collect()
}

fn spoil(picture: &RgbImage, chance: &mut Chance) -> RgbImage {
    // A quarter stays as it is: the judge also looks at what was only drawn.
    let (blur, noise) = if chance.happens(0.25) {
        (0.0, 0.0)
    } else {
        (chance.uniform() * MOST_BLUR, chance.uniform() * MOST_NOISE)
    };
    let twice = chance.happens(0.5);
    let mut levels: Vec<f32> = picture.as_raw().iter().map(|&v| f32::from(v)).collect();
    for _ in 0..=usize::from(twice) {
        levels = blurred(&levels, blur as f32);
    }
    // Four even numbers are normal enough.
    let mut normal = || (0..4).map(|_| chance.uniform() - 0.5).sum::<f64>() * 3f64.sqrt();
    let spoilt = levels
        .iter()
        .map(|v| (v + (normal() * noise) as f32).round() as u8);
    RgbImage::from_raw(SIDE, SIDE, spoilt.collect()).unwrap_or_else(|| picture.clone())
}

/// Every pixel gives each of its four neighbours a share, along one axis after the other.
fn blurred(levels: &[f32], share: f32) -> Vec<f32> {
    let side = SIDE as usize;
    let along = |levels: &[f32], step: [usize; 2]| {
        let at = |x: usize, y: usize, c: usize| levels[(y * side + x) * 3 + c];
        let mut out = Vec::with_capacity(levels.len());
        for (y, x, c) in places(side) {
            let before = at(x.saturating_sub(step[0]), y.saturating_sub(step[1]), c);
            let after = at((x + step[0]).min(side - 1), (y + step[1]).min(side - 1), c);
            out.push(at(x, y, c) * (1.0 - 2.0 * share) + (before + after) * share);
        }
        out
    };
    along(&along(levels, [1, 0]), [0, 1])
}

fn places(side: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..side * side * 3).map(move |at| (at / 3 / side, at / 3 % side, at % 3))
}

#[cfg(test)]
mod tests;
