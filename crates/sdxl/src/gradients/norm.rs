//! Gradients of the norms. With x̂ the normed input and d the gradient of x̂, that of x is
//! (d − mean(d) − x̂ · mean(d · x̂)) / deviation.

use candle_core::{Result as Compute, Tensor};
use pulp::Arch;
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

    /// Of one row, as the widest instructions at hand do it.
    fn one(self, numbers: [&[f32]; 4], of_x: &mut [f32]) -> Affine {
        Arch::new().dispatch(|| self.one_row(numbers, of_x))
    }

    #[inline(always)]
    fn one_row(self, [x, grad, weight, bias]: [&[f32]; 4], of_x: &mut [f32]) -> Affine {
        let count = x.len() as f32;
        let mean = lane_sum(x, |v| v) / count;
        let variance = lane_sum(x, |v| (v - mean) * (v - mean)) / count;
        let inverse = 1.0 / (variance + self.eps).sqrt();
        let normed = |x: f32| (x - mean) * inverse;
        let sums: Affine = if self.plane == 1 {
            let both = x.iter().zip(grad);
            of_x.iter_mut()
                .zip(grad.iter().zip(weight))
                .for_each(|(out, (grad, weight))| *out = grad * weight);
            both.map(|(&x, &grad)| (grad * normed(x), grad)).collect()
        } else {
            let planes = x
                .chunks_exact(self.plane)
                .zip(grad.chunks_exact(self.plane))
                .zip(of_x.chunks_exact_mut(self.plane));
            let affine = weight.iter().zip(bias);
            planes
                .zip(affine)
                .map(|(((x, grad), out), (&weight, &bias))| {
                    out.copy_from_slice(grad);
                    if self.silu {
                        for (out, &x) in out.iter_mut().zip(x) {
                            *out *= silu_slope(normed(x) * weight + bias);
                        }
                    }
                    let level = lane_sum(out, |v| v);
                    let spread = lane_sum_of_products(out, x, normed);
                    for v in out.iter_mut() {
                        *v *= weight;
                    }
                    (spread, level)
                })
                .collect()
        };
        let of_mean = lane_sum(of_x, |v| v) / count;
        let of_spread = lane_sum_of_products(of_x, x, normed) / count;
        for (out, &x) in of_x.iter_mut().zip(x) {
            *out = inverse * (*out - of_mean - normed(x) * of_spread);
        }
        sums
    }
}

/// Σ a · f(b) in eight independent lanes, as [`lane_sum`].
#[inline(always)]
fn lane_sum_of_products(a: &[f32], b: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut total = 0f64;
    for (a, b) in a.chunks(4096).zip(b.chunks(4096)) {
        let (a, a_rest) = a.as_chunks::<8>();
        let (b, b_rest) = b.as_chunks::<8>();
        let mut lanes = [0f32; 8];
        for (a, b) in a.iter().zip(b) {
            for i in 0..8 {
                lanes[i] += a[i] * f(b[i]);
            }
        }
        let rest: f32 = a_rest.iter().zip(b_rest).map(|(&a, &b)| a * f(b)).sum();
        total += f64::from(lanes.iter().sum::<f32>() + rest);
    }
    total as f32
}

/// The slope of x · sigmoid(x).
#[inline(always)]
fn silu_slope(x: f32) -> f32 {
    let share = 1.0 / (1.0 + exp(-x));
    share * (1.0 + x * (1.0 - share))
}
