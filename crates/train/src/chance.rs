//! Random numbers that follow from where they are drawn, so that a resumed run draws what it would have drawn.

use candle_core::{Device, Result as Compute, Tensor};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};

/// The numbers of one purpose at one step.
pub struct Chance(ChaCha8Rng);

impl Chance {
    /// The same three always give the same numbers; any other three give others.
    pub fn at(seed: u64, step: u64, purpose: &str) -> Chance {
        // FNV-1a of the purpose: few names, so any hash that tells them apart serves.
        let stream = purpose
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
        let mut key = [0u8; 32];
        let words = key.chunks_exact_mut(8).zip([seed, step, stream, 0]);
        words.for_each(|(key, word)| key.copy_from_slice(&word.to_le_bytes()));
        Chance(ChaCha8Rng::from_seed(key))
    }

    /// From 0 to 1, never 1.
    pub fn uniform(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A whole number below `limit`, or 0 for a limit of 0.
    pub fn below(&mut self, limit: usize) -> usize {
        // The share of numbers that come up once more often is limit / 2⁵³.
        (self.uniform() * limit as f64) as usize
    }

    /// Whether something of this probability happens.
    pub fn happens(&mut self, probability: f64) -> bool {
        self.uniform() < probability
    }

    /// Normal numbers, by Box and Muller's method.
    ///
    /// # Errors
    /// A failing device.
    pub fn normal(&mut self, shape: &[usize], device: &Device) -> Compute<Tensor> {
        let count: usize = shape.iter().product();
        let mut numbers = Vec::with_capacity(count + 1);
        while numbers.len() < count {
            let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
            let angle = std::f64::consts::TAU * self.uniform();
            numbers.push((radius * angle.cos()) as f32);
            numbers.push((radius * angle.sin()) as f32);
        }
        numbers.truncate(count);
        Tensor::from_vec(numbers, shape, device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_from_seed_step_and_purpose() {
        let first = |seed, step, purpose| Chance::at(seed, step, purpose).uniform().to_bits();
        let one = first(1, 2, "noise");
        assert_eq!(one, first(1, 2, "noise"));
        assert!(one != first(2, 2, "noise") && one != first(1, 3, "noise"));
        assert!(one != first(1, 2, "captions"));
    }

    #[test]
    fn normal_numbers_have_the_moments_of_the_normal_distribution() {
        let numbers = Chance::at(1, 0, "noise").normal(&[99_999], &Device::Cpu);
        let numbers = numbers.unwrap().to_vec1::<f32>().unwrap();
        let moment = |power| {
            let sum: f64 = numbers.iter().map(|v| f64::from(*v).powi(power)).sum();
            sum / numbers.len() as f64
        };
        assert!(moment(1).abs() < 0.015 && (moment(2) - 1.0).abs() < 0.02);
        assert!(moment(3).abs() < 0.05 && (moment(4) - 3.0).abs() < 0.1);
    }

    #[test]
    fn whole_numbers_stay_below_their_limit() {
        let mut chance = Chance::at(3, 0, "who");
        let drawn: Vec<usize> = (0..1000).map(|_| chance.below(3)).collect();
        assert!((0..3).all(|n| drawn.iter().filter(|&&d| d == n).count() > 270));
        assert_eq!(chance.below(0), 0);
        assert!(!chance.happens(0.0) && chance.happens(1.0));
    }
}
