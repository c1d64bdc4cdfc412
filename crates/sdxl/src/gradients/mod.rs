//! Gradients of the CPU's fast operations, in f32. A gradient that nobody asks for is not computed: where the base is
//! frozen, its weights' gradients would be most of the work. Attention's three share their work and come together.
//!
//! Sums over a batch are taken in an order that does not depend on the number of threads, so that a training run repeats to
//! the bit.

mod attention;
mod conv;
mod norm;

use candle_core::{CpuStorage, Result as Compute, Storage, Tensor};
use rayon::prelude::*;

pub use self::attention::attention;
pub use self::conv::conv;
pub use self::norm::{GroupNormSizes, group_norm, layer_norm};
use crate::cpu::{contiguous_f32, exp};

/// The gradients of an operation's three arguments.
pub type Three = (Option<Tensor>, Option<Tensor>, Option<Tensor>);

/// `gradient`, if `argument` is trained or comes from what is trained.
fn wanted(
    argument: &Tensor,
    gradient: impl FnOnce() -> Compute<Tensor>,
) -> Compute<Option<Tensor>> {
    argument.track_op().then(gradient).transpose()
}

/// Runs `work` on the numbers of a tensor of the CPU.
fn with_numbers<T>(tensor: &Tensor, work: impl FnOnce(&[f32]) -> T) -> Compute<T> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else {
        candle_core::bail!("the fast gradients are the CPU's")
    };
    Ok(work(contiguous_f32(storage as &CpuStorage, layout)?))
}

/// Of x · weightᵀ + bias over the last dimension.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, grad: &Tensor) -> Compute<Three> {
    let (output, input) = weight.dims2()?;
    let grad = grad.contiguous()?.reshape(((), output))?;
    let of_x = wanted(x, || grad.matmul(weight)?.reshape(x.shape()))?;
    let of_weight = wanted(weight, || {
        grad.t()?.matmul(&x.contiguous()?.reshape(((), input))?)
    })?;
    let of_bias = match bias {
        Some(bias) => wanted(bias, || {
            let sums = with_numbers(&grad, |grad| column_sums(grad, output))?;
            Tensor::from_vec(sums, output, grad.device())
        })?,
        None => None,
    };
    Ok((of_x, of_weight, of_bias))
}

/// The sums of the columns of [rows, width].
fn column_sums(rows: &[f32], width: usize) -> Vec<f32> {
    let mut sums = vec![0f32; width];
    for row in rows.chunks_exact(width.max(1)) {
        for (sum, v) in sums.iter_mut().zip(row) {
            *sum += v;
        }
    }
    sums
}

/// Of every pixel repeated in a square of two by two: their sum. `grad` [.., 2·h, 2·w].
pub fn doubled(x: &Tensor, grad: &Tensor) -> Compute<Option<Tensor>> {
    wanted(x, || {
        let (.., width) = x.dims4()?;
        let mut out = vec![0f32; x.elem_count()];
        with_numbers(grad, |grad| {
            let pairs = grad.par_chunks_exact(4 * width.max(1));
            out.par_chunks_exact_mut(width.max(1))
                .zip(pairs)
                .for_each(|(out, pair)| {
                    let (above, below) = pair.split_at(2 * width);
                    let squares = above
                        .as_chunks::<2>()
                        .0
                        .iter()
                        .zip(below.as_chunks::<2>().0);
                    for (out, ([a, b], [c, d])) in out.iter_mut().zip(squares) {
                        *out = (a + b) + (c + d);
                    }
                });
        })?;
        Tensor::from_vec(out, x.shape(), x.device())
    })
}

/// Of GEGLU: `x` [.., 2·half] is value beside gate, `grad` [.., half].
pub fn geglu(x: &Tensor, grad: &Tensor) -> Compute<Option<Tensor>> {
    wanted(x, || {
        let half = grad.dims().last().copied().unwrap_or(0);
        let found = with_numbers(x, |x| {
            with_numbers(grad, |grad| geglu_numbers(x, grad, half))
        })??;
        Tensor::from_vec(found, x.shape(), x.device())
    })
}

fn geglu_numbers(x: &[f32], grad: &[f32], half: usize) -> Vec<f32> {
    let mut out = vec![0f32; x.len()];
    let half = half.max(1);
    out.par_chunks_exact_mut(2 * half)
        .zip(x.par_chunks_exact(2 * half))
        .zip(grad.par_chunks_exact(half))
        .for_each(|((out, x), grad)| {
            let (value, gate) = x.split_at(half);
            let (of_value, of_gate) = out.split_at_mut(half);
            for i in 0..half {
                let (density, share) = normal(gate[i]);
                of_value[i] = grad[i] * gate[i] * share;
                of_gate[i] = grad[i] * value[i] * (share + gate[i] * density);
            }
        });
    out
}

/// The normal density at x and the share below it: φ(x) and Φ(x) = gelu(x) / x.
fn normal(x: f32) -> (f32, f32) {
    const DENSITY_AT_ZERO: f32 = 0.398_942_3;
    let density = DENSITY_AT_ZERO * exp(-0.5 * x * x);
    let share = if x == 0.0 {
        0.5
    } else {
        crate::cpu::gelu(x) / x
    };
    (density, share)
}

#[cfg(test)]
mod tests;
