//! What a photographed face is roughly like: small dark eyes, soft shadows, no outlines. A detector of drawn faces is to leave it to
//! a detector of photographed ones.

use image::imageops::{self, FilterType};
use image::{Rgb, RgbImage};

use super::backdrop::{any, mixed, shape};
use super::{between, colour};
use crate::Chance;

/// Parts of a face in its half width and half height, from its middle: place, half sides; on both sides of the middle where the
/// place is not on it.
const PARTS: [([f64; 2], [f64; 2], Part); 7] = [
    ([0.42, -0.12], [0.2, 0.075], Part::Shade),
    ([0.42, -0.1], [0.12, 0.04], Part::Dark),
    ([0.44, -0.25], [0.22, 0.035], Part::Shade),
    ([0.0, 0.22], [0.2, 0.06], Part::Shade),
    ([0.0, 0.02], [0.08, 0.2], Part::Light),
    ([0.0, 0.5], [0.34, 0.07], Part::Red),
    ([0.0, 0.7], [0.25, 0.05], Part::Shade),
];

#[derive(Clone, Copy)]
enum Part {
    Shade,
    Dark,
    Light,
    Red,
}

/// Such a face of any size on any backdrop.
pub(super) fn face(chance: &mut Chance, side: u32) -> RgbImage {
    let mut picture = any(chance, side);
    let whole = f64::from(side);
    let half = 0.5 * whole * between(chance, 0.12, 0.8);
    let half = [half * between(chance, 0.7, 0.95), half];
    let middle = [0; 2].map(|_: u8| whole * between(chance, 0.2, 0.8));
    let hair = mixed(colour(chance), Rgb([20, 15, 10]), 0.7);
    let crown = [middle[0], middle[1] - 0.15 * half[1]];
    let wide = between(chance, 1.1, 1.5);
    shape(&mut picture, crown, half.map(|v| v * wide), true, hair);
    let skin = mixed(
        Rgb([70, 45, 35]),
        Rgb([245, 210, 185]),
        chance.uniform() as f32,
    );
    shape(&mut picture, middle, half, true, skin);
    let strength = between(chance, 0.3, 1.0) as f32;
    for (place, size, part) in PARTS {
        let ink = match part {
            Part::Shade => mixed(skin, Rgb([30, 15, 10]), 0.45 * strength),
            Part::Dark => mixed(skin, Rgb([15, 10, 10]), strength),
            Part::Light => mixed(skin, Rgb([255; 3]), 0.25 * strength),
            Part::Red => mixed(skin, Rgb([150, 40, 50]), 0.7 * strength),
        };
        let sides = if place[0] > 0.0 {
            &[-1.0, 1.0][..]
        } else {
            &[1.0]
        };
        for hand in sides {
            let at = [
                middle[0] + hand * place[0] * half[0],
                middle[1] + place[1] * half[1],
            ];
            let size = [0, 1].map(|k| size[k] * half[k] * between(chance, 0.8, 1.3));
            shape(&mut picture, at, size, true, ink);
        }
    }
    soften(chance, &mut picture, half[0]);
    light(chance, &mut picture);
    picture
}

/// As soft as a fraction of the face.
fn soften(chance: &mut Chance, picture: &mut RgbImage, half: f64) {
    let side = picture.width();
    let by = (half * between(chance, 0.04, 0.12)).max(1.0);
    let small = ((f64::from(side) / by) as u32).max(8);
    let small = imageops::resize(picture, small, small, FilterType::Triangle);
    *picture = imageops::resize(&small, side, side, FilterType::CatmullRom);
}

/// From one side, with noise.
fn light(chance: &mut Chance, picture: &mut RgbImage) {
    let slope = between(chance, -0.5, 0.5);
    let noise = between(chance, 0.0, 12.0);
    let width = f64::from(picture.width());
    for (x, _, pixel) in picture.enumerate_pixels_mut() {
        let gain = 0.9 + slope * (f64::from(x) / width - 0.5);
        for level in &mut pixel.0 {
            let off = noise * (2.0 * chance.uniform() - 1.0);
            *level = (f64::from(*level) * gain + off).clamp(0.0, 255.0) as u8;
        }
    }
}
