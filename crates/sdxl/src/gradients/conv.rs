//! Gradients of a convolution with bias.

use candle_core::{Result as Compute, Tensor};
use gemm::Parallelism;
use rayon::prelude::*;

use super::{Three, wanted, with_numbers};
use crate::conv::{ConvShape, Plan};
use crate::cpu::{Operand, Size, add_product};
use crate::layers::lane_sum;

/// A batch is cut into so many parts whose sums are added in order, whatever the number of threads.
const PARTS: usize = 8;

/// Of the convolution of `x` [b, input, h, w] with `weight` [output, input, k, k], for `grad` [b, output, h', w'].
pub fn conv(
    shape: ConvShape,
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    grad: &Tensor,
) -> Compute<Three> {
    let grad = grad.contiguous()?;
    let of_x = wanted(x, || of_input(shape, x, weight, &grad))?;
    let of_weight = wanted(weight, || {
        let plan = Plan::of(shape, x.shape(), weight.shape())?;
        let sums = with_numbers(x, |x| {
            with_numbers(&grad, |grad| plan.weight_gradient(x, grad))
        })??;
        Tensor::from_vec(sums, weight.shape(), x.device())
    })?;
    let of_bias = wanted(bias, || {
        let (_, output, h, w) = grad.dims4()?;
        let sums = with_numbers(&grad, |grad| plane_sums(grad, output, h * w))?;
        Tensor::from_vec(sums, output, x.device())
    })?;
    Ok((of_x, of_weight, of_bias))
}

/// A convolution of the gradient, its numbers set `stride` apart, with the kernel turned by half a turn.
fn of_input(shape: ConvShape, x: &Tensor, weight: &Tensor, grad: &Tensor) -> Compute<Tensor> {
    let (_, input, height, width) = x.dims4()?;
    let kernel = shape.kernel;
    if shape.padding >= kernel {
        candle_core::bail!("a convolution that pads by its kernel or more has no fast gradient")
    }
    let side = |from: usize| from + 2 * shape.padding + 1 - kernel;
    let grad = spaced(grad, shape.stride, (side(height), side(width)))?;
    let turned = with_numbers(weight, |weight| turned(weight, input, kernel * kernel))?;
    let (output, ..) = weight.dims4()?;
    let turned = Tensor::from_vec(turned, (input, output, kernel, kernel), x.device())?;
    let back = ConvShape {
        kernel,
        stride: 1,
        padding: kernel - 1 - shape.padding,
    };
    let plan = Plan::of(back, grad.shape(), turned.shape())?;
    let mut out = vec![0f32; x.elem_count()];
    with_numbers(&grad, |grad| {
        with_numbers(&turned, |turned| plan.run(grad, turned, &mut out))
    })??;
    Tensor::from_vec(out, x.shape(), x.device())
}

/// [b, c, h, w] with `stride` - 1 zeros between its numbers, and zeros behind them up to `to`.
fn spaced(x: &Tensor, stride: usize, to: (usize, usize)) -> Compute<Tensor> {
    let (b, c, h, w) = x.dims4()?;
    if stride == 1 {
        return Ok(x.clone());
    }
    let mut out = vec![0f32; b * c * to.0 * to.1];
    with_numbers(x, |x| {
        let planes = out.par_chunks_exact_mut((to.0 * to.1).max(1));
        planes
            .zip(x.par_chunks_exact((h * w).max(1)))
            .for_each(|(out, x)| {
                for (row, x) in x.chunks_exact(w).enumerate() {
                    let out = &mut out[row * stride * to.1..][..to.1];
                    let places = out.iter_mut().step_by(stride);
                    places.zip(x).for_each(|(out, x)| *out = *x);
                }
            });
    })?;
    Tensor::from_vec(out, (b, c, to.0, to.1), x.device())
}

/// [output, input, k·k] as [input, output, k·k] with every kernel backwards.
fn turned(weight: &[f32], input: usize, kernel: usize) -> Vec<f32> {
    let output = weight.len() / (input * kernel).max(1);
    let mut out = Vec::with_capacity(weight.len());
    for i in 0..input {
        for o in 0..output {
            let one = &weight[(o * input + i) * kernel..][..kernel];
            out.extend(one.iter().rev());
        }
    }
    out
}

/// The sum over batch and pixels of each channel.
fn plane_sums(grad: &[f32], channels: usize, plane: usize) -> Vec<f32> {
    let mut sums = vec![0f32; channels];
    for sample in grad.chunks_exact((channels * plane).max(1)) {
        for (sum, plane) in sums.iter_mut().zip(sample.chunks_exact(plane)) {
            *sum += lane_sum(plane, |v| v);
        }
    }
    sums
}

impl Plan {
    /// [output, input, k, k]: of every sample the product of the gradient with the columns that the kernel saw.
    fn weight_gradient(self, x: &[f32], grad: &[f32]) -> Vec<f32> {
        if let Some(direct) = self.direct() {
            let mut sum = vec![0f32; self.output * self.depth()];
            direct.add_weight_gradient(x, grad, &mut sum);
            return sum;
        }
        let inputs = self.input * self.from.0 * self.from.1;
        let outputs = self.output * self.to.0 * self.to.1;
        let batch = x.len() / inputs.max(1);
        let samples = batch.div_ceil(PARTS).max(1);
        let parts: Vec<Vec<f32>> = x
            .par_chunks((inputs * samples).max(1))
            .zip(grad.par_chunks((outputs * samples).max(1)))
            .map(|(x, grad)| {
                let mut sum = vec![0f32; self.output * self.depth()];
                for (x, grad) in x.chunks_exact(inputs).zip(grad.chunks_exact(outputs)) {
                    self.add_weight_gradient(x, grad, &mut sum);
                }
                sum
            })
            .collect();
        let mut total = vec![0f32; self.output * self.depth()];
        for part in parts {
            total.iter_mut().zip(part).for_each(|(sum, v)| *sum += v);
        }
        total
    }

    /// Of one sample.
    fn add_weight_gradient(self, x: &[f32], grad: &[f32], sum: &mut [f32]) {
        let pixels = self.to.0 * self.to.1;
        let columns = self.gather(x, 0..self.to.0);
        let size = Size {
            m: self.output,
            n: self.depth(),
            k: pixels,
        };
        let left = Operand {
            data: grad,
            row_stride: pixels,
            column_stride: 1,
        };
        let right = Operand {
            data: &columns,
            row_stride: 1,
            column_stride: pixels,
        };
        // SAFETY: `sum` holds [output, depth] numbers and is not shared.
        #[allow(unsafe_code, reason = "the product is added in place")]
        unsafe {
            let out = sum.as_mut_ptr();
            add_product(out, self.depth(), size, left, right, Parallelism::None);
        }
    }
}
