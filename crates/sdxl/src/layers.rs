//! Layers that every part shares, built from weight files.

use candle_core::{CpuStorage, CustomOp3, D, DType, Layout, Shape, Tensor};
use candle_nn::{Conv2d, Conv2dConfig, LayerNorm, Linear};
use rayon::prelude::*;

use crate::Error;
use crate::weights::Weights;

type Compute<T> = candle_core::Result<T>;

/// A linear layer with bias, [out, in].
pub fn linear(weights: &Weights, input: usize, output: usize) -> Result<Linear, Error> {
    let bias = weights.get("bias", &[output])?;
    Ok(Linear::new(weights.get("weight", &[output, input])?, Some(bias)))
}

/// A layer norm over the last dimension.
pub fn layer_norm(weights: &Weights, width: usize, eps: f64) -> Result<LayerNorm, Error> {
    let weight = weights.get("weight", &[width])?;
    Ok(LayerNorm::new(weight, weights.get("bias", &[width])?, eps))
}

/// A square convolution with bias; `padding` on all sides.
pub fn conv2d(
    weights: &Weights,
    input: usize,
    output: usize,
    kernel: usize,
    stride: usize,
    padding: usize,
) -> Result<Conv2d, Error> {
    let weight = weights.get("weight", &[output, input, kernel, kernel])?;
    let bias = weights.get("bias", &[output])?;
    let config = Conv2dConfig { padding, stride, ..Conv2dConfig::default() };
    Ok(Conv2d::new(weight, Some(bias), config))
}

/// A 3×3 convolution that keeps the size.
pub fn conv3x3(weights: &Weights, input: usize, output: usize) -> Result<Conv2d, Error> {
    conv2d(weights, input, output, 3, 1, 1)
}

/// x · weightᵀ + bias over the last dimension, for a weight that is held elsewhere.
pub fn apply_linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Compute<Tensor> {
    let width = x.dim(D::Minus1)?;
    let rows = x.elem_count() / width;
    let mut shape = x.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = weight.dim(0)?;
    }
    let y = x.reshape((rows, width))?.matmul(&weight.t()?)?.reshape(shape)?;
    match bias {
        None => Ok(y),
        Some(bias) => y.broadcast_add(bias),
    }
}

/// A group norm, with or without the SiLU that follows most of them.
#[derive(Debug)]
pub struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
    groups: usize,
    eps: f64,
}

impl GroupNorm {
    /// Loads the norm of `channels` channels.
    pub fn load(
        weights: &Weights,
        channels: usize,
        groups: usize,
        eps: f64,
    ) -> Result<GroupNorm, Error> {
        if groups == 0 || !channels.is_multiple_of(groups) {
            let what = format!("{channels} channels are not a multiple of {groups} norm groups");
            return Err(Error::unsupported(weights.path(), what));
        }
        let weight = weights.get("weight", &[channels])?;
        Ok(GroupNorm { weight, bias: weights.get("bias", &[channels])?, groups, eps })
    }

    /// The norm of `x` [b, c, h, w].
    pub fn forward(&self, x: &Tensor) -> Compute<Tensor> {
        self.apply(x, false)
    }

    /// SiLU of the norm of `x` [b, c, h, w].
    pub fn forward_silu(&self, x: &Tensor) -> Compute<Tensor> {
        self.apply(x, true)
    }

    fn apply(&self, x: &Tensor, silu: bool) -> Compute<Tensor> {
        if x.device().is_cpu() && x.dtype() == DType::F32 {
            let op = CpuGroupNorm { groups: self.groups, eps: self.eps as f32, silu };
            return x.contiguous()?.apply_op3_no_bwd(&self.weight, &self.bias, &op);
        }
        let y = self.composed(x)?;
        if silu { y.silu() } else { Ok(y) }
    }

    /// The norm from the tensor library's own operations, statistics in f32.
    fn composed(&self, x: &Tensor) -> Compute<Tensor> {
        let (b, c, h, w) = x.dims4()?;
        let grouped = x.to_dtype(DType::F32)?.reshape((b, self.groups, c / self.groups * h * w))?;
        let centred = grouped.broadcast_sub(&grouped.mean_keepdim(2)?)?;
        let deviation = (centred.sqr()?.mean_keepdim(2)? + self.eps)?.sqrt()?;
        let normed = centred.broadcast_div(&deviation)?.reshape((b, c, h, w))?;
        let weight = self.weight.to_dtype(DType::F32)?.reshape((1, c, 1, 1))?;
        let bias = self.bias.to_dtype(DType::F32)?.reshape((1, c, 1, 1))?;
        normed.broadcast_mul(&weight)?.broadcast_add(&bias)?.to_dtype(x.dtype())
    }
}

/// Group norm and SiLU in two passes over memory, one group per task.
struct CpuGroupNorm {
    groups: usize,
    eps: f32,
    silu: bool,
}

impl CustomOp3 for CpuGroupNorm {
    fn name(&self) -> &'static str {
        "group-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Compute<(CpuStorage, Shape)> {
        let (_, channels, h, w) = layout.shape().dims4()?;
        let x = contiguous_f32(x, layout)?;
        let weight = contiguous_f32(weight, weight_layout)?;
        let bias = contiguous_f32(bias, bias_layout)?;
        let per_group = channels / self.groups;
        let mut out = vec![0f32; x.len()];
        let size = (per_group * h * w).max(1);
        out.par_chunks_mut(size).zip(x.par_chunks(size)).enumerate().for_each(|(i, (out, x))| {
            let first = i % self.groups * per_group;
            let affine = weight[first..].iter().copied().zip(bias[first..].iter().copied());
            self.normalise(x, out, h * w, affine);
        });
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

impl CpuGroupNorm {
    fn normalise(
        &self,
        x: &[f32],
        out: &mut [f32],
        plane: usize,
        affine: impl Iterator<Item = (f32, f32)>,
    ) {
        let count = x.len() as f32;
        let mean = lane_sum(x, |v| v) / count;
        let variance = lane_sum(x, |v| (v - mean) * (v - mean)) / count;
        let inverse = 1.0 / (variance + self.eps).sqrt();
        let planes = x.chunks(plane).zip(out.chunks_mut(plane));
        for ((x, out), (weight, bias)) in planes.zip(affine) {
            let scale = weight * inverse;
            let shift = bias - mean * scale;
            for (out, &v) in out.iter_mut().zip(x) {
                *out = v * scale + shift;
            }
            if self.silu {
                out.iter_mut().for_each(|v| *v /= 1.0 + (-*v).exp());
            }
        }
    }
}

/// Σ f(x) in eight independent lanes: vectorised, and more exact than one running sum.
fn lane_sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut total = 0f64;
    for block in x.chunks(4096) {
        let mut lanes = [0f32; 8];
        let chunks = block.chunks_exact(8);
        let rest: f32 = chunks.remainder().iter().map(|&v| f(v)).sum();
        for chunk in chunks {
            for (lane, &v) in lanes.iter_mut().zip(chunk) {
                *lane += f(v);
            }
        }
        total += f64::from(lanes.iter().sum::<f32>() + rest);
    }
    total as f32
}

fn contiguous_f32<'a>(storage: &'a CpuStorage, layout: &Layout) -> Compute<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        candle_core::bail!("group-norm needs contiguous tensors")
    };
    Ok(&storage.as_slice::<f32>()?[start..end])
}
