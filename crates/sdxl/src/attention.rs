//! Scaled dot-product attention, behind one function.

use candle_core::{CpuStorage, CustomOp3, D, DType, Layout, Result, Shape, Tensor};
use candle_nn::ops::{softmax as softmax_slow, softmax_last_dim};
use gemm::Parallelism;
use rayon::prelude::*;

use crate::cpu::{Operand, Size, add_product, contiguous_f32, exp};
use crate::gradients;

/// Scores held at a time (64 MiB in f32, beside at most two copies while their softmax is taken): at
/// 4096 tokens one sample's would take ten times that.
const MAX_SCORES: usize = 1 << 24;

/// softmax(q kᵀ / √d) v per head. `q` is [b, n, heads·d], `k` and `v` [b, m, heads·d]; the result is
/// [b, n, heads·d]. Queries are taken in chunks, so that the scores never exist as a whole. On the CPU
/// all is computed in f32.
///
/// # Errors
/// Shapes that do not fit; a failing device.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<Tensor> {
    let dtype = q.dtype();
    let fast = matches!(dtype, DType::F32 | DType::F16 | DType::BF16);
    if !q.device().is_cpu() || !fast {
        return composed(q, k, v, heads, MAX_SCORES);
    }
    let full = |x: &Tensor| x.to_dtype(DType::F32)?.contiguous();
    full(q)?
        .apply_op3(&full(k)?, &full(v)?, CpuAttention { heads })?
        .to_dtype(dtype)
}

/// Attention from the tensor library's own operations, with at most `max_scores` scores at a time (or
/// one query's): whole heads while they fit, else one head's queries in chunks.
fn composed(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, max_scores: usize) -> Result<Tensor> {
    let (b, n, width) = q.dims3()?;
    let queries = (max_scores / k.dim(1)?.max(1)).max(1);
    let scale = 1.0 / ((width / heads) as f64).sqrt();
    let q = split_heads(&(q * scale)?, heads)?;
    let k = split_heads(k, heads)?.t()?;
    let v = split_heads(v, heads)?;
    let group = (queries / n.max(1)).clamp(1, b * heads);
    let groups = (0..b * heads).step_by(group).map(|first| {
        let heads = |x: &Tensor| x.narrow(0, first, group.min(b * heads - first));
        let (q, k, v) = (heads(&q)?, heads(&k)?, heads(&v)?);
        let chunks = (0..n).step_by(queries).map(|start| {
            let rows = q.narrow(1, start, queries.min(n - start))?;
            softmax(&rows.matmul(&k)?)?.matmul(&v)
        });
        joined(chunks.collect::<Result<_>>()?, 1)
    });
    joined(groups.collect::<Result<_>>()?, 0)?
        .reshape((b, heads, n, width / heads))?
        .transpose(1, 2)?
        .reshape((b, n, width))
}

fn joined(mut parts: Vec<Tensor>, axis: usize) -> Result<Tensor> {
    match parts.len() {
        1 => Ok(parts.remove(0)),
        _ => Tensor::cat(&parts, axis),
    }
}

/// [b, n, heads·d] → [b·heads, n, d].
fn split_heads(x: &Tensor, heads: usize) -> Result<Tensor> {
    let (b, n, width) = x.dims3()?;
    let split = x
        .reshape((b, n, heads, width / heads))?
        .transpose(1, 2)?
        .contiguous()?;
    split.reshape((b * heads, n, width / heads))
}

/// Softmax over the last dimension, in f32.
pub(crate) fn softmax(scores: &Tensor) -> Result<Tensor> {
    let dtype = scores.dtype();
    // The fast operation has no gradient: what is trained goes the other way.
    if scores.track_op() {
        return softmax_slow(&scores.to_dtype(DType::F32)?, D::Minus1)?.to_dtype(dtype);
    }
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
    out.reshape((b, heads, n, width / heads))?
        .transpose(1, 2)?
        .reshape((b, n, width))
}

