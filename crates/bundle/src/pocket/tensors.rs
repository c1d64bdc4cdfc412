//! Named tensors with random weights, the same on every machine.
//!
//! Each tensor has a generator of its own, seeded by the bundle's seed and the tensor's place, so that
//! adding a tensor changes no other. All arithmetic is on integers and single IEEE operations: no
//! `exp`, `ln` or `cos`, whose last bits differ between machines.

use std::collections::{BTreeMap, HashMap};

use half::f16;
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::layout::{Init, Layout};

impl Layout {
    /// Draws every tensor; `place` tells this file's tensors from another file's of the same name.
    pub fn draw(self, seed: u64, place: &str) -> Tensors {
        let draw_one = |(name, (shape, init)): (String, (Vec<usize>, Init))| {
            let values = draw(seed, place, &name, shape.iter().product(), init);
            (name, Tensor { shape, values })
        };
        Tensors(self.0.into_iter().map(draw_one).collect())
    }
}

fn draw(seed: u64, place: &str, name: &str, count: usize, init: Init) -> Vec<f32> {
    let std = match init {
        Init::Constant(value) => return vec![value; count],
        Init::Random(std) => std,
    };
    let mut hash = Sha256::new();
    hash.update(b"likeness pocket 1\n");
    hash.update(seed.to_le_bytes());
    hash.update(format!("{place}\n{name}\n"));
    let mut rng = ChaCha8Rng::from_seed(hash.finalize().into());
    (0..count).map(|_| bell(rng.next_u64()) * std).collect()
}

/// The sum of four uniform 16-bit numbers, brought to mean 0 and variance 1.
fn bell(bits: u64) -> f32 {
    const MEAN: i32 = 2 * 65535;
    const STD: f32 = 37_837.227; // 65536 · √(4/12)
    let parts = [bits, bits >> 16, bits >> 32, bits >> 48];
    let sum: i32 = parts.iter().map(|p| i32::from(*p as u16)).sum();
    (sum - MEAN) as f32 / STD
}

/// One tensor's shape and numbers, row-major.
#[derive(Debug)]
pub(crate) struct Tensor {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// The drawn tensors of one file.
#[derive(Debug)]
pub(crate) struct Tensors(pub BTreeMap<String, Tensor>);

impl Tensors {
    /// Changes one tensor's numbers in place; a name that is not there changes nothing.
    pub fn edit(&mut self, name: &str, change: impl FnOnce(&[usize], &mut [f32])) {
        if let Some(tensor) = self.0.get_mut(name) {
            change(&tensor.shape, &mut tensor.values);
        }
    }

    /// The safetensors file, in f32.
    pub fn to_f32_file(&self, what: &str) -> Result<Vec<u8>, Error> {
        self.to_file(what, Dtype::F32, |v| {
            v.iter().flat_map(|x| x.to_le_bytes()).collect()
        })
    }

    /// The safetensors file, in f16.
    pub fn to_f16_file(&self, what: &str) -> Result<Vec<u8>, Error> {
        let encode = |v: &[f32]| {
            v.iter()
                .flat_map(|x| f16::from_f32(*x).to_le_bytes())
                .collect()
        };
        self.to_file(what, Dtype::F16, encode)
    }

    fn to_file(
        &self,
        what: &str,
        dtype: Dtype,
        encode: impl Fn(&[f32]) -> Vec<u8>,
    ) -> Result<Vec<u8>, Error> {
        let data: Vec<Vec<u8>> = self.0.values().map(|t| encode(&t.values)).collect();
        let mut views = Vec::with_capacity(data.len());
        for ((name, tensor), bytes) in self.0.iter().zip(&data) {
            let view = TensorView::new(dtype, tensor.shape.clone(), bytes);
            views.push((name.as_str(), view.map_err(Error::encode(what))?));
        }
        // transformers refuses a file that does not say which framework's layout it has.
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        safetensors::serialize(views, Some(metadata)).map_err(Error::encode(what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_spread_that_was_asked_for() {
        let values = draw(7, "here", "x", 20_000, Init::Random(0.5));
        let mean = values.iter().sum::<f32>() / 20_000.0;
        let variance = values.iter().map(|v| v * v).sum::<f32>() / 20_000.0;
        assert!(mean.abs() < 0.02, "mean {mean}");
        assert!(
            (variance.sqrt() - 0.5).abs() < 0.01,
            "std {}",
            variance.sqrt()
        );
    }

    #[test]
    fn seed_place_and_name_each_change_the_numbers() {
        let base = draw(0, "unet", "a", 8, Init::Random(1.0));
        assert_eq!(base, draw(0, "unet", "a", 8, Init::Random(1.0)));
        for other in [(1, "unet", "a"), (0, "vae", "a"), (0, "unet", "b")] {
            assert_ne!(base, draw(other.0, other.1, other.2, 8, Init::Random(1.0)));
        }
    }
}
