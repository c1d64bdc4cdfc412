//! The few tensor operations that the encoders are made of, in f32.
//!
//! On the CPU they work in place and in parallel: candle's own use one thread or a scalar library
//! function per value, and its LayerNorm takes the variance as a difference of two large sums.

use candle_core::{CpuStorage, CustomOp1, Device, InplaceOp1, Layout, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::cpu::{Attention, add_product, contiguous};
use crate::error::{Computed, Error};
use crate::files::{Layout as Names, TensorFile};

/// Lanes of a running sum or maximum: enough for the compiler to use vector registers.
const LANES: usize = 16;
/// Values that one thread takes at a time in an elementwise operation.
const CHUNK: usize = 16 * 1024;

/// A matrix [out, in] with an optional bias [out].
pub(crate) struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
    /// The bias once more, where the CPU reads it.
    host_bias: Vec<f32>,
}

impl Linear {
    pub(crate) fn load(file: &TensorFile, name: &str, device: &Device) -> Result<Self, Error> {
        let bias = file.tensor(&format!("{name}.bias"), device)?;
        Ok(Self {
            host_bias: bias.to_vec1()?,
            bias: Some(bias),
            ..Self::load_no_bias(file, name, device)?
        })
    }

    pub(crate) fn load_no_bias(
        file: &TensorFile,
        name: &str,
        device: &Device,
    ) -> Result<Self, Error> {
        Ok(Self::from_rows(
            file.tensor(&format!("{name}.weight"), device)?,
        ))
    }

    /// From a matrix [out, in], without a bias.
    pub(crate) fn from_rows(weight: Tensor) -> Self {
        Self {
            weight,
            bias: None,
            host_bias: Vec::new(),
        }
    }

    pub(crate) fn names(names: &mut Names, name: &str, out: usize, input: usize) {
        names.insert(format!("{name}.weight"), vec![out, input]);
        names.insert(format!("{name}.bias"), vec![out]);
    }

    pub(crate) fn names_no_bias(names: &mut Names, name: &str, out: usize, input: usize) {
        names.insert(format!("{name}.weight"), vec![out, input]);
    }

    /// `[rows, in]` to `[rows, out]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Computed<Tensor> {
        if !x.device().is_cpu() {
            return self.forward_on_device(x);
        }
        let (rows, out) = (x.dim(0)?, self.weight.dim(0)?);
        let mut start = vec![0.0_f32; rows * out];
        if self.bias.is_some() {
            let rows = start.par_chunks_exact_mut(out);
            rows.for_each(|row| row.copy_from_slice(&self.host_bias));
        }
        let start = Tensor::from_vec(start, (rows, out), &Device::Cpu)?;
        add_product(&start, x, &self.weight)?;
        Ok(start)
    }

    /// `to + forward(x)`. On the CPU it is written over `to`, which nothing else may refer to.
    pub(crate) fn add_to(&self, to: Tensor, x: &Tensor) -> Computed<Tensor> {
        if !x.device().is_cpu() {
            return to + self.forward_on_device(x)?;
        }
        let to = match self.bias {
            Some(_) => in_place(to, "bias", self.host_bias.len(), |row| {
                row.iter_mut()
                    .zip(&self.host_bias)
                    .for_each(|(x, bias)| *x += bias);
            })?,
            None => to,
        };
        add_product(&to, x, &self.weight)?;
        Ok(to)
    }

    fn forward_on_device(&self, x: &Tensor) -> Computed<Tensor> {
        let product = x.matmul(&self.weight.t()?)?;
        match &self.bias {
            Some(bias) => product.broadcast_add(bias),
            None => Ok(product),
        }
    }
}

/// LayerNorm over the last dimension, with weight and bias.
pub(crate) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    host: Vec<(f32, f32)>,
    eps: f64,
}

impl LayerNorm {
    pub(crate) fn load(
        file: &TensorFile,
        name: &str,
        eps: f64,
        device: &Device,
    ) -> Result<Self, Error> {
        let weight = file.tensor(&format!("{name}.weight"), device)?;
        let bias = file.tensor(&format!("{name}.bias"), device)?;
        let host = weight.to_vec1()?.into_iter().zip(bias.to_vec1()?).collect();
        Ok(Self {
            weight,
            bias,
            host,
            eps,
        })
    }

    pub(crate) fn names(names: &mut Names, name: &str, width: usize) {
        names.insert(format!("{name}.weight"), vec![width]);
        names.insert(format!("{name}.bias"), vec![width]);
    }

    /// Any shape whose last size is the width.
    pub(crate) fn forward(&self, x: &Tensor) -> Computed<Tensor> {
        if !x.device().is_cpu() {
            return candle_nn::ops::layer_norm(x, &self.weight, &self.bias, self.eps as f32);
        }
        x.contiguous()?.apply_op1_no_bwd(self)
    }
}

