//! Pictures of nobody.

use image::imageops::{self, FilterType};
use image::{Rgb, RgbImage};
use likeness_portraits::{Identity, Setting, draw};

use super::{between, colour};
use crate::Chance;

/// Any of them.
pub(super) fn any(chance: &mut Chance, side: u32) -> RgbImage {
    match chance.below(8) {
        0 => RgbImage::new(side, side),
        1 => RgbImage::from_pixel(side, side, colour(chance)),
        2 => gradient(chance, side),
        3 => cloth(chance, side),
        4 => shapes(chance, side),
        _ => clouds(chance, side),
    }
}

/// From one colour to another, in any direction.
fn gradient(chance: &mut Chance, side: u32) -> RgbImage {
    let (from, to) = (colour(chance), colour(chance));
    let angle = std::f64::consts::TAU * chance.uniform();
    let (s, c) = angle.sin_cos();
    let half = f64::from(side) / 2.0;
    RgbImage::from_fn(side, side, |x, y| {
        let along = (f64::from(x) / half - 1.0) * c + (f64::from(y) / half - 1.0) * s;
        mixed(from, to, (0.5 + along / 2.8).clamp(0.0, 1.0) as f32)
    })
}

/// Fields of colour from coarse to fine, each weaker than the one before, as in photos of anything.
pub(super) fn clouds(chance: &mut Chance, side: u32) -> RgbImage {
    let base = colour(chance);
    let mut picture = RgbImage::from_pixel(side, side, base);
    let grey = chance.happens(0.4);
    let mut strength = between(chance, 0.4, 0.9) as f32;
    let falling = between(chance, 0.4, 0.9) as f32;
    for cells in [3, 6, 12, 32, side] {
        let field = RgbImage::from_fn(cells, cells, |_, _| {
            let pixel = colour(chance);
            if grey { Rgb([pixel.0[0]; 3]) } else { pixel }
        });
        let filter = FilterType::Triangle;
        let field = imageops::resize(&field, side, side, filter);
        for (own, other) in picture.pixels_mut().zip(field.pixels()) {
            *own = mixed(*own, *other, strength);
        }
        strength *= falling;
    }
    picture
}

/// Discs and boxes of any colours on clouds or on one colour: eyes, mouths and hats without a face.
fn shapes(chance: &mut Chance, side: u32) -> RgbImage {
    let mut picture = if chance.happens(0.5) {
        clouds(chance, side)
    } else {
        RgbImage::from_pixel(side, side, colour(chance))
    };
    for _ in 0..2 + chance.below(24) {
        let ink = colour(chance);
        let size = f64::from(side) * between(chance, 0.01, 0.35);
        let half = [size, size * between(chance, 0.3, 1.5)];
        let middle = [0; 2].map(|_: u8| between(chance, 0.0, f64::from(side)));
        let disc = chance.happens(0.6);
        shape(&mut picture, middle, half, disc, ink);
    }
    picture
}

/// Draws a disc or a box.
pub(super) fn shape(
    picture: &mut RgbImage,
    middle: [f64; 2],
    half: [f64; 2],
    disc: bool,
    ink: Rgb<u8>,
) {
    for (x, y, pixel) in picture.enumerate_pixels_mut() {
        let away = [x, y].map(|k| f64::from(k) + 0.5);
        let [dx, dy] = [0, 1].map(|k| (away[k] - middle[k]).abs() / half[k]);
        let inside = if disc {
            dx * dx + dy * dy < 1.0
        } else {
            dx < 1.0 && dy < 1.0
        };
        if inside {
            *pixel = ink;
        }
    }
}

/// A drawn picture's corner or shirt, enlarged.
fn cloth(chance: &mut Chance, side: u32) -> RgbImage {
    let (person, setting) = (chance.below(1 << 20) as u64, chance.below(1 << 20) as u64);
    let drawn = draw(&Identity::drawn(person), &Setting::drawn(setting), 128);
    let (left, top, size) = match chance.below(3) {
        0 => (0, 0, 26),
        1 => (102, 0, 26),
        _ => (44, 108, 20),
    };
    let part = imageops::crop_imm(&drawn, left, top, size, size).to_image();
    imageops::resize(&part, side, side, FilterType::Triangle)
}

/// So much of `b` over `a`.
pub(super) fn mixed(a: Rgb<u8>, b: Rgb<u8>, share: f32) -> Rgb<u8> {
    let level = |k: usize| f32::from(a.0[k]) + (f32::from(b.0[k]) - f32::from(a.0[k])) * share;
    Rgb([0, 1, 2].map(|k| (level(k) + 0.5) as u8))
}
