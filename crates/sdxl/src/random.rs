//! Weights at random, made where they are used: a model of any size without a file, to measure with.

use candle_core::{Device, Result as Compute, Tensor};
use rayon::prelude::*;

/// Numbers per task of the CPU's generator.
const BLOCK: usize = 1 << 16;

/// Draws tensors by name: normal numbers that keep the spread of what passes through them.
///
/// Matrices and convolutions have a standard deviation of 1/√inputs, biases are 0 and norms change
/// nothing, so that activations stay finite through any depth.
#[derive(Clone, Copy, Debug)]
pub struct Random {
    seed: u64,
}

impl Random {
    /// The same seed draws the same numbers (on one kind of device).
    pub fn new(seed: u64) -> Random {
        Random { seed }
    }

    /// The tensor of this name and shape, in f32, made on the device.
    pub fn draw(self, name: &str, shape: &[usize], device: &Device) -> Compute<Tensor> {
        if shape.len() < 2 {
            let value = if name.ends_with("weight") { 1f32 } else { 0.0 };
            return Tensor::full(value, shape, device);
        }
        let inputs: usize = shape[1..].iter().product();
        let deviation = 1.0 / (inputs.max(1) as f32).sqrt();
        let seed = self.seed_of(name);
        if device.is_cpu() {
            return Tensor::from_vec(
                normal(seed, shape.iter().product(), deviation),
                shape,
                device,
            );
        }
        device.set_seed(seed)?;
        Tensor::randn(0f32, deviation, shape, device)
    }

    /// Every tensor has numbers of its own, whatever the order of loading.
    fn seed_of(self, name: &str) -> u64 {
        // FNV-1a.
        let start = 0xcbf2_9ce4_8422_2325 ^ mix(self.seed);
        name.bytes().fold(start, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    }
}

/// Bell-shaped numbers of this standard deviation.
fn normal(seed: u64, count: usize, deviation: f32) -> Vec<f32> {
    let mut out = vec![0f32; count];
    out.par_chunks_mut(BLOCK)
        .enumerate()
        .for_each(|(block, out)| {
            for (at, value) in out.iter_mut().enumerate() {
                *value = bell(mix(seed.wrapping_add((block * BLOCK + at) as u64))) * deviation;
            }
        });
    out
}

/// The sum of a word's four 16-bit numbers, centred and of variance 1: never beyond 3.5, and close
/// enough to a normal number for weights.
fn bell(word: u64) -> f32 {
    let sum: u64 = (0..4).map(|part| word >> (16 * part) & 0xffff).sum();
    // Each has variance 65536²/12.
    (sum as f32 - 131_070.0) * (3f32.sqrt() / 65_536.0)
}

/// splitmix64's output function.
fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(seed: u64, name: &str, shape: &[usize]) -> Vec<f32> {
        let tensor = Random::new(seed).draw(name, shape, &Device::Cpu).unwrap();
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn matrices_keep_the_spread_of_their_inputs() {
        let values = drawn(1, "a.weight", &[512, 64, 3, 3]);
        let count = values.len() as f64;
        let moment = |power: i32| {
            values
                .iter()
                .map(|v| f64::from(*v).powi(power))
                .sum::<f64>()
                / count
        };
        let variance = moment(2) * 576.0;
        assert!((variance - 1.0).abs() < 0.02, "{variance}");
        assert!(moment(1).abs() < 3.0 / (count * 576.0).sqrt());
        // Of normal numbers it is 3; of four uniform ones 2.7.
        let kurtosis = moment(4) / moment(2).powi(2);
        assert!((2.6..3.1).contains(&kurtosis), "{kurtosis}");
    }

    #[test]
    fn norms_and_biases_change_nothing() {
        assert_eq!(drawn(1, "norm.weight", &[3]), [1.0; 3]);
        assert_eq!(drawn(1, "norm.bias", &[3]), [0.0; 3]);
    }

    #[test]
    fn numbers_follow_from_seed_and_name() {
        let one = drawn(1, "a.weight", &[4, 4]);
        assert_eq!(one, drawn(1, "a.weight", &[4, 4]));
        assert_ne!(one, drawn(2, "a.weight", &[4, 4]));
        assert_ne!(one, drawn(1, "b.weight", &[4, 4]));
    }
}