/// Attention straight from and to [b, n, heads·d], one head and block of queries per task.
struct CpuAttention {
    heads: usize,
}

/// Scores per task (1 MiB): they stay in the cache.
const TASK_SCORES: usize = 1 << 18;

impl CustomOp3 for CpuAttention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (batch, n, width) = q_layout.shape().dims3()?;
        let (k_batch, m, k_width) = k_layout.shape().dims3()?;
        let fits = (k_batch, k_width) == (batch, width) && k_layout.shape() == v_layout.shape();
        if !fits || m == 0 || !width.is_multiple_of(self.heads) {
            candle_core::bail!(
                "attention: {:?} over {:?}",
                q_layout.shape(),
                k_layout.shape()
            )
        }
        let rows = (TASK_SCORES / m).clamp(1, n.max(1));
        let inputs = Inputs {
            q: contiguous_f32(q, q_layout)?,
            k: contiguous_f32(k, k_layout)?,
            v: contiguous_f32(v, v_layout)?,
            n,
            m,
            width,
            depth: width / self.heads,
        };
        let mut out = vec![0f32; batch * n * width];
        let destination = Destination(out.as_mut_ptr());
        let tasks: Vec<Task> = (0..batch)
            .flat_map(|sample| (0..self.heads).map(move |head| (sample, head)))
            .flat_map(|(sample, head)| {
                (0..n).step_by(rows).map(move |start| Task {
                    sample,
                    head,
                    start,
                })
            })
            .collect();
        tasks
            .par_iter()
            .for_each(|task| inputs.run(task, rows, destination));
        Ok((CpuStorage::F32(out), Shape::from((batch, n, width))))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<gradients::Three> {
        gradients::attention(self.heads, [q, k, v], grad)
    }
}

struct Inputs<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    n: usize,
    m: usize,
    width: usize,
    /// Width of one head.
    depth: usize,
}

struct Task {
    sample: usize,
    head: usize,
    start: usize,
}

/// Where tasks write: each its own rows of its own head.
#[derive(Clone, Copy)]
struct Destination(*mut f32);

// SAFETY: every task writes its own rows of its own head only.
#[allow(unsafe_code, reason = "tasks write disjoint parts of one buffer")]
unsafe impl Send for Destination {}
// SAFETY: as above.
#[allow(unsafe_code, reason = "tasks write disjoint parts of one buffer")]
unsafe impl Sync for Destination {}

impl Inputs<'_> {
    fn run(&self, task: &Task, rows: usize, destination: Destination) {
        let Inputs {
            n, m, width, depth, ..
        } = *self;
        let rows = rows.min(n - task.start);
        let from_query = (task.sample * n + task.start) * width + task.head * depth;
        let from_key = task.sample * m * width + task.head * depth;
        let rows_of = |data| Operand {
            data,
            row_stride: width,
            column_stride: 1,
        };
        let k = Operand {
            data: &self.k[from_key..],
            row_stride: 1,
            column_stride: width,
        };
        let mut scores = vec![0f32; rows * m];
        let size = Size {
            m: rows,
            n: m,
            k: depth,
        };
        // SAFETY: `scores` holds rows · m numbers and is not shared.
        #[allow(unsafe_code, reason = "the product is written in place")]
        unsafe {
            let q = rows_of(&self.q[from_query..]);
            add_product(scores.as_mut_ptr(), m, size, q, k, Parallelism::None);
        }
        let scale = 1.0 / (depth as f32).sqrt();
        scores
            .chunks_exact_mut(m)
            .for_each(|row| softmax_row(row, scale));
        let size = Size {
            m: rows,
            n: depth,
            k: m,
        };
        let weights = Operand {
            data: &scores,
            row_stride: m,
            column_stride: 1,
        };
        // SAFETY: the output has the queries' layout; no other task has these rows and this head.
        #[allow(unsafe_code, reason = "tasks write disjoint parts of one buffer")]
        unsafe {
            let out = destination.0.add(from_query);
            add_product(
                out,
                width,
                size,
                weights,
                rows_of(&self.v[from_key..]),
                Parallelism::None,
            );
        }
    }
}