impl CustomOp1 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer norm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Computed<(CpuStorage, Shape)> {
        let values = contiguous(storage, layout)?;
        let width = self.host.len();
        let mut out = vec![0.0; values.len()];
        let rows = out
            .par_chunks_exact_mut(width)
            .zip(values.par_chunks_exact(width));
        rows.for_each(|(out, row)| normalise_row(out, row, &self.host, self.eps as f32));
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

/// x · Φ(x), with the error function and not its tanh approximation.
pub(crate) fn gelu(x: Tensor) -> Computed<Tensor> {
    if !x.device().is_cpu() {
        return x.gelu_erf();
    }
    in_place(x, "gelu", CHUNK, |part| each(part, gelu_of))
}

/// x · σ(1.702 x), OpenAI CLIP's activation.
pub(crate) fn quick_gelu(x: Tensor) -> Computed<Tensor> {
    if !x.device().is_cpu() {
        return &x * candle_nn::ops::sigmoid(&(&x * 1.702)?)?;
    }
    in_place(x, "quick gelu", CHUNK, |part| each(part, quick_gelu_of))
}

/// Attention with `heads` heads: q `[t, inner]`, k and v `[s, inner]`, to `[t, inner]`. The scale is
/// 1/√(inner/heads).
pub(crate) fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Computed<Tensor> {
    if q.device().is_cpu() {
        let (q, k, v) = (q.contiguous()?, k.contiguous()?, v.contiguous()?);
        return q.apply_op3_no_bwd(&k, &v, &Attention { heads });
    }
    let (tokens, inner) = q.dims2()?;
    let scale = ((inner / heads) as f64).sqrt().recip();
    let split = |x: &Tensor| {
        let rows = x.dim(0)?;
        x.reshape((rows, heads, inner / heads))?
            .transpose(0, 1)?
            .contiguous()
    };
    let scores = split(&(q * scale)?)?.matmul(&split(k)?.transpose(1, 2)?)?;
    let mixed = candle_nn::ops::softmax_last_dim(&scores)?.matmul(&split(v)?)?;
    mixed.transpose(0, 1)?.reshape((tokens, inner))
}

/// Applies `part` to every `width` values of an f32 tensor on the CPU that nothing else refers to.
fn in_place(
    x: Tensor,
    name: &'static str,
    width: usize,
    part: impl Fn(&mut [f32]) + Sync + Send,
) -> Computed<Tensor> {
    x.inplace_op1(&Parts { name, width, part })?;
    Ok(x)
}

struct Parts<F> {
    name: &'static str,
    width: usize,
    part: F,
}

impl<F: Fn(&mut [f32]) + Sync + Send> InplaceOp1 for Parts<F> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Computed<()> {
        let CpuStorage::F32(values) = storage else {
            bail!("{} takes f32", self.name)
        };
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!("{} takes a contiguous tensor", self.name)
        };
        values[start..end]
            .par_chunks_mut(self.width)
            .for_each(&self.part);
        Ok(())
    }
}

fn each(values: &mut [f32], of: impl Fn(f32) -> f32) {
    for x in values {
        *x = of(*x);
    }
}

fn normalise_row(out: &mut [f32], row: &[f32], weight_and_bias: &[(f32, f32)], eps: f32) {
    let size = row.len() as f32;
    let mean = sum(row, |x| x) / size;
    let variance = sum(row, |x| (x - mean) * (x - mean)) / size;
    let scale = (variance + eps).sqrt().recip();
    for ((out, x), (weight, bias)) in out.iter_mut().zip(row).zip(weight_and_bias) {
        *out = (x - mean) * scale * weight + bias;
    }
}

/// softmax(scale · row), for a positive scale.
pub(crate) fn softmax_row(row: &mut [f32], scale: f32) {
    let max = fold(
        row,
        f32::NEG_INFINITY,
        |max, x| if x > max { x } else { max },
    );
    each(row, |x| exp((x - max) * scale));
    let share = sum(row, |x| x).recip();
    each(row, |x| x * share);
}

fn sum(row: &[f32], of: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let parts = row.chunks_exact(LANES);
    let rest: f32 = parts.remainder().iter().map(|x| of(*x)).sum();
    for part in parts {
        lanes
            .iter_mut()
            .zip(part)
            .for_each(|(lane, x)| *lane += of(*x));
    }
    lanes.iter().sum::<f32>() + rest
}

