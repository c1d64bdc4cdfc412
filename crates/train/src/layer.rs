//! What small networks of faces are made of: a convolution, and a PReLU behind it.

use candle_core::{Result as Compute, Tensor};
use likeness_sdxl::parts::{Conv, ConvShape, Variables, Weights};

use crate::Error;

/// 3×3 that halves height and width.
pub(crate) const HALVING: ConvShape = ConvShape {
    kernel: 3,
    stride: 2,
    padding: 1,
};

/// `conv` and `prelu` of one number.
pub(crate) struct Layer {
    conv: Conv,
    slope: Tensor,
}

impl Layer {
    /// Layer `number` of a network, from and to so many channels.
    pub fn load(
        weights: &Weights,
        number: usize,
        (from, to): (usize, usize),
        shape: ConvShape,
    ) -> Result<Layer, Error> {
        let conv = weights.pp(format!("conv{number}"));
        Ok(Layer {
            conv: Conv::load(&conv, from, to, shape)?,
            slope: weights.get(&format!("prelu{number}.slope"), &[to])?,
        })
    }

    /// [b, from, h, w] → [b, to, h', w'].
    pub fn forward(&self, x: &Tensor) -> Compute<Tensor> {
        let y = self.conv.forward(x)?;
        prelu(&y, &self.slope.reshape((1, (), 1, 1))?)
    }
}

/// Brings the layers' weights to the spread that passes through their PReLUs unchanged (He et al. 2015): from what keeps the spread
/// of a third of all that passes without them.
pub(crate) fn start(variables: &Variables) -> Result<(), Error> {
    for (name, var) in variables.all() {
        let layer = name.contains(".conv") || name.contains(".hidden");
        if layer && name.ends_with(".weight") {
            var.set(&(var.as_tensor() * 6f64.sqrt())?)?;
        }
    }
    Ok(())
}

/// What is below 0 is taken times `slope`, which broadcasts.
pub(crate) fn prelu(y: &Tensor, slope: &Tensor) -> Compute<Tensor> {
    let above = y.relu()?;
    let below = (&above - y)?;
    above - below.broadcast_mul(slope)?
}