/// softmax(scale · row), in place.
pub(crate) fn softmax_row(row: &mut [f32], scale: f32) {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for v in row.iter_mut() {
        *v = exp((*v - largest) * scale);
    }
    let mut lanes = [0f32; 8];
    let chunks = row.chunks_exact(8);
    let rest: f32 = chunks.remainder().iter().sum();
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane += v;
        }
    }
    let inverse = 1.0 / (lanes.iter().sum::<f32>() + rest);
    for v in row {
        *v *= inverse;
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn the_fast_path_equals_the_composed_one() {
        for (b, n, m, heads, depth) in [(1, 7, 5, 1, 6), (2, 300, 77, 4, 8), (1, 1500, 1500, 2, 16)]
        {
            let random =
                |n: usize| Tensor::randn(0f32, 2.0, (b, n, heads * depth), &Device::Cpu).unwrap();
            let (q, k, v) = (random(n), random(m), random(m));
            let fast = attention(&q, &k, &v, heads).unwrap();
            let wide = |x: &Tensor| x.to_dtype(DType::F64).unwrap();
            let slow = attention(&wide(&q), &wide(&k), &wide(&v), heads).unwrap();
            assert!(crate::testing::relative_error(&fast, &slow) < 1e-5);
        }
    }

    #[test]
    fn few_scores_at_a_time_give_the_same() {
        let random = |n: usize| Tensor::randn(0f64, 1.0, (2, n, 24), &Device::Cpu).unwrap();
        let (q, k, v) = (random(10), random(7), random(7));
        let whole = composed(&q, &k, &v, 3, MAX_SCORES).unwrap();
        // One query, a part of a head, a head, several heads of both samples.
        for max_scores in [1, 4 * 7, 10 * 7, 10 * 7 * 4, 10 * 7 * 5] {
            let parts = composed(&q, &k, &v, 3, max_scores).unwrap();
            assert!(crate::testing::relative_error(&parts, &whole) < 1e-12);
        }
    }

    #[test]
    fn half_precision_is_computed_in_full() {
        let random = || Tensor::randn(0f32, 1.0, (1, 40, 24), &Device::Cpu).unwrap();
        let (q, k, v) = (random(), random(), random());
        for (dtype, limit) in [(DType::F16, 1e-3), (DType::BF16, 1e-2)] {
            let half = |x: &Tensor| x.to_dtype(dtype).unwrap();
            let found = attention(&half(&q), &half(&k), &half(&v), 3).unwrap();
            assert_eq!(found.dtype(), dtype);
            let exact = attention(&q, &k, &v, 3).unwrap();
            assert!(crate::testing::relative_error(&found, &exact) < limit);
        }
    }

    #[test]
    fn trained_inputs_keep_their_gradients() {
        let q = candle_core::Var::randn(0f32, 1.0, (1, 4, 6), &Device::Cpu).unwrap();
        let k = Tensor::randn(0f32, 1.0, (1, 5, 6), &Device::Cpu).unwrap();
        let y = attention(&q, &k, &k, 2).unwrap();
        let gradients = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        assert!(gradients.get(&q).is_some());
    }

    #[test]
    fn shapes_that_do_not_fit_are_errors() {
        let tensor = |n, w| Tensor::zeros((1, n, w), DType::F32, &Device::Cpu).unwrap();
        assert!(attention(&tensor(4, 6), &tensor(4, 8), &tensor(4, 8), 2).is_err());
        assert!(attention(&tensor(4, 6), &tensor(5, 6), &tensor(4, 6), 2).is_err());
        assert!(attention(&tensor(4, 6), &tensor(4, 6), &tensor(4, 6), 4).is_err());
    }
}
