//! Layers that every part shares, built from weight files.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, D, DType, Layout, Shape, Tensor};
use candle_nn::ops;
use pulp::Arch;
use rayon::prelude::*;

use crate::Error;
use crate::cpu::{Operand, Size, add_product, contiguous_f32, gelu, silu};
use crate::gradients;
use crate::weights::Weights;

type Compute<T> = candle_core::Result<T>;

/// A linear layer with bias.
#[derive(Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    /// Loads weight [output, input] and bias [output].
    ///
    /// # Errors
    /// Missing tensors and wrong shapes.
    pub fn load(weights: &Weights, input: usize, output: usize) -> Result<Linear, Error> {
        let bias = weights.get("bias", &[output])?;
        Ok(Linear {
            weight: weights.get("weight", &[output, input])?,
            bias,
        })
    }

    /// The map of the last dimension.
    ///
    /// # Errors
    /// Shapes that do not fit; a failing device.
    pub fn forward(&self, x: &Tensor) -> Compute<Tensor> {
        apply_linear(x, &self.weight, Some(&self.bias))
    }
}

/// A layer norm over the last dimension.
#[derive(Debug)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// Loads the norm of `width` numbers.
    ///
    /// # Errors
    /// Missing tensors and wrong shapes.
    pub fn load(weights: &Weights, width: usize, eps: f64) -> Result<LayerNorm, Error> {
        let weight = weights.get("weight", &[width])?;
        Ok(LayerNorm {
            weight,
            bias: weights.get("bias", &[width])?,
            eps,
        })
    }

    /// From a weight and a bias.
    #[cfg(test)]
    pub fn of(weight: Tensor, bias: Tensor, eps: f64) -> LayerNorm {
        LayerNorm { weight, bias, eps }
    }

    /// The norm of the last dimension.
    ///
    /// # Errors
    /// Shapes that do not fit; a failing device.
    pub fn forward(&self, x: &Tensor) -> Compute<Tensor> {
        let (weight, bias, eps) = (&self.weight, &self.bias, self.eps as f32);
        let tracked = x.track_op() || weight.track_op() || bias.track_op();
        if !tracked {
            return ops::layer_norm(&x.contiguous()?, weight, bias, eps);
        }
        // The tensor library's fast operation has no gradient, and says nothing of it.
        if x.device().is_cpu() && x.dtype() == DType::F32 {
            let op = CpuLayerNorm { eps };
            return x.contiguous()?.apply_op3(weight, bias, op);
        }
        ops::layer_norm_slow(x, weight, bias, eps)
    }
}

/// x · weightᵀ + bias over the last dimension, for a weight that is held elsewhere.
///
/// # Errors
/// Shapes that do not fit; a failing device.
pub fn apply_linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Compute<Tensor> {
    if x.device().is_cpu() && x.dtype() == DType::F32 {
        let (x, weight) = (x.contiguous()?, weight.contiguous()?);
        return match bias {
            None => x.apply_op2(&weight, CpuLinear),
            Some(bias) => x.apply_op3(&weight, bias, CpuLinear),
        };
    }
    let width = x.dim(D::Minus1)?;
    let mut shape = x.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = weight.dim(0)?;
    }
    let y = if x.device().is_cpu() && x.rank() > 1 {
        // Sample by sample, as in `linear_f32`.
        let samples = x.reshape((shape[0], (), width))?;
        let weight = weight.t()?.broadcast_left(shape[0])?;
        samples.matmul(&weight)?
    } else {
        x.reshape(((), width))?.matmul(&weight.t()?)?
    };
    let y = y.reshape(shape)?;
    match bias {
        None => Ok(y),
        Some(bias) => y.broadcast_add(bias),
    }
}

/// The product is added onto the bias: one pass over the result less.
struct CpuLinear;

impl CustomOp2 for CpuLinear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Compute<(CpuStorage, Shape)> {
        let weight = contiguous_f32(weight, weight_layout)?;
        linear_f32(
            contiguous_f32(x, layout)?,
            layout,
            weight,
            weight_layout,
            &[],
        )
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Compute<(Option<Tensor>, Option<Tensor>)> {
        let (x, weight, _) = gradients::linear(x, weight, None, grad)?;
        Ok((x, weight))
    }
}

