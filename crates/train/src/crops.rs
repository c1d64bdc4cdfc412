//! What the encoders see of drawn people: the crops of enrolment, from landmarks as inexact as a detector's.

use candle_core::{Device, Result as Compute, Tensor};
use image::RgbImage;
use likeness_face::{
    ClipOptions, Face, LandmarkSource, Landmarks, arcface_input, base_input, clip_input,
    pixel_values,
};
use likeness_portraits::{Identity, Setting, draw, keypoints, landmarks};
use rayon::prelude::*;

use crate::Chance;

/// Side of the drawn photos in pixels.
const PHOTO: u32 = 128;
/// A detector's landmarks are as far off as this share of the picture's side, all together, and differ in scale by as much.
const OFF: f64 = 0.008;
const SCALE_OFF: f64 = 0.04;

/// One photo's crops.
pub struct Crops {
    /// For CLIP: RGB rows of a square.
    clip: RgbImage,
    /// For CLIP, too: the face blurred, and the rest as it is.
    base: Option<RgbImage>,
    /// For the face embedder, 112 × 112.
    face: RgbImage,
}

/// The crops of these pictures (person and setting), CLIP's at this side; who is a little off follows from the seed.
pub fn crops(who: &[(u64, u64)], clip_side: u32, seed: u64) -> Vec<Crops> {
    made(who, clip_side, seed, false)
}

/// The same, and those of the Base-LoRA.
pub fn crops_with_base(who: &[(u64, u64)], clip_side: u32, seed: u64) -> Vec<Crops> {
    made(who, clip_side, seed, true)
}

fn made(who: &[(u64, u64)], clip_side: u32, seed: u64, with_base: bool) -> Vec<Crops> {
    let one = |(at, &(person, setting)): (usize, &(u64, u64))| {
        let (identity, setting) = (Identity::drawn(person), Setting::drawn(setting));
        let photo = draw(&identity, &setting, PHOTO);
        let mut chance = Chance::at(seed, at as u64, "detector");
        let moved = Moved::drawn(&mut chance);
        let marks = landmarks(&identity, &setting, PHOTO);
        let points = keypoints(&identity, &setting, PHOTO);
        let face = face(
            &marks.map(|p| moved.apply(p)),
            points.map(|p| moved.apply(p)),
        );
        let options = ClipOptions {
            size: clip_side,
            ..ClipOptions::default()
        };
        Crops {
            clip: clip_input(&photo, &face, &options).pixels,
            base: with_base.then(|| base_input(&photo, &face, clip_side).pixels),
            face: arcface_input(&photo, &face),
        }
    };
    who.par_iter().enumerate().map(one).collect()
}

/// A whole portrait as CLIP sees it.
pub fn whole(person: u64, setting: u64, clip_side: u32) -> RgbImage {
    draw(
        &Identity::drawn(person),
        &Setting::drawn(setting),
        clip_side,
    )
}

/// CLIP's normalised pictures, [n, 3, side, side].
///
/// # Errors
/// A failing device.
pub fn clip_pictures(crops: &[&RgbImage], device: &Device) -> Compute<Tensor> {
    let side = crops.first().map_or(0, |picture| picture.width() as usize);
    let numbers: Vec<f32> = crops
        .iter()
        .flat_map(|picture| pixel_values(picture))
        .collect();
    Tensor::from_vec(numbers, (crops.len(), 3, side, side), device)
}

/// The face embedder's pictures, [n, 3, 112, 112] from -1 to 1.
///
/// # Errors
/// A failing device.
pub fn face_pictures(crops: &[&RgbImage], device: &Device) -> Compute<Tensor> {
    planes(crops, device, |level| (level - 127.5) / 127.5)
}

/// Square pictures of one size channel by channel, [n, 3, side, side], each level through `value`.
pub(crate) fn planes(
    pictures: &[&RgbImage],
    device: &Device,
    value: impl Fn(f32) -> f32,
) -> Compute<Tensor> {
    let side = pictures.first().map_or(0, |p| p.width() as usize);
    let levels: Vec<f32> = (0..=255u8).map(|level| value(f32::from(level))).collect();
    let mut numbers = Vec::with_capacity(pictures.len() * 3 * side * side);
    for picture in pictures {
        for channel in 0..3 {
            let own = picture.pixels().map(|pixel| pixel.0[channel]);
            numbers.extend(own.map(|level| levels[usize::from(level)]));
        }
    }
    Tensor::from_vec(numbers, (pictures.len(), 3, side, side), device)
}

impl Crops {
    /// CLIP's.
    pub fn clip(&self) -> &RgbImage {
        &self.clip
    }

    /// CLIP's with the face blurred, where it was asked for.
    pub fn base(&self) -> Option<&RgbImage> {
        self.base.as_ref()
    }

    /// The face embedder's.
    pub fn face(&self) -> &RgbImage {
        &self.face
    }
}

/// How a detector errs.
struct Moved {
    by: [f32; 2],
    scale: f32,
}

impl Moved {
    fn drawn(chance: &mut Chance) -> Moved {
        let mut even = || (2.0 * chance.uniform() - 1.0) as f32;
        let side = PHOTO as f32;
        Moved {
            by: [even(), even()].map(|v| 2.0 * v * OFF as f32 * side),
            scale: 1.0 + even() * SCALE_OFF as f32,
        }
    }

    fn apply(&self, point: [f32; 2]) -> [f32; 2] {
        let middle = PHOTO as f32 / 2.0;
        [0, 1].map(|axis| middle + (point[axis] - middle) * self.scale + self.by[axis])
    }
}

fn face(landmarks: &Landmarks, keypoints: [[f32; 2]; 5]) -> Face {
    let axis = |axis: usize| {
        let values = landmarks.iter().map(move |p| p[axis]);
        values.fold((f32::MAX, f32::MIN), |(low, high), v| {
            (low.min(v), high.max(v))
        })
    };
    let ((left, right), (top, bottom)) = (axis(0), axis(1));
    Face {
        bbox: [left, top, right, bottom],
        score: 1.0,
        landmarks: *landmarks,
        keypoints,
        landmark_source: LandmarkSource::Predicted,
    }
}
