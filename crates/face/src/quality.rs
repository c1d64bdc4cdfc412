//! How good a photo of a face is, and whether it is good enough.

use image::{GrayImage, RgbImage};
use serde::Serialize;

use crate::clip::to_grey;
use crate::error::{Limits, Rejection};
use crate::face::{Face, LandmarkSource};
use crate::geometry::{CropRect, extent};
use crate::occlusion;
use crate::pose::Pose;
use crate::resample::bicubic;

/// What was measured in a photo, refused or not.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct QualityReport {
    /// The photo's width in pixels, upright.
    pub image_width: u32,
    /// The photo's height in pixels, upright.
    pub image_height: u32,
    /// Number of faces that the detector saw, small ones in the background included.
    pub faces_found: usize,
    /// The chosen face, if one could be chosen.
    pub face: Option<FaceQuality>,
}

impl QualityReport {
    /// The report on a photo of which no face was chosen yet.
    pub(crate) fn without_face(image: &RgbImage, faces_found: usize) -> Self {
        Self {
            image_width: image.width(),
            image_height: image.height(),
            faces_found,
            face: None,
        }
    }
}

/// What was measured of the chosen face.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FaceQuality {
    /// Shorter side of the face's box, in pixels.
    pub size: u32,
    /// The detector's score.
    pub detector_score: f32,
    /// Detail in the face: variance of the Laplacian over the variance of the luma, with the face scaled to 64 pixels. A
    /// ratio, so that neither light nor skin colour counts; at one size, so that pixels do not count twice.
    pub sharpness: f32,
    /// The luma (0 to 255) that a tenth of the face exceeds. Not the mean: a dark skin in good light is no dark photo.
    pub brightness: f32,
    /// Share of the face that is blown out (luma 250 and above).
    pub overexposed: f32,
    /// Where the landmarks come from.
    pub landmarks: LandmarkSource,
    /// Share of the face that lies outside the picture, 0 to 1: of the detector's box, or of the box of measured landmarks
    /// if that is more.
    pub outside: f32,
    /// How the head is turned, if landmarks were measured.
    pub pose: Option<Pose>,
    /// A hint at what covers the face, 0 to 1: the share of the face within its outline whose colour is not the skin's, or
    /// that is much darker or lighter than it. Eyes, brows and lips count for little; sunglasses, a mask, a hand in a glove
    /// or hair over the face raise it, and so do a full beard, strong make-up or half a face in deep shadow. A bare hand
    /// does not, nor does a skin-coloured mask.
    pub occlusion: f32,
}

/// Side to which a face is scaled for measuring: the least that [`Limits`] accept by default.
const MEASURING_SIDE: u32 = 64;

impl FaceQuality {
    /// Measures a face.
    pub fn measure(image: &RgbImage, face: &Face) -> Self {
        let grey = measured_face(image, face);
        let mut levels: Vec<u8> = grey.as_raw().clone();
        levels.sort_unstable();
        let blown_out = levels.iter().filter(|l| **l >= 250).count();
        Self {
            size: face.size().round() as u32,
            detector_score: face.score,
            sharpness: sharpness(&grey),
            brightness: f32::from(levels.get(levels.len() * 9 / 10).copied().unwrap_or(0)),
            overexposed: blown_out as f32 / levels.len().max(1) as f32,
            landmarks: face.landmark_source,
            outside: outside(image, face),
            pose: Pose::of(face),
            occlusion: occlusion::measure(image, face),
        }
    }

    /// Compares with the limits.
    ///
    /// # Errors
    /// [`Rejection::FaceCut`], [`Rejection::FaceTooSmall`], [`Rejection::TooDark`] or [`Rejection::TooBlurry`], in this
    /// order: a dark photo is often blurred because it is dark.
    pub fn check(&self, limits: &Limits) -> Result<(), Rejection> {
        if self.outside > limits.max_outside {
            return Err(Rejection::FaceCut {
                found: self.outside,
                most: limits.max_outside,
            });
        }
        if self.size < limits.min_face {
            return Err(Rejection::FaceTooSmall {
                found: self.size,
                least: limits.min_face,
            });
        }
        if self.brightness < limits.min_brightness {
            return Err(Rejection::TooDark {
                found: self.brightness,
                least: limits.min_brightness,
            });
        }
        if self.sharpness < limits.min_sharpness {
            return Err(Rejection::TooBlurry {
                found: self.sharpness,
                least: limits.min_sharpness,
            });
        }
        Ok(())
    }
}

/// Share of the face's box outside the picture, or of its landmarks' box if those were measured and it is more.
fn outside(image: &RgbImage, face: &Face) -> f32 {
    let of_box = share_outside(image, face.bbox);
    match face.landmark_source {
        LandmarkSource::Template => of_box,
        LandmarkSource::Predicted => {
            let (low, high) = extent(&face.landmarks);
            of_box.max(share_outside(image, [low[0], low[1], high[0], high[1]]))
        }
    }
}

fn share_outside(image: &RgbImage, [left, top, right, bottom]: [f32; 4]) -> f32 {
    let inside = |from: f32, to: f32, side: u32| (to.min(side as f32) - from.max(0.0)).max(0.0);
    let seen = inside(left, right, image.width()) * inside(top, bottom, image.height());
    let whole = ((right - left) * (bottom - top)).max(f32::MIN_POSITIVE);
    (1.0 - seen / whole).clamp(0.0, 1.0)
}

/// The luma of the part of the face's box that lies in the photo, at the measuring side.
fn measured_face(image: &RgbImage, face: &Face) -> GrayImage {
    let [left, top, right, bottom] = face.bbox;
    let inside = |v: f32, side: u32| (v.round() as i32).clamp(0, side as i32);
    let rect = CropRect {
        left: inside(left, image.width()),
        top: inside(top, image.height()),
        right: inside(right, image.width()),
        bottom: inside(bottom, image.height()),
    };
    if rect.width() == 0 || rect.height() == 0 {
        return GrayImage::new(MEASURING_SIDE, MEASURING_SIDE);
    }
    bicubic(&to_grey(&rect.of(image)), MEASURING_SIDE, MEASURING_SIDE)
}

fn sharpness(grey: &GrayImage) -> f32 {
    let at = |x: u32, y: u32| f32::from(grey.get_pixel(x, y).0[0]);
    let inner = |side: u32| 1..side.saturating_sub(1);
    let laplacian = inner(grey.height()).flat_map(|y| {
        inner(grey.width()).map(move |x| {
            at(x - 1, y) + at(x + 1, y) + at(x, y - 1) + at(x, y + 1) - 4.0 * at(x, y)
        })
    });
    let detail = variance(laplacian);
    let contrast = variance(grey.as_raw().iter().map(|l| f32::from(*l)));
    if contrast > 0.0 {
        detail / contrast
    } else {
        0.0
    }
}

fn variance(values: impl Iterator<Item = f32>) -> f32 {
    let (n, sum, squares) = values.fold((0.0_f64, 0.0, 0.0), |(n, sum, squares), v| {
        let v = f64::from(v);
        (n + 1.0, sum + v, squares + v * v)
    });
    if n == 0.0 {
        0.0
    } else {
        (squares / n - (sum / n) * (sum / n)).max(0.0) as f32
    }
}
