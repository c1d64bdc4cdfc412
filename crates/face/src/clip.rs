//! The picture that CLIP vision sees, and its numbers.

use image::{GrayImage, Luma, Rgb, RgbImage};

use crate::face::Face;
use crate::geometry::{self, CropRect};
use crate::mask;
use crate::resample::bicubic;

/// How to prepare CLIP's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClipOptions {
    /// Paint everything outside the face's outline grey.
    pub remove_background: bool,
    /// Drop the colours.
    pub grey: bool,
    /// Side of CLIP's input in pixels, from its configuration.
    pub size: u32,
}

impl Default for ClipOptions {
    /// The authors' defaults, with the side of CLIP ViT-L/14.
    fn default() -> Self {
        Self {
            remove_background: true,
            grey: false,
            size: 224,
        }
    }
}

/// CLIP's input as a picture.
#[derive(Clone, PartialEq, Eq)]
pub struct ClipInput {
    /// `size` × `size` pixels.
    pub pixels: RgbImage,
    /// The square of the photo that it shows.
    pub crop: CropRect,
}

impl std::fmt::Debug for ClipInput {
    /// Leaves the picture out.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClipInput")
            .field("crop", &self.crop)
            .finish_non_exhaustive()
    }
}

/// Crops the photo around the face as CLIP was shown it in training.
pub fn clip_input(image: &RgbImage, face: &Face, opts: &ClipOptions) -> ClipInput {
    let crop = geometry::face_square(&face.landmarks).rounded();
    let mut view = if opts.remove_background {
        mask::on_grey(image, &geometry::outline(&face.landmarks), crop)
    } else {
        crop.of(image)
    };
    if opts.grey {
        view = colourless(&view);
    }
    ClipInput {
        pixels: fit(&view, opts.size),
        crop,
    }
}

/// How far the outline is widened before the inside is blurred for the Base-LoRA.
const BASE_WIDENING: f32 = 1.4;

/// The Base-LoRA's input: the same crop as [`clip_input`]'s, with its background and with the face blurred, so that it tells
/// of everything but the person. `size` is the side of CLIP's input in pixels.
pub fn base_input(image: &RgbImage, face: &Face, size: u32) -> ClipInput {
    let crop = geometry::face_square(&face.landmarks).rounded();
    ClipInput {
        pixels: fit(&faceless(image, face, crop), size),
        crop,
    }
}

/// `view` of the photo with the face blurred.
pub(crate) fn faceless(image: &RgbImage, face: &Face, view: CropRect) -> RgbImage {
    mask::blurred_inside(
        image,
        &geometry::outline(&face.landmarks),
        BASE_WIDENING,
        view,
    )
}

/// Resizes the shorter side to `size` and takes the centre.
fn fit(view: &RgbImage, size: u32) -> RgbImage {
    let size = size.max(1);
    let (w, h) = view.dimensions();
    let scaled =
        |side: u32| (u64::from(size) * u64::from(side) / u64::from(w.min(h).max(1))) as u32;
    let resized = bicubic(view, scaled(w).max(size), scaled(h).max(size));
    let (left, top) = ((resized.width() - size) / 2, (resized.height() - size) / 2);
    image::imageops::crop_imm(&resized, left, top, size, size).to_image()
}

/// Luma of ITU-R 601 in 16 fractional bits.
pub(crate) fn luma(pixel: Rgb<u8>) -> u8 {
    let [r, g, b] = pixel.0.map(u32::from);
    ((r * 19_595 + g * 38_470 + b * 7_471 + 0x8000) >> 16) as u8
}

/// The luma plane of an image.
pub(crate) fn to_grey(image: &RgbImage) -> GrayImage {
    GrayImage::from_fn(image.width(), image.height(), |x, y| {
        Luma([luma(*image.get_pixel(x, y))])
    })
}

fn colourless(image: &RgbImage) -> RgbImage {
    RgbImage::from_fn(image.width(), image.height(), |x, y| {
        Rgb([luma(*image.get_pixel(x, y)); 3])
    })
}

const MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// CLIP's `pixel_values`, [3, height, width] row by row: each channel scaled to 0…1 and normalised by CLIP's mean and
/// standard deviation.
pub fn pixel_values(image: &RgbImage) -> Vec<f32> {
    let channel = |c: usize| {
        image
            .pixels()
            .map(move |p| (f32::from(p.0[c]) / 255.0 - MEAN[c]) / STD[c])
    };
    (0..3).flat_map(channel).collect()
}
