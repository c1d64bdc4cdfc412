//! Drawn portraits as tensors.

use candle_core::{Device, Result as Compute, Tensor};
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

#[cfg(test)]
mod tests {
    use super::*;

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
