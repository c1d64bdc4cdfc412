//! Gradients of the norms. With x̂ the normed input and d the gradient of x̂, that of x is
//! (d − mean(d) − x̂ · mean(d · x̂)) / deviation.

use candle_core::{Result as Compute, Tensor};
use rayon::prelude::*;

use super::{Three, wanted, with_numbers};
use crate::cpu::exp;
use crate::layers::lane_sum;

/// What the gradients of one group or row add to those of weight and bias, channel by channel.
type Affine = Vec<(f32, f32)>;

/// Sizes of a group norm.
#[derive(Clone, Copy)]
pub struct GroupNormSizes {
    pub count: usize,
    pub eps: f32,
    /// SiLU follows.
    pub silu: bool,
}

/// Of the group norm of `x` [b, c, h, w].
pub fn group_norm(
    norm: GroupNormSizes,
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    grad: &Tensor,
) -> Compute<Three> {
    let (batch, channels, h, w) = x.dims4()?;
    let rows = Rows {
        length: channels / norm.count * h * w,
        plane: h * w,
        repeat: norm.count,
        eps: norm.eps,
        silu: norm.silu,
    };
    rows.gradients(batch * norm.count, [x, weight, bias, grad])
}

/// Of the layer norm of the last dimension of `x`.
pub fn layer_norm(
    eps: f32,
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    grad: &Tensor,
) -> Compute<Three> {
    let length = weight.dim(0)?;
    let rows = Rows {
        length,
        plane: 1,
        repeat: 1,
        eps,
        silu: false,
    };
    rows.gradients(x.elem_count() / length.max(1), [x, weight, bias, grad])
}

/// The rows of numbers that are normed together.
#[derive(Clone, Copy)]
struct Rows {
    length: usize,
    /// So many neighbours share a weight.
    plane: usize,
    /// After so many rows the weights begin anew.
    repeat: usize,
    eps: f32,
    silu: bool,
}

impl Rows {
    fn gradients(self, count: usize, [x, weight, bias, grad]: [&Tensor; 4]) -> Compute<Three> {
        let mut of_x = vec![0f32; x.elem_count()];
        let found = with_numbers(x, |x| {
            with_numbers(grad, |grad| {
                with_numbers(weight, |weight| {
                    with_numbers(bias, |bias| {
                        self.all(count, [x, grad, weight, bias], &mut of_x)
                    })
                })
            })
        })????;
        let vector = |at: fn(&(f32, f32)) -> f32| {
            let numbers: Vec<f32> = found.iter().map(at).collect();
            Tensor::from_vec(numbers, weight.shape(), weight.device())
        };
        Ok((
            wanted(x, || Tensor::from_vec(of_x, x.shape(), x.device()))?,
            wanted(weight, || vector(|sums| sums.0))?,
            wanted(bias, || vector(|sums| sums.1))?,
        ))
    }

    /// Fills the input's gradient; the sums for weight and bias, channel by channel.
    fn all(self, count: usize, [x, grad, weight, bias]: [&[f32]; 4], of_x: &mut [f32]) -> Affine {
        let channels = self.length / self.plane;
        let rows = of_x
            .par_chunks_mut(self.length)
            .zip(x.par_chunks(self.length))
            .zip(grad.par_chunks(self.length))
            .enumerate();
        let parts: Vec<Affine> = rows
            .map(|(row, ((of_x, x), grad))| {
                let first = row % self.repeat * channels;
                let (weight, bias) = (&weight[first..], &bias[first..]);
                self.one([x, grad, weight, bias], of_x)
            })
            .collect();
        debug_assert_eq!(parts.len(), count);
        let mut total = vec![(0f32, 0f32); weight.len()];
        for (row, part) in parts.into_iter().enumerate() {
            let first = row % self.repeat * channels;
            for (sum, part) in total[first..].iter_mut().zip(part) {
                sum.0 += part.0;
                sum.1 += part.1;
            }
        }
        total
    }

    fn one(self, [x, grad, weight, bias]: [&[f32]; 4], of_x: &mut [f32]) -> Affine {
        let count = x.len() as f32;
        let mean = lane_sum(x, |v| v) / count;
        let variance = lane_sum(x, |v| (v - mean) * (v - mean)) / count;
        let inverse = 1.0 / (variance + self.eps).sqrt();
        let mut sums = Vec::with_capacity(self.length / self.plane);
        let (mut of_mean, mut of_spread) = (0f64, 0f64);
        let planes = x
            .chunks_exact(self.plane)
            .zip(grad.chunks_exact(self.plane));
        let outs = of_x.chunks_exact_mut(self.plane);
        for (channel, ((x, grad), out)) in planes.zip(outs).enumerate() {
            let (weight, bias) = (weight[channel], bias[channel]);
            let (mut spread, mut level) = (0f32, 0f32);
            for ((out, &x), &grad) in out.iter_mut().zip(x).zip(grad) {
                let normed = (x - mean) * inverse;
                let grad = if self.silu {
                    grad * silu_slope(normed * weight + bias)
                } else {
                    grad
                };
                spread += grad * normed;
                level += grad;
                *out = grad * weight;
            }
            of_mean += f64::from(level * weight);
            of_spread += f64::from(spread * weight);
            sums.push((spread, level));
        }
        let of_mean = (of_mean / f64::from(count)) as f32;
        let of_spread = (of_spread / f64::from(count)) as f32;
        for (out, &x) in of_x.iter_mut().zip(x) {
            *out = inverse * (*out - of_mean - (x - mean) * inverse * of_spread);
        }
        sums
    }
}

/// The slope of x · sigmoid(x).
fn silu_slope(x: f32) -> f32 {
    let share = 1.0 / (1.0 + exp(-x));
    share * (1.0 + x * (1.0 - share))
}
