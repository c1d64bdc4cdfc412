//! Gaussian blur as three extended box blurs per axis, as the reference's image library does it.
//!
//! An extended box is a box of odd length whose two outermost samples have a fractional weight (Gwosdek et al. 2011), with
//! edge replication and 8 bits between passes.

use image::{ImageBuffer, Pixel};

const PASSES: u16 = 3;

/// The extended box's radius (not an integer) whose three passes have variance σ².
pub(crate) fn box_radius(sigma: f32) -> f32 {
    let variance = sigma * sigma / f32::from(PASSES);
    let length = (12.0 * variance + 1.0).sqrt();
    let whole = ((length - 1.0) / 2.0).floor();
    let fraction = (2.0 * whole + 1.0) * (whole * (whole + 1.0) - 3.0 * variance);
    whole + fraction / (6.0 * (variance - (whole + 1.0) * (whole + 1.0)))
}

/// Blurs every channel with a Gaussian of standard deviation `sigma` pixels.
pub(crate) fn gaussian<P>(image: &mut ImageBuffer<P, Vec<u8>>, sigma: f32)
where
    P: Pixel<Subpixel = u8>,
{
    let kernel = ExtendedBox::new(box_radius(sigma));
    let channels = usize::from(P::CHANNEL_COUNT);
    let (width, height) = (image.width() as usize, image.height() as usize);
    let stride = width * channels;
    for row in 0..height {
        for c in 0..channels {
            kernel.blur(
                image,
                Line {
                    start: row * stride + c,
                    step: channels,
                    length: width,
                },
            );
        }
    }
    for start in 0..stride {
        kernel.blur(
            image,
            Line {
                start,
                step: stride,
                length: height,
            },
        );
    }
}

/// A row or column of one channel inside an image's samples.
#[derive(Clone, Copy)]
struct Line {
    start: usize,
    step: usize,
    length: usize,
}

struct ExtendedBox {
    /// Samples with full weight on either side.
    radius: usize,
    /// Weight of the inner samples and of the two outermost ones, in units of 2⁻²⁴.
    inner: u64,
    outer: u64,
}

impl ExtendedBox {
    fn new(radius: f32) -> Self {
        let whole = radius as u64;
        let one = 1_u64 << 24;
        let inner = (one as f32 / (radius * 2.0 + 1.0)) as u64;
        Self {
            radius: whole as usize,
            inner,
            outer: (one - (whole * 2 + 1) * inner) / 2,
        }
    }

    fn blur(&self, samples: &mut [u8], line: Line) {
        let at = |i: usize| line.start + i * line.step;
        let mut values: Vec<u8> = (0..line.length).map(|i| samples[at(i)]).collect();
        for _ in 0..PASSES {
            values = self.pass(&values);
        }
        values
            .iter()
            .enumerate()
            .for_each(|(i, v)| samples[at(i)] = *v);
    }

    fn pass(&self, values: &[u8]) -> Vec<u8> {
        let (last, reach) = (values.len() as i64 - 1, self.radius as i64);
        let sample = |i: i64| u64::from(values[i.clamp(0, last) as usize]);
        let mut sum: u64 = (-reach..=reach).map(sample).sum();
        (0..=last)
            .map(|i| {
                let edges = sample(i - reach - 1) + sample(i + reach + 1);
                let blurred = (sum * self.inner + edges * self.outer + (1 << 23)) >> 24;
                sum = sum + sample(i + reach + 1) - sample(i - reach);
                blurred as u8
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::GrayImage;

    #[test]
    fn radius_is_the_reference_s() {
        assert!((box_radius(15.0) - 14.48333).abs() < 1e-5);
        assert!((box_radius(45.0) - 44.49444).abs() < 1e-5);
    }

    #[test]
    fn a_flat_image_stays_flat_even_when_smaller_than_the_kernel() {
        for value in [0, 1, 127, 255] {
            let mut image = GrayImage::from_pixel(5, 3, image::Luma([value]));
            gaussian(&mut image, 15.0);
            assert!(image.pixels().all(|p| p.0[0] == value));
        }
    }
}
