//! Bicubic resampling with antialiasing, as the reference's image library does it, to the bit.
//!
//! Keys' kernel with a = −0.5, stretched by the scale when shrinking; weights normalised in f64 and rounded to 22 fractional
//! bits; columns first, then rows, with 8 bits in between.

use image::{ImageBuffer, Pixel};

const WEIGHT_BITS: u32 = 22;

/// The source samples that one output sample is a weighted sum of.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

/// Keys' cubic convolution kernel (1981) with a = −0.5.
fn keys(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn taps(from: u32, to: u32) -> Vec<Taps> {
    let scale = f64::from(from) / f64::from(to);
    let stretch = scale.max(1.0);
    (0..to)
        .map(|i| {
            let centre = (f64::from(i) + 0.5) * scale;
            let first = ((centre - 2.0 * stretch + 0.5) as i64).max(0) as usize;
            let end = ((centre + 2.0 * stretch + 0.5) as usize).min(from as usize);
            let raw: Vec<f64> = (first..end)
                .map(|j| keys((j as f64 - centre + 0.5) / stretch))
                .collect();
            Taps {
                first,
                weights: fixed_point(&raw),
            }
        })
        .collect()
}

fn fixed_point(raw: &[f64]) -> Vec<i32> {
    let total: f64 = raw.iter().sum();
    let one = f64::from(1 << WEIGHT_BITS);
    raw.iter()
        .map(|w| (w / total * one).round() as i32)
        .collect()
}

fn to_byte(sum: i32) -> u8 {
    (sum >> WEIGHT_BITS).clamp(0, 255) as u8
}

const HALF: i32 = 1 << (WEIGHT_BITS - 1);

/// Resizes to `width` × `height`. An empty image has nothing to show and gives a black one.
pub(crate) fn bicubic<P>(
    image: &ImageBuffer<P, Vec<u8>>,
    width: u32,
    height: u32,
) -> ImageBuffer<P, Vec<u8>>
where
    P: Pixel<Subpixel = u8>,
{
    if image.is_empty() || width == 0 || height == 0 {
        return ImageBuffer::new(width, height);
    }
    rows(&columns(image, width), height)
}

/// Resizes each row to `width` samples.
fn columns<P>(image: &ImageBuffer<P, Vec<u8>>, width: u32) -> ImageBuffer<P, Vec<u8>>
where
    P: Pixel<Subpixel = u8>,
{
    let channels = usize::from(P::CHANNEL_COUNT);
    let taps = taps(image.width(), width);
    let mut out = ImageBuffer::new(width, image.height());
    let source_rows = image
        .as_raw()
        .chunks_exact(image.width() as usize * channels);
    let out_rows = out.chunks_exact_mut(width as usize * channels);
    for (source, target) in source_rows.zip(out_rows) {
        // The number of channels as a constant lets the compiler unroll the innermost loop.
        match channels {
            1 => resize_row::<1>(source, &taps, target),
            3 => resize_row::<3>(source, &taps, target),
            4 => resize_row::<4>(source, &taps, target),
            _ => resize_row::<2>(source, &taps, target),
        }
    }
    out
}

fn resize_row<const CHANNELS: usize>(source: &[u8], taps: &[Taps], target: &mut [u8]) {
    let (source, _) = source.as_chunks::<CHANNELS>();
    let (target, _) = target.as_chunks_mut::<CHANNELS>();
    for (tap, pixel) in taps.iter().zip(target) {
        let mut sums = [HALF; CHANNELS];
        for (sample, weight) in source[tap.first..].iter().zip(&tap.weights) {
            for (sum, s) in sums.iter_mut().zip(sample) {
                *sum += i32::from(*s) * weight;
            }
        }
        *pixel = sums.map(to_byte);
    }
}

/// Resizes each column to `height` samples.
fn rows<P>(image: &ImageBuffer<P, Vec<u8>>, height: u32) -> ImageBuffer<P, Vec<u8>>
where
    P: Pixel<Subpixel = u8>,
{
    let stride = image.width() as usize * usize::from(P::CHANNEL_COUNT);
    let mut out = ImageBuffer::new(image.width(), height);
    let mut sums = vec![0_i32; stride];
    for (tap, target) in taps(image.height(), height)
        .iter()
        .zip(out.chunks_exact_mut(stride))
    {
        sums.fill(HALF);
        let sources = image.as_raw().chunks_exact(stride).skip(tap.first);
        for (source, weight) in sources.zip(&tap.weights) {
            sums.iter_mut()
                .zip(source)
                .for_each(|(sum, s)| *sum += i32::from(*s) * weight);
        }
        target
            .iter_mut()
            .zip(&sums)
            .for_each(|(byte, sum)| *byte = to_byte(*sum));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::GrayImage;

    #[test]
    fn the_same_size_changes_nothing() {
        let image = GrayImage::from_fn(7, 5, |x, y| image::Luma([(x * 37 + y * 11) as u8]));
        assert_eq!(bicubic(&image, 7, 5), image);
    }

    #[test]
    fn empty_images_do_no_harm() {
        assert_eq!(bicubic(&GrayImage::new(0, 0), 3, 2), GrayImage::new(3, 2));
        assert_eq!(bicubic(&GrayImage::new(3, 2), 0, 2), GrayImage::new(0, 2));
    }

    #[test]
    fn a_flat_image_stays_flat_at_every_size() {
        let image = image::RgbImage::from_pixel(9, 13, image::Rgb([3, 127, 252]));
        for (w, h) in [(1, 1), (4, 40), (100, 2)] {
            assert!(bicubic(&image, w, h).pixels().all(|p| p.0 == [3, 127, 252]));
        }
    }
}