impl CustomOp3 for CpuLinear {
    fn name(&self) -> &'static str {
        "linear-bias"
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
        let weight = contiguous_f32(weight, weight_layout)?;
        let bias = contiguous_f32(bias, bias_layout)?;
        linear_f32(
            contiguous_f32(x, layout)?,
            layout,
            weight,
            weight_layout,
            bias,
        )
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Compute<gradients::Three> {
        gradients::linear(x, weight, Some(bias), grad)
    }
}

/// An empty bias is none.
fn linear_f32(
    x: &[f32],
    layout: &Layout,
    weight: &[f32],
    weight_layout: &Layout,
    bias: &[f32],
) -> Compute<(CpuStorage, Shape)> {
    let (output, input) = weight_layout.shape().dims2()?;
    let mut dims = layout.dims().to_vec();
    if dims.pop() != Some(input) || !(bias.is_empty() || bias.len() == output) {
        candle_core::bail!(
            "linear: {:?} does not fit [{output}, {input}]",
            layout.shape()
        )
    }
    // Samples are multiplied one by one: how a product is rounded depends on its size, and a picture
    // must not depend on its neighbours in the batch.
    let samples = dims.first().copied().unwrap_or(1);
    let rows = dims.iter().skip(1).product::<usize>();
    dims.push(output);
    let weight = Operand {
        data: weight,
        row_stride: 1,
        column_stride: input,
    };
    let mut out = if bias.is_empty() {
        vec![0f32; samples * rows * output]
    } else {
        bias.repeat(samples * rows)
    };
    let size = Size {
        m: rows,
        n: output,
        k: input,
    };
    let inputs = x.chunks_exact((rows * input).max(1));
    for (x, out) in inputs.zip(out.chunks_exact_mut((rows * output).max(1))) {
        let x = Operand {
            data: x,
            row_stride: input,
            column_stride: 1,
        };
        // SAFETY: `out` holds `rows` rows of `output` numbers and is not shared.
        #[allow(unsafe_code, reason = "the product is added onto the bias in place")]
        unsafe {
            add_product(out.as_mut_ptr(), output, size, x, weight, parallelism(size));
        }
    }
    Ok((CpuStorage::F32(out), Shape::from(dims)))
}

/// Threads are worth waking from about a million products on.
fn parallelism(size: Size) -> gemm::Parallelism {
    if size.m * size.n * size.k < 1 << 20 {
        return gemm::Parallelism::None;
    }
    gemm::Parallelism::Rayon(rayon::current_num_threads())
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
    ///
    /// # Errors
    /// Missing tensors, wrong shapes, and channels that are no multiple of the groups.
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
        Ok(GroupNorm {
            weight,
            bias: weights.get("bias", &[channels])?,
            groups,
            eps,
        })
    }

    /// From a weight and a bias.
    #[cfg(test)]
    pub fn of(weight: Tensor, bias: Tensor, groups: usize, eps: f64) -> GroupNorm {
        GroupNorm {
            weight,
            bias,
            groups,
            eps,
        }
    }

    /// The norm of `x` [b, c, h, w].
    ///
    /// # Errors
    /// Shapes that do not fit; a failing device.
    pub fn forward(&self, x: &Tensor) -> Compute<Tensor> {
        self.apply(x, false)
    }

    /// SiLU of the norm of `x` [b, c, h, w].
    ///
    /// # Errors
    /// As [`GroupNorm::forward`].
    pub fn forward_silu(&self, x: &Tensor) -> Compute<Tensor> {
        self.apply(x, true)
    }

    fn apply(&self, x: &Tensor, silu: bool) -> Compute<Tensor> {
        if x.device().is_cpu() && x.dtype() == DType::F32 {
            let op = CpuGroupNorm {
                groups: self.groups,
                eps: self.eps as f32,
                silu,
            };
            return x.contiguous()?.apply_op3(&self.weight, &self.bias, op);
        }
        let y = self.composed(x)?;
        if silu { y.silu() } else { Ok(y) }
    }

    /// The norm from the tensor library's own operations, statistics in f32.
    fn composed(&self, x: &Tensor) -> Compute<Tensor> {
        let (b, c, h, w) = x.dims4()?;
        let grouped = x
            .to_dtype(DType::F32)?
            .reshape((b, self.groups, c / self.groups * h * w))?;
        let centred = grouped.broadcast_sub(&grouped.mean_keepdim(2)?)?;
        let deviation = (centred.sqr()?.mean_keepdim(2)? + self.eps)?.sqrt()?;
        let normed = centred.broadcast_div(&deviation)?.reshape((b, c, h, w))?;
        let weight = self.weight.to_dtype(DType::F32)?.reshape((1, c, 1, 1))?;
        let bias = self.bias.to_dtype(DType::F32)?.reshape((1, c, 1, 1))?;
        normed
            .broadcast_mul(&weight)?
            .broadcast_add(&bias)?
            .to_dtype(x.dtype())
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
        out.par_chunks_mut(size)
            .zip(x.par_chunks(size))
            .enumerate()
            .for_each(|(i, (out, x))| {
                let first = i % self.groups * per_group;
                let affine = weight[first..]
                    .iter()
                    .copied()
                    .zip(bias[first..].iter().copied());
                self.normalise(x, out, h * w, affine);
            });
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Compute<gradients::Three> {
        let norm = gradients::GroupNormSizes {
            count: self.groups,
            eps: self.eps,
            silu: self.silu,
        };
        gradients::group_norm(norm, x, weight, bias, grad)
    }
}

