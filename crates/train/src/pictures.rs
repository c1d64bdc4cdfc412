//! Drawn portraits as tensors.

use candle_core::{Device, Result as Compute, Tensor};
use image::RgbImage;
use likeness_portraits::{Identity, Setting, draw};
use rayon::prelude::*;

/// The portraits of these people in these settings, by seed: [n, 3, side, side] from -1 to 1.
///
/// # Errors
/// A failing device.
pub fn pictures(who: &[(u64, u64)], side: u32, device: &Device) -> Compute<Tensor> {
    let plane = (side * side) as usize;
    let numbers: Vec<f32> = who
        .par_iter()
        .flat_map_iter(|&(identity, setting)| {
            let picture = draw(&Identity::drawn(identity), &Setting::drawn(setting), side);
            let levels = picture.into_raw();
            (0..3 * plane)
                .map(move |at| f32::from(levels[at % plane * 3 + at / plane]) / 127.5 - 1.0)
        })
        .collect();
    let side = side as usize;
    Tensor::from_vec(numbers, (who.len(), 3, side, side), device)
}

/// Pictures [n, 3, h, w] from -1 to 1 as such; what goes beyond is cut off.
///
/// # Errors
/// Another shape; a failing device.
pub fn images(pictures: &Tensor) -> Compute<Vec<RgbImage>> {
    let (n, _, h, w) = pictures.dims4()?;
    let levels = pictures.affine(127.5, 127.5)?.clamp(0f32, 255f32)?;
    let levels = levels.permute((0, 2, 3, 1))?.round()?.flatten_all()?;
    let levels: Vec<u8> = levels
        .to_vec1::<f32>()?
        .into_iter()
        .map(|v| v as u8)
        .collect();
    let each = levels.chunks_exact((h * w * 3).max(1)).take(n);
    let each = each.filter_map(|own| RgbImage::from_raw(w as u32, h as u32, own.to_vec()));
    Ok(each.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_survives_the_way_there_and_back() {
        let there = pictures(&[(1, 2), (3, 4)], 32, &Device::Cpu).unwrap();
        let back = images(&there).unwrap();
        assert_eq!(back.len(), 2);
        assert_eq!(back[1], draw(&Identity::drawn(3), &Setting::drawn(4), 32));
    }

    #[test]
    fn a_picture_is_its_own_row_channel_by_channel() {
        let both = pictures(&[(1, 2), (3, 4)], 32, &Device::Cpu).unwrap();
        let second = draw(&Identity::drawn(3), &Setting::drawn(4), 32);
        for (x, y, pixel) in second.enumerate_pixels() {
            for channel in 0..3 {
                let found = both.get(1).unwrap().get(channel).unwrap();
                let found = found.get(y as usize).unwrap().get(x as usize).unwrap();
                let level = (found.to_scalar::<f32>().unwrap() + 1.0) * 127.5;
                assert!((level - f32::from(pixel.0[channel])).abs() < 1e-3);
            }
        }
    }
}
