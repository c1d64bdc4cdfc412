//! Sinusoidal embeddings of timesteps and time ids, and the MLP behind them.

use candle_core::{Device, Result as Compute, Tensor};

use crate::Error;
use crate::layers::Linear;
use crate::weights::Weights;

/// How sinusoids are laid out.
#[derive(Clone, Copy, Debug)]
pub struct Sinusoids {
    /// (cos, sin) rather than (sin, cos).
    pub flip: bool,
    /// Shift in the frequencies' denominator.
    pub shift: f64,
}

impl Sinusoids {
    /// [values, dim] in f32, whatever the model's type: f16 and bf16 cannot tell timesteps apart.
    pub fn embed(self, values: &[f32], dim: usize, device: &Device) -> Compute<Tensor> {
        let half = dim / 2;
        let mut out = Vec::with_capacity(values.len() * dim);
        for &value in values {
            let angle = |i: usize| {
                let exponent =
                    -(10_000f64.ln()) as f32 * i as f32 / (half as f64 - self.shift) as f32;
                value * exponent.exp()
            };
            let sin = (0..half).map(|i| angle(i).sin());
            let cos = (0..half).map(|i| angle(i).cos());
            if self.flip {
                out.extend(cos.chain(sin));
            } else {
                out.extend(sin.chain(cos));
            }
            out.extend(std::iter::repeat_n(0.0, dim - 2 * half));
        }
        Tensor::from_vec(out, (values.len(), dim), device)
    }
}

/// Two linear layers with SiLU between.
#[derive(Debug)]
pub struct EmbeddingMlp {
    first: Linear,
    second: Linear,
}

impl EmbeddingMlp {
    pub fn load(weights: &Weights, input: usize, output: usize) -> Result<EmbeddingMlp, Error> {
        Ok(EmbeddingMlp {
            first: Linear::load(&weights.pp("linear_1"), input, output)?,
            second: Linear::load(&weights.pp("linear_2"), output, output)?,
        })
    }

    pub fn forward(&self, x: &Tensor) -> Compute<Tensor> {
        self.second.forward(&self.first.forward(x)?.silu()?)
    }
}
