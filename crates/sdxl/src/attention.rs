//! Scaled dot-product attention, behind one function.

use candle_core::{D, DType, Result, Tensor};
use candle_nn::ops::softmax_last_dim;

/// Scores held at a time (64 MiB of f32): at 4096 tokens the whole matrix would take ten times that
/// per head group.
const MAX_SCORES: usize = 1 << 24;

/// softmax(q kᵀ / √d) v per head. `q` is [b, n, heads·d], `k` and `v` [b, m, heads·d]; the result is
/// [b, n, heads·d]. Queries are taken in chunks, so that the scores never exist as a whole.
///
/// # Errors
/// Shapes that do not fit; a failing device.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<Tensor> {
    let (b, n, width) = q.dims3()?;
    let m = k.dim(1)?;
    let scale = 1.0 / ((width / heads) as f64).sqrt();
    let q = split_heads(&(q * scale)?, heads)?;
    let k = split_heads(k, heads)?.t()?;
    let v = split_heads(v, heads)?;
    let chunk = (MAX_SCORES / (b * heads * m)).clamp(1, n);
    let mut outputs = Vec::with_capacity(n.div_ceil(chunk));
    for start in (0..n).step_by(chunk) {
        let rows = q.narrow(1, start, chunk.min(n - start))?;
        outputs.push(softmax(&rows.matmul(&k)?)?.matmul(&v)?);
    }
    let joined = if outputs.len() == 1 { outputs.remove(0) } else { Tensor::cat(&outputs, 1)? };
    joined.reshape((b, heads, n, width / heads))?.transpose(1, 2)?.reshape((b, n, width))
}

/// [b, n, heads·d] → [b·heads, n, d].
fn split_heads(x: &Tensor, heads: usize) -> Result<Tensor> {
    let (b, n, width) = x.dims3()?;
    let split = x.reshape((b, n, heads, width / heads))?.transpose(1, 2)?.contiguous()?;
    split.reshape((b * heads, n, width / heads))
}

/// Softmax over the last dimension, in f32.
pub(crate) fn softmax(scores: &Tensor) -> Result<Tensor> {
    let dtype = scores.dtype();
    softmax_last_dim(&scores.to_dtype(DType::F32)?)?.to_dtype(dtype)
}

/// Attention with an additive mask [n, n], for the short sequences of text encoders.
///
/// # Errors
/// Shapes that do not fit; a failing device.
pub fn masked_attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: usize,
    mask: &Tensor,
) -> Result<Tensor> {
    let (b, n, width) = q.dims3()?;
    let scale = 1.0 / ((width / heads) as f64).sqrt();
    let q = split_heads(&(q * scale)?, heads)?;
    let k = split_heads(k, heads)?.transpose(D::Minus1, D::Minus2)?;
    let scores = q.matmul(&k)?.broadcast_add(mask)?;
    let out = softmax(&scores)?.matmul(&split_heads(v, heads)?)?;
    out.reshape((b, heads, n, width / heads))?.transpose(1, 2)?.reshape((b, n, width))
}
