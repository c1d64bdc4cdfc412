//! Normal noise equal to torch's on the CPU, so that a seed means the same picture everywhere.
//!
//! torch draws from an MT19937 and makes normal numbers by Box–Muller: at 16 numbers or more in
//! blocks of 16 from 24-bit uniforms, below that one by one from 53-bit uniforms with the second
//! number of each pair kept for later.

use std::f32::consts::TAU;

/// Numbers per block of the vectorised path.
const BLOCK: usize = 16;

/// A generator in the state that `torch.manual_seed(seed)` leaves. Draws continue one another.
#[derive(Clone)]
pub struct TorchNoise {
    engine: Mt19937,
    spare: Option<f64>,
}

impl TorchNoise {
    /// torch uses the seed's lower 32 bits.
    pub fn new(seed: u64) -> TorchNoise {
        TorchNoise {
            engine: Mt19937::new(seed as u32),
            spare: None,
        }
    }

    /// The next `count` numbers of N(0, 1), as one call of `torch.randn` draws them.
    pub fn draw(&mut self, count: usize) -> Vec<f32> {
        if count < BLOCK {
            return (0..count).map(|_| self.single() as f32).collect();
        }
        let mut values: Vec<f32> = (0..count).map(|_| self.uniform24()).collect();
        let whole = count / BLOCK * BLOCK;
        values[..whole].chunks_exact_mut(BLOCK).for_each(box_muller);
        if whole < count {
            // torch draws the last 16 again, over what the blocks have written.
            let last = &mut values[count - BLOCK..];
            for value in last.iter_mut() {
                *value = self.uniform24();
            }
            box_muller(last);
        }
        values
    }

    fn single(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let (u1, u2) = (self.uniform53(), self.uniform53());
        let radius = (-2.0 * (-u2).ln_1p()).sqrt();
        let angle = std::f64::consts::TAU * u1;
        self.spare = Some(radius * angle.sin());
        radius * angle.cos()
    }

    fn uniform24(&mut self) -> f32 {
        (self.engine.next() & 0x00ff_ffff) as f32 / 16_777_216.0
    }

    fn uniform53(&mut self) -> f64 {
        let high = u64::from(self.engine.next());
        let bits = (high << 32 | u64::from(self.engine.next())) & ((1 << 53) - 1);
        bits as f64 / 9_007_199_254_740_992.0
    }
}

/// Turns 16 uniforms into 16 normals: the first eight give the radii, the others the angles.
fn box_muller(block: &mut [f32]) {
    let (first, second) = block.split_at_mut(BLOCK / 2);
    for (a, b) in first.iter_mut().zip(second) {
        let radius = (-2.0 * (1.0 - *a).ln()).sqrt();
        let angle = TAU * *b;
        *a = radius * angle.cos();
        *b = radius * angle.sin();
    }
}

const STATE: usize = 624;
const SHIFT: usize = 397;

/// The Mersenne Twister of Matsumoto and Nishimura (1998), 32 bits.
#[derive(Clone)]
struct Mt19937 {
    state: [u32; STATE],
    next: usize,
}

impl Mt19937 {
    fn new(seed: u32) -> Mt19937 {
        let mut state = [0u32; STATE];
        state[0] = seed;
        for i in 1..STATE {
            let previous = state[i - 1];
            state[i] = 1_812_433_253u32
                .wrapping_mul(previous ^ (previous >> 30))
                .wrapping_add(i as u32);
        }
        Mt19937 { state, next: STATE }
    }

    fn next(&mut self) -> u32 {
        if self.next == STATE {
            self.twist();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    fn twist(&mut self) {
        for i in 0..STATE {
            let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % STATE] & 0x7fff_ffff);
            let odd = if y & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + SHIFT) % STATE] ^ (y >> 1) ^ odd;
        }
        self.next = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_is_the_published_one() {
        let mut engine = Mt19937::new(5489);
        let last = (0..10_000).map(|_| engine.next()).last();
        assert_eq!(last, Some(4_123_659_995));
    }

    #[test]
    fn small_draws_equal_torch() {
        // torch.randn(3, generator=torch.manual_seed(0))
        let expected = [1.541_0, -0.293_4, -2.178_8];
        for (ours, theirs) in TorchNoise::new(0).draw(3).iter().zip(expected) {
            assert!((ours - theirs).abs() < 5e-5);
        }
    }

    #[test]
    fn noise_is_normal_and_depends_on_the_seed() {
        let values = TorchNoise::new(1).draw(40_000);
        let mean = values.iter().sum::<f32>() / 4e4;
        let square = values.iter().map(|v| v * v).sum::<f32>() / 4e4;
        assert!(mean.abs() < 0.02 && (square - 1.0).abs() < 0.03);
        assert_ne!(values[..8], TorchNoise::new(2).draw(40_000)[..8]);
        assert_eq!(values, TorchNoise::new(1 << 32 | 1).draw(40_000));
    }
}
