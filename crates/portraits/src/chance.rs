//! What is drawn by lot, the same on every platform.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::level::Level;

/// What a seed is drawn for: the same seed gives unrelated numbers for each.
#[derive(Clone, Copy)]
pub(crate) enum Purpose {
    Identity = 1,
    Setting = 2,
}

pub(crate) struct Chance(ChaCha8Rng);

impl Chance {
    pub fn new(seed: u64, purpose: Purpose) -> Self {
        // The key is written out here: how a library widens a short seed may change with its version.
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        let mut generator = ChaCha8Rng::from_seed(key);
        generator.set_stream(purpose as u64);
        Self(generator)
    }

    /// Every level is as likely as any other.
    pub fn level(&mut self) -> Level {
        // 24 bits are what an f32 holds exactly.
        let steps = (self.0.next_u32() >> 8) as f32;
        Level::new(steps / 8_388_608.0 - 1.0)
    }

    /// Every one is as likely as any other.
    pub fn one_of<T: Copy, const N: usize>(&mut self, all: [T; N]) -> T {
        let index = (u64::from(self.0.next_u32()) * N as u64) >> 32;
        all[index as usize]
    }

    pub fn coin(&mut self) -> bool {
        self.one_of([false, true])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purposes_draw_unrelated_numbers() {
        let first = |purpose| Chance::new(7, purpose).level();
        assert_ne!(first(Purpose::Identity), first(Purpose::Setting));
    }

    #[test]
    fn choices_are_even() {
        let mut chance = Chance::new(1, Purpose::Identity);
        let mut counts = [0; 3];
        for _ in 0..3000 {
            counts[chance.one_of([0, 1, 2])] += 1;
        }
        assert!(counts.iter().all(|n| (900..1100).contains(n)), "{counts:?}");
    }
}