/// The layer norm of what is trained.
struct CpuLayerNorm {
    eps: f32,
}

impl CustomOp3 for CpuLayerNorm {
    fn name(&self) -> &'static str {
        "layer-norm"
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
        let x = contiguous_f32(x, layout)?;
        let weight = contiguous_f32(weight, weight_layout)?;
        let bias = contiguous_f32(bias, bias_layout)?;
        let width = weight.len().max(1);
        let mut out = vec![0f32; x.len()];
        let norm = CpuGroupNorm {
            groups: 1,
            eps: self.eps,
            silu: false,
        };
        out.par_chunks_mut(width)
            .zip(x.par_chunks(width))
            .for_each(|(out, x)| {
                let affine = weight.iter().copied().zip(bias.iter().copied());
                norm.normalise(x, out, 1, affine);
            });
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Compute<gradients::Three> {
        gradients::layer_norm(self.eps, x, weight, bias, grad)
    }
}

impl CpuGroupNorm {
    /// As the widest instructions at hand do it.
    fn normalise(
        &self,
        x: &[f32],
        out: &mut [f32],
        plane: usize,
        affine: impl Iterator<Item = (f32, f32)>,
    ) {
        Arch::new().dispatch(|| self.normalise_row(x, out, plane, affine));
    }

    #[inline(always)]
    fn normalise_row(
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
                for v in out {
                    *v = silu(*v);
                }
            }
        }
    }
}

/// Σ f(x) in eight independent lanes: vectorised, and more exact than one running sum.
#[inline(always)]
pub(crate) fn lane_sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
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

/// GEGLU: the first half of the last dimension times the exact GELU of the second.
pub fn geglu(x: &Tensor) -> Compute<Tensor> {
    if x.device().is_cpu() && x.dtype() == DType::F32 {
        return x.contiguous()?.apply_op1(CpuGeglu);
    }
    let halves = x.chunk(2, D::Minus1)?;
    &halves[0] * halves[1].gelu_erf()?
}

struct CpuGeglu;

impl CustomOp1 for CpuGeglu {
    fn name(&self) -> &'static str {
        "geglu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Compute<(CpuStorage, Shape)> {
        let mut dims = layout.dims().to_vec();
        let Some(last) = dims.last_mut() else {
            candle_core::bail!("geglu of a scalar")
        };
        let half = *last / 2;
        *last = half;
        let x = contiguous_f32(x, layout)?;
        let mut out = vec![0f32; x.len() / 2];
        if half > 0 {
            out.par_chunks_mut(half)
                .zip(x.par_chunks(2 * half))
                .for_each(|(out, x)| {
                    let (value, gate) = x.split_at(half);
                    for ((out, &value), &gate) in out.iter_mut().zip(value).zip(gate) {
                        *out = value * gelu(gate);
                    }
                });
        }
        Ok((CpuStorage::F32(out), Shape::from(dims)))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Compute<Option<Tensor>> {
        gradients::geglu(x, grad)
    }
}