fn fold(row: &[f32], first: f32, combine: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [first; LANES];
    let parts = row.chunks_exact(LANES);
    let rest = parts.remainder().iter().fold(first, |a, x| combine(a, *x));
    for part in parts {
        lanes
            .iter_mut()
            .zip(part)
            .for_each(|(lane, x)| *lane = combine(*lane, *x));
    }
    lanes.iter().fold(rest, |a, x| combine(a, *x))
}

/// eˣ for x ≤ 88, to 2e-7 relative, without branches so that it vectorises: 2ⁿ · eʳ with
/// |r| ≤ ln 2 / 2 and the Taylor polynomial of degree 7. Below -87 it gives e⁻⁸⁷. NaN stays NaN.
#[inline]
fn exp(x: f32) -> f32 {
    // Adding 1.5 · 2²³ rounds to a whole number, which then sits in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = if x < -87.0 { -87.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let whole = shifted - ROUND;
    let r = x - whole * LN_2_HIGH - whole * LN_2_LOW;
    let p = 1.0 / 720.0 + r * (1.0 / 5040.0);
    let p = 1.0 / 24.0 + r * (1.0 / 120.0 + r * p);
    let p = 1.0 + r * (1.0 + r * (0.5 + r * (1.0 / 6.0 + r * p)));
    let exponent = shifted
        .to_bits()
        .wrapping_sub(ROUND.to_bits())
        .wrapping_add(127)
        << 23;
    p * f32::from_bits(exponent)
}

/// x · Φ(x), with erfc by Abramowitz and Stegun 7.1.26 (absolute error 1.5e-7).
#[inline]
fn gelu_of(x: f32) -> f32 {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = (1.0 + 0.327_591_1 * z).recip();
    let p = -1.453_152 + t * 1.061_405_4;
    let p = t * (0.254_829_6 + t * (-0.284_496_72 + t * (1.421_413_8 + t * p)));
    let tail = 0.5 * p * exp(-z * z);
    x * if x < 0.0 { tail } else { 1.0 - tail }
}

#[inline]
fn quick_gelu_of(x: f32) -> f32 {
    // e^-|y| never overflows: σ(y) = 1/(1+e^-y) for y ≥ 0 and e^y/(1+e^y) below.
    let y = 1.702 * x;
    let e = exp(-y.abs());
    x * if x < 0.0 { e } else { 1.0 } / (1.0 + e)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range() -> impl Iterator<Item = f32> {
        (-120_000..=120_000).map(|i| i as f32 * 1e-4)
    }

    #[test]
    fn exp_is_exact_to_f32() {
        for x in range()
            .map(|x| x * 7.0)
            .filter(|x| (-87.0..=88.0).contains(x))
        {
            let expected = f64::from(x).exp();
            assert!((f64::from(exp(x)) / expected - 1.0).abs() < 3e-7, "{x}");
        }
        assert!(exp(f32::NEG_INFINITY) < 1e-37);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn activations_follow_their_definitions() {
        let x = Tensor::from_iter(range(), &Device::Cpu).unwrap();
        let wide = x.to_dtype(candle_core::DType::F64).unwrap();
        let far = |a: Tensor, b: &Tensor| {
            let gap = (a.to_dtype(candle_core::DType::F64).unwrap() - b).unwrap();
            gap.abs()
                .unwrap()
                .max_all()
                .unwrap()
                .to_scalar::<f64>()
                .unwrap()
        };
        assert!(far(gelu(x.copy().unwrap()).unwrap(), &wide.gelu_erf().unwrap()) < 1e-6);
        let sigmoid = candle_nn::ops::sigmoid(&(&wide * 1.702).unwrap()).unwrap();
        assert!(far(quick_gelu(x).unwrap(), &(&wide * sigmoid).unwrap()) < 2e-6);
    }

    #[test]
    fn softmax_survives_large_scores_and_passes_nan_on() {
        let mut row = vec![1e30_f32; 19];
        row[18] = -f32::INFINITY;
        softmax_row(&mut row, 1.0);
        assert!((row[0] - 1.0 / 18.0).abs() < 1e-6 && row[18] < 1e-30);
        let mut bad = vec![0.0, f32::NAN];
        softmax_row(&mut bad, 1.0);
        assert!(bad.iter().all(|x| x.is_nan()));
    }

    #[test]
    fn layer_norm_keeps_its_accuracy_far_from_zero() {
        let far: Vec<f32> = (0..64).map(|i| 1000.0 + (i % 2) as f32).collect();
        let mut row = vec![0.0; 64];
        normalise_row(&mut row, &far, &[(2.0, 1.0); 64], 1e-5);
        assert!(
            (row[0] + 1.0).abs() < 1e-3 && (row[1] - 3.0).abs() < 1e-3,
            "{row:?}"
        );
    }
}
