//! The encoders' operations on the CPU: matrix products that add to what is there, and attention
//! without a matrix of scores that leaves the cache.

use candle_core::{CpuStorage, CustomOp3, InplaceOp3, Layout, Shape, Tensor, bail};
use gemm::Parallelism;
use rayon::prelude::*;

use crate::error::Computed;
use crate::ops::softmax_row;

/// Scores of a task: 512 KiB, so that they stay in a second-level cache.
const TASK_SCORES: usize = 1 << 17;
/// Tasks per thread, so that threads end at about the same time.
const TASKS_PER_THREAD: usize = 4;
/// Below this many multiplications starting threads costs more than they save.
const WORTH_THREADS: usize = 1 << 20;

/// The numbers of a contiguous f32 tensor.
pub(crate) fn contiguous<'a>(storage: &'a CpuStorage, layout: &Layout) -> Computed<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("expected a contiguous tensor"),
    }
}

/// out[rows, out] += x[rows, in] · weightᵀ, for a weight [out, in]. Nothing else may refer to `out`.
pub(crate) fn add_product(out: &Tensor, x: &Tensor, weight: &Tensor) -> Computed<()> {
    out.inplace_op3(&x.contiguous()?, weight, &AddProduct)
}

struct AddProduct;

impl InplaceOp3 for AddProduct {
    fn name(&self) -> &'static str {
        "add product"
    }

    fn cpu_fwd(
        &self,
        out: &mut CpuStorage,
        out_layout: &Layout,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Computed<()> {
        let (m, n) = out_layout.shape().dims2()?;
        let (x_rows, k) = x_layout.shape().dims2()?;
        if x_rows != m || weight_layout.dims() != [n, k] {
            bail!(
                "product of {:?} and {:?}",
                x_layout.shape(),
                weight_layout.shape()
            );
        }
        let (x, weight) = (contiguous(x, x_layout)?, contiguous(weight, weight_layout)?);
        let CpuStorage::F32(out) = out else {
            bail!("products add to f32")
        };
        let Some((start, end)) = out_layout.contiguous_offsets() else {
            bail!("expected a contiguous tensor")
        };
        let parallelism = match m * n * k {
            small if small < WORTH_THREADS => Parallelism::None,
            _ => Parallelism::Rayon(0),
        };
        let x = Operand::rows(x, k);
        multiply(
            &mut out[start..end],
            n,
            (m, n, k),
            x,
            Operand::columns(weight, k),
            Sum::Added,
            parallelism,
        );
        Ok(())
    }
}

/// A matrix in memory: element (row, column) lies at row · row_stride + column · column_stride.
#[derive(Clone, Copy)]
struct Operand<'a> {
    data: &'a [f32],
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Operand<'a> {
    /// Rows `stride` apart.
    fn rows(data: &'a [f32], stride: usize) -> Self {
        Self {
            data,
            row_stride: stride,
            column_stride: 1,
        }
    }

    /// Columns `stride` apart: a matrix of rows, transposed.
    fn columns(data: &'a [f32], stride: usize) -> Self {
        Self {
            data,
            row_stride: 1,
            column_stride: stride,
        }
    }

    fn holds(&self, rows: usize, columns: usize) -> bool {
        rows > 0
            && columns > 0
            && (rows - 1) * self.row_stride + (columns - 1) * self.column_stride < self.data.len()
    }
}

/// What becomes of the numbers that a product is written over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sum {
    Added,
    Replaced,
}

/// out = [out +] left[m, k] · right[k, n], with the rows of `out` `out_stride` apart.
#[allow(unsafe_code, reason = "the product works on pointers and strides")]
fn multiply(
    out: &mut [f32],
    out_stride: usize,
    (m, n, k): (usize, usize, usize),
    left: Operand<'_>,
    right: Operand<'_>,
    sum: Sum,
    parallelism: Parallelism,
) {
    let into = Operand::rows(out, out_stride);
    assert!(n <= out_stride && into.holds(m, n) && left.holds(m, k) && right.holds(k, n));
    // SAFETY: each matrix was checked to end within its slice, `out` is borrowed for this call alone, and its
    // rows do not overlap.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            out_stride as isize,
            sum == Sum::Added,
            left.data.as_ptr(),
            left.column_stride as isize,
            left.row_stride as isize,
            right.data.as_ptr(),
            right.column_stride as isize,
            right.row_stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// softmax(q kᵀ / √d) v per head, from and to `[tokens, heads · d]`. A task takes some queries through all
/// heads, which are columns of the same rows: nothing is copied, and tasks write rows of their own.
pub(crate) struct Attention {
    pub heads: usize,
}

impl CustomOp3 for Attention {
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
    ) -> Computed<(CpuStorage, Shape)> {
        let (tokens, width) = q_layout.shape().dims2()?;
        let (to, k_width) = k_layout.shape().dims2()?;
        if width != k_width
            || k_layout.shape() != v_layout.shape()
            || width % self.heads.max(1) != 0
        {
            bail!(
                "attention of {:?} to {:?}",
                q_layout.shape(),
                k_layout.shape()
            );
        }
        let (q, k, v) = (
            contiguous(q, q_layout)?,
            contiguous(k, k_layout)?,
            contiguous(v, v_layout)?,
        );
        let tasks = TASKS_PER_THREAD * rayon::current_num_threads();
        let rows = (TASK_SCORES / to.max(1)).min(tokens.div_ceil(tasks)).max(1);
        let mut out = vec![0.0; tokens * width];
        let parts = out
            .par_chunks_mut(rows * width)
            .zip(q.par_chunks(rows * width));
        parts.for_each(|(out, q)| self.attend(out, q, k, v, (to, width)));
        Ok((CpuStorage::F32(out), Shape::from((tokens, width))))
    }
}

impl Attention {
    fn attend(
        &self,
        out: &mut [f32],
        q: &[f32],
        k: &[f32],
        v: &[f32],
        (to, width): (usize, usize),
    ) {
        let (rows, depth) = (q.len() / width, width / self.heads);
        let scale = (depth as f32).sqrt().recip();
        let mut scores = vec![0.0; rows * to];
        for at in (0..width).step_by(depth) {
            let (q, k) = (
                Operand::rows(&q[at..], width),
                Operand::columns(&k[at..], width),
            );
            multiply(
                &mut scores,
                to,
                (rows, to, depth),
                q,
                k,
                Sum::Replaced,
                Parallelism::None,
            );
            scores
                .chunks_exact_mut(to)
                .for_each(|row| softmax_row(row, scale));
            let (weights, v) = (Operand::rows(&scores, to), Operand::rows(&v[at..], width));
            multiply(
                &mut out[at..],
                width,
                (rows, depth, to),
                weights,
                v,
                Sum::Replaced,
                Parallelism::None,
            );
        }
    }
}
