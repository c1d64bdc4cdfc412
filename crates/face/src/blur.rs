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
    if image.is_empty() {
        return;
    }
    // Lines side by side fill the registers, a single row's three channels do not: rows are turned into columns for their turn.
    let mut lines = turned(image, width, channels);
    kernel.passes(&mut lines, height * channels);
    image.copy_from_slice(&turned(&lines, height, channels));
    kernel.passes(image, width * channels);
}

/// A picture of this width with its rows as columns.
fn turned(picture: &[u8], width: usize, channels: usize) -> Vec<u8> {
    let height = picture.len() / (width * channels);
    let mut columns = vec![0; picture.len()];
    for (y, row) in picture.chunks_exact(width * channels).enumerate() {
        for (x, pixel) in row.chunks_exact(channels).enumerate() {
            let at = (x * height + y) * channels;
            columns[at..at + channels].copy_from_slice(pixel);
        }
    }
    columns
}

struct ExtendedBox {
    /// Samples with full weight on either side.
    radius: usize,
    /// Weight of the inner samples and of the two outermost ones, in units of 2⁻²⁴. All weights make one, so that sums of
    /// weighted bytes stay below 2³².
    inner: u32,
    outer: u32,
}

impl ExtendedBox {
    fn new(radius: f32) -> Self {
        let whole = radius as u32;
        let one = 1_u32 << 24;
        let inner = (one as f32 / (radius * 2.0 + 1.0)) as u32;
        Self {
            radius: whole as usize,
            inner,
            outer: (one - (whole * 2 + 1) * inner) / 2,
        }
    }

    /// All box blurs down a picture whose rows have `step` samples.
    fn passes(&self, picture: &mut [u8], step: usize) {
        let mut scratch = vec![0; picture.len()];
        for _ in 0..PASSES {
            self.pass(picture, &mut scratch, step);
            picture.copy_from_slice(&scratch);
        }
    }

    /// One box blur along lines of `step` samples side by side.
    fn pass(&self, from: &[u8], to: &mut [u8], step: usize) {
        let last = (from.len() / step) as i64 - 1;
        let line = |i: i64| {
            let start = i.clamp(0, last) as usize * step;
            &from[start..start + step]
        };
        let reach = self.radius as i64;
        let mut sums = vec![0_u32; step];
        for i in -reach..=reach {
            sums.iter_mut()
                .zip(line(i))
                .for_each(|(sum, v)| *sum += u32::from(*v));
        }
        for (i, target) in (0..=last).zip(to.chunks_exact_mut(step)) {
            let (before, after) = (line(i - reach - 1), line(i + reach + 1));
            let edges = before.iter().zip(after).zip(line(i - reach));
            for ((byte, sum), ((before, after), leaving)) in
                target.iter_mut().zip(&mut sums).zip(edges)
            {
                let outermost = u32::from(*before) + u32::from(*after);
                let blurred = *sum * self.inner + outermost * self.outer + (1 << 23);
                *byte = (blurred >> 24) as u8;
                *sum = *sum + u32::from(*after) - u32::from(*leaving);
            }
        }
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
