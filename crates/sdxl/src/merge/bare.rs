//! The attention projections alone, without the UNet around them: to measure a merge of full size.

use candle_core::{DType, Device};

use super::{AttentionMatrix, LowRankUpdate, Matrices};
use crate::Error;
use crate::random::Random;

/// Attention projections with random weights.
pub struct BareMatrices(Matrices);

impl BareMatrices {
    /// Matrices of these names and shapes, made on the device.
    ///
    /// # Errors
    /// Out of memory; a failing device.
    pub fn random(
        list: &[AttentionMatrix],
        dtype: DType,
        device: &Device,
        seed: u64,
    ) -> Result<BareMatrices, Error> {
        let mut matrices = Matrices::default();
        for AttentionMatrix { name, rows, cols } in list {
            let name_of_weight = format!("{name}.weight");
            let base = Random::new(seed).draw(&name_of_weight, &[*rows, *cols], device)?;
            matrices.insert(name, base.to_dtype(dtype)?);
        }
        Ok(BareMatrices(matrices))
    }

    /// As [`crate::Sdxl::merge`].
    ///
    /// # Errors
    /// As [`crate::Sdxl::merge`].
    pub fn merge(&mut self, updates: &[LowRankUpdate]) -> Result<(), Error> {
        self.0.merge(updates)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Tensor;

    use super::*;

    #[test]
    fn updates_change_the_matrices_that_they_name() {
        let matrix = |name: &str| AttentionMatrix {
            name: name.to_owned(),
            rows: 6,
            cols: 4,
        };
        let list = [matrix("a.to_q"), matrix("a.to_k")];
        let mut bare = BareMatrices::random(&list, DType::F16, &Device::Cpu, 1).unwrap();
        let weight = |bare: &BareMatrices, name| {
            let weight = bare.0.named(name).unwrap().to_dtype(DType::F32).unwrap();
            weight.to_vec2::<f32>().unwrap()
        };
        let before = ["a.to_q", "a.to_k"].map(|name| weight(&bare, name));
        let ones = |shape| Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap();
        let update = LowRankUpdate {
            matrix: "a.to_k".to_owned(),
            down: ones((2, 4)),
            up: ones((6, 2)),
            scale: 1.0,
        };
        bare.merge(&[update]).unwrap();
        assert_eq!(weight(&bare, "a.to_q"), before[0]);
        let moved = weight(&bare, "a.to_k")[5][3] - before[1][5][3];
        assert!((moved - 2.0).abs() < 1e-2, "{moved}");
    }
}
