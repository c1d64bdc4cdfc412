//! What a face detector may be given: drawn people in all the ways in which their pictures are looked at, and pictures without a
//! face. And what a landmark model is given.

mod backdrop;
mod photo;
mod portrait;

use image::{Rgb, RgbImage};
use likeness_face::{LandmarkView, Landmarks};

use self::portrait::{Placement, Portrait};
use crate::Chance;

/// How many pictures show no face.
const FACELESS: f64 = 0.4;
/// How far the box reaches above the brows: this share of the landmarks' height. That is about where the hair begins.
const FOREHEAD: f32 = 0.2;

/// A picture, and the one face in it.
pub struct Scene {
    /// The picture.
    pub picture: RgbImage,
    /// The face, if there is one.
    pub face: Option<Marked>,
}

/// Where a face is, in pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Marked {
    /// Left, top, right, bottom.
    pub bbox: [f32; 4],
    /// Pupils, tip of the nose, corners of the mouth.
    pub keypoints: [[f32; 2]; 5],
}

/// The box of a face as a detector gives it: from ear to ear, from where the hair begins to the chin.
pub fn face_box(landmarks: &Landmarks) -> [f32; 4] {
    let axis = |axis: usize| {
        let values = landmarks.iter().map(move |p| p[axis]);
        values.fold((f32::MAX, f32::MIN), |(low, high), v| {
            (low.min(v), high.max(v))
        })
    };
    let ((left, right), (top, bottom)) = (axis(0), axis(1));
    [left, top - FOREHEAD * (bottom - top), right, bottom]
}

/// A square picture of this side, of one of the first `people` or of nobody.
pub fn scene(chance: &mut Chance, people: u64, side: u32) -> Scene {
    if chance.happens(FACELESS) {
        return Scene {
            picture: faceless(chance, people, side),
            face: None,
        };
    }
    let portrait = Portrait::drawn(chance, people);
    let (placement, black) = Placement::drawn(chance, &portrait, side);
    let mut picture = if black {
        RgbImage::new(side, side)
    } else {
        backdrop::any(chance, side)
    };
    portrait.put(&mut picture, &placement);
    Scene {
        face: Some(placement.marked(&portrait)),
        picture,
    }
}

/// A square picture without a drawn face: with nobody, with a head that is covered or muddled, with somebody whose head is
/// outside, or with what a photographed face is roughly like, which is another detector's.
pub fn faceless(chance: &mut Chance, people: u64, side: u32) -> RgbImage {
    let kind = chance.uniform();
    if kind < 0.3 {
        return backdrop::any(chance, side);
    }
    if kind < 0.5 {
        return photo::face(chance, side);
    }
    let mut portrait = Portrait::drawn(chance, people);
    let placement = if kind < 0.85 {
        if chance.happens(0.5) {
            portrait.cover(chance);
        } else {
            portrait.muddle(chance);
        }
        Placement::drawn(chance, &portrait, side).0
    } else {
        Placement::outside(chance, &portrait, side)
    };
    let mut picture = backdrop::any(chance, side);
    portrait.put(&mut picture, &placement);
    picture
}

/// A landmark model's view of a face.
pub struct View {
    /// What it sees.
    pub picture: RgbImage,
    /// The landmarks as it tells them, from −1 to 1.
    pub landmarks: Landmarks,
}

/// The view of a person, around a box as inexact as a detector's.
pub fn view(chance: &mut Chance, person: u64) -> View {
    let portrait = Portrait::of(chance, person);
    let box_ = jittered(chance, face_box(&portrait.landmarks));
    let view = LandmarkView::of(&portrait.picture, box_);
    View {
        landmarks: portrait.landmarks.map(|point| view.seen(point)),
        picture: view.pixels,
    }
}

/// A box that is off by up to a tenth of its size.
fn jittered(chance: &mut Chance, [left, top, right, bottom]: [f32; 4]) -> [f32; 4] {
    let (width, height) = (right - left, bottom - top);
    let mut off = |size: f32| (2.0 * chance.uniform() - 1.0) as f32 * 0.1 * size;
    [
        left + off(width),
        top + off(height),
        right + off(width),
        bottom + off(height),
    ]
}

/// Any colour.
fn colour(chance: &mut Chance) -> Rgb<u8> {
    Rgb([0; 3].map(|_: u8| chance.below(256) as u8))
}

/// A number from low to high.
fn between(chance: &mut Chance, low: f64, high: f64) -> f64 {
    low + (high - low) * chance.uniform()
}

#[cfg(test)]
mod tests;
