//! Resizing and warping with bilinear interpolation, as OpenCV does it: the networks were trained on that.

use image::{Rgb, RgbImage};

use crate::geometry::Similarity;

/// Weights in units of 2⁻¹¹, as OpenCV's `resize` has them for 8-bit pictures.
const WEIGHT_BITS: u32 = 11;

/// The two source samples of an output sample, and the second one's weight.
#[derive(Clone, Copy)]
struct Tap {
    first: usize,
    second: usize,
    weight: i32,
}

fn taps(from: u32, to: u32) -> Vec<Tap> {
    let scale = f64::from(from) / f64::from(to);
    let last = from as usize - 1;
    (0..to)
        .map(|i| {
            let at = ((f64::from(i) + 0.5) * scale - 0.5) as f32;
            let floor = at.floor();
            let weight = (at - floor) * (1 << WEIGHT_BITS) as f32;
            Tap {
                first: (floor.max(0.0) as usize).min(last),
                second: ((floor + 1.0).max(0.0) as usize).min(last),
                weight: weight.round_ties_even() as i32,
            }
        })
        .collect()
}

/// Resizes to `width` × `height` without antialiasing, as OpenCV's `INTER_LINEAR`. Nothing has to be empty.
pub(crate) fn resize(image: &RgbImage, width: u32, height: u32) -> RgbImage {
    if image.dimensions() == (width, height) {
        return image.clone();
    }
    if image.dimensions() == (2 * width, 2 * height) {
        return halved(image);
    }
    let columns = taps(image.width(), width);
    let source = |y: usize| {
        let stride = image.width() as usize * 3;
        &image.as_raw()[y * stride..(y + 1) * stride]
    };
    let mut out = RgbImage::new(width, height);
    let (mut upper, mut lower) = (vec![0; width as usize * 3], vec![0; width as usize * 3]);
    let targets = out.chunks_exact_mut(width as usize * 3);
    for (row, target) in taps(image.height(), height).iter().zip(targets) {
        blend_columns(source(row.first), &columns, &mut upper);
        blend_columns(source(row.second), &columns, &mut lower);
        let below = row.weight;
        let above = (1 << WEIGHT_BITS) - below;
        for ((byte, u), l) in target.iter_mut().zip(&upper).zip(&lower) {
            let sum = ((above * (u >> 4)) >> 16) + ((below * (l >> 4)) >> 16);
            *byte = ((sum + 2) >> 2).clamp(0, 255) as u8;
        }
    }
    out
}

fn blend_columns(source: &[u8], taps: &[Tap], out: &mut [i32]) {
    for (tap, pixel) in taps.iter().zip(out.chunks_exact_mut(3)) {
        for (c, sum) in pixel.iter_mut().enumerate() {
            let (a, b) = (source[tap.first * 3 + c], source[tap.second * 3 + c]);
            *sum = i32::from(a) * ((1 << WEIGHT_BITS) - tap.weight) + i32::from(b) * tap.weight;
        }
    }
}

/// At exactly half the size OpenCV takes the mean of each four pixels.
fn halved(image: &RgbImage) -> RgbImage {
    RgbImage::from_fn(image.width() / 2, image.height() / 2, |x, y| {
        let at = |dx, dy| image.get_pixel(2 * x + dx, 2 * y + dy).0;
        let four = [at(0, 0), at(1, 0), at(0, 1), at(1, 1)];
        Rgb(std::array::from_fn(|c| {
            ((four.iter().map(|p| u32::from(p[c])).sum::<u32>() + 2) >> 2) as u8
        }))
    })
}

/// Fractional bits of a source coordinate while it is computed, and when a pixel is taken there.
const COORDINATE_BITS: u32 = 10;
const POSITION_BITS: u32 = 5;

/// A square of `side` pixels, each taken from where `placement` brings it from; everything outside the image is black.
/// As the `warpAffine` of OpenCV 4, to the bit: positions are rounded to a thirty-second of a pixel.
pub(crate) fn warp(image: &RgbImage, placement: &Similarity, side: u32) -> RgbImage {
    let source = placement.inverse();
    let fixed = |v: f64| (v * f64::from(1 << COORDINATE_BITS)).round_ties_even() as i64;
    let half = 1_i64 << (COORDINATE_BITS - POSITION_BITS - 1);
    let position = |row: f64, column: f64| {
        (fixed(row) + half + fixed(column)) >> (COORDINATE_BITS - POSITION_BITS)
    };
    RgbImage::from_fn(side, side, |x, y| {
        let (x, y) = (f64::from(x), f64::from(y));
        let across = position(source.tx - source.b * y, source.a * x);
        let down = position(source.ty + source.a * y, source.b * x);
        between_pixels(image, across, down)
    })
}

/// The image at a position in thirty-seconds of a pixel; everything outside is black.
fn between_pixels(image: &RgbImage, across: i64, down: i64) -> Rgb<u8> {
    let one = 1_i64 << POSITION_BITS;
    let (x, y) = (across >> POSITION_BITS, down >> POSITION_BITS);
    let (fx, fy) = (across & (one - 1), down & (one - 1));
    let at = |dx: i64, dy: i64| {
        let (x, y) = (u32::try_from(x + dx), u32::try_from(y + dy));
        let pixel = x.ok().zip(y.ok());
        let pixel = pixel.and_then(|(x, y)| image.get_pixel_checked(x, y));
        pixel.map_or([0; 3], |p| p.0.map(i64::from))
    };
    let (nw, ne, sw, se) = (at(0, 0), at(1, 0), at(0, 1), at(1, 1));
    Rgb(std::array::from_fn(|c| {
        let north = nw[c] * (one - fx) + ne[c] * fx;
        let south = sw[c] * (one - fx) + se[c] * fx;
        let sum = north * (one - fy) + south * fy;
        ((sum + (one * one / 2)) >> (2 * POSITION_BITS)) as u8
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_border_is_black() {
        let image = RgbImage::from_pixel(4, 4, Rgb([200; 3]));
        assert_eq!(between_pixels(&image, -5 * 32, 32).0, [0; 3]);
        assert_eq!(between_pixels(&image, -16, 32).0, [100; 3]);
        assert_eq!(between_pixels(&image, 16, 32).0, [200; 3]);
        assert_eq!(between_pixels(&image, i64::MAX / 2, 0).0, [0; 3]);
    }

    #[test]
    fn a_flat_image_stays_flat_at_every_size() {
        let image = RgbImage::from_pixel(9, 13, Rgb([3, 127, 252]));
        for (w, h) in [(1, 1), (4, 40), (100, 2)] {
            assert!(resize(&image, w, h).pixels().all(|p| p.0 == [3, 127, 252]));
        }
    }
}
