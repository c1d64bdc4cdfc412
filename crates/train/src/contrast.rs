//! Metric learning: what belongs together is to be near, and far from all else in the batch.

use candle_core::{D, Result as Compute, Tensor};
use candle_nn::loss::cross_entropy;

/// Vectors of unit length along the last dimension.
///
/// # Errors
/// A failing device.
pub fn unit(x: &Tensor) -> Compute<Tensor> {
    let squares = (x.sqr()?.sum_keepdim(D::Minus1)? + 1e-12)?;
    x.broadcast_div(&squares.sqrt()?)
}

/// The contrastive loss of CLIP (Radford et al., 2021) for unit vectors [b, width] on both sides, row by row a pair: the mean
/// cross-entropy of finding the partner, in both directions, from cosines over `temperature`.
///
/// # Errors
/// Shapes that do not fit; a failing device.
pub fn loss(left: &Tensor, right: &Tensor, temperature: f64) -> Compute<Tensor> {
    let cosines = (left.matmul(&right.t()?)? / temperature)?;
    let partners: Vec<u32> = (0..left.dim(0)? as u32).collect();
    let partners = Tensor::from_vec(partners, left.dim(0)?, left.device())?;
    let there = cross_entropy(&cosines, &partners)?;
    let back = cross_entropy(&cosines.t()?.contiguous()?, &partners)?;
    (there + back)? * 0.5
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn partners_that_are_near_cost_less() {
        let vectors = |numbers: &[[f32; 2]; 2]| unit(&Tensor::new(numbers, &Device::Cpu).unwrap());
        let left = vectors(&[[3.0, 0.0], [0.0, 0.5]]).unwrap();
        let number = |right| loss(&left, right, 0.1).unwrap().to_scalar::<f32>().unwrap();
        let swapped = vectors(&[[0.0, 1.0], [1.0, 0.0]]).unwrap();
        // Cosines 1 and 0 over 0.1: ln(1 + e^-10) one way round and ln(1 + e^10) the other.
        assert!((number(&left) - 4.54e-5).abs() < 1e-6, "{}", number(&left));
        assert!((number(&swapped) - 10.000_05).abs() < 1e-4);
    }
}
