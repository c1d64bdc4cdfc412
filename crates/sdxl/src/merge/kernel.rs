//! base + Σ scale · up · down in one pass over a matrix.

use std::mem::MaybeUninit;

use candle_core::{CpuStorage, CustomOp3, DType, Layout, Result as Compute, Shape, Tensor};
use half::{bf16, f16, slice::HalfFloatSliceExt as _};
use rayon::prelude::*;

use super::LowRankUpdate;
use crate::cpu::contiguous_f32;

/// Rows that a task merges at a time: a tile of 32 rows of SDXL's widest matrix is 256 KiB of f32,
/// which stays in the second-level cache.
const TILE_ROWS: usize = 32;

/// base [out, in] + Σ scale · up · down: one product of the stacked factors, accumulated in f32, then
/// rounded to the base's type.
pub fn merge_matrix(base: &Tensor, terms: &[&LowRankUpdate]) -> Compute<Tensor> {
    let (downs, ups) = stacked(base, terms)?;
    if base.device().is_cpu() && !base.track_op() {
        let base = base.contiguous()?;
        return base.apply_op3_no_bwd(&ups, &downs, &CpuMerge);
    }
    let delta = ups.matmul(&downs)?;
    (base.to_dtype(DType::F32)? + delta)?.to_dtype(base.dtype())
}

/// The downs on top of each other [r, in] and the scaled ups side by side [out, r], in f32 beside the base.
pub fn stacked(base: &Tensor, terms: &[&LowRankUpdate]) -> Compute<(Tensor, Tensor)> {
    let part = |x: &Tensor| x.to_device(base.device())?.to_dtype(DType::F32);
    let downs = terms.iter().map(|term| part(&term.down));
    let downs = downs.collect::<Compute<Vec<_>>>()?;
    let ups = terms.iter().map(|term| part(&term.up)? * term.scale);
    let ups = ups.collect::<Compute<Vec<_>>>()?;
    let downs = Tensor::cat(&downs, 0)?.contiguous()?;
    Ok((downs, Tensor::cat(&ups, 1)?.contiguous()?))
}

/// Tile by tile: widened, the products added, rounded. Nothing of the matrix's size is made but the result.
struct CpuMerge;

impl CustomOp3 for CpuMerge {
    fn name(&self) -> &'static str {
        "merge"
    }

    fn cpu_fwd(
        &self,
        base: &CpuStorage,
        base_layout: &Layout,
        ups: &CpuStorage,
        ups_layout: &Layout,
        downs: &CpuStorage,
        downs_layout: &Layout,
    ) -> Compute<(CpuStorage, Shape)> {
        let (rank, cols) = downs_layout.shape().dims2()?;
        let update = Update {
            ups: contiguous_f32(ups, ups_layout)?,
            downs: contiguous_f32(downs, downs_layout)?,
            rank,
            cols,
        };
        let Some((start, end)) = base_layout.contiguous_offsets() else {
            candle_core::bail!("merge needs a contiguous base")
        };
        let merged = match base {
            CpuStorage::F32(base) => CpuStorage::F32(update.merge(&base[start..end])),
            CpuStorage::F16(base) => CpuStorage::F16(update.merge(&base[start..end])),
            CpuStorage::BF16(base) => CpuStorage::BF16(update.merge(&base[start..end])),
            _ => candle_core::bail!("merge needs weights of type f32, f16 or bf16"),
        };
        Ok((merged, base_layout.shape().clone()))
    }
}

/// A number type of weights. Both ways go by whole slices: halves are converted eight at a time where the
/// processor can.
trait Number: Copy + Send + Sync {
    fn widen(numbers: &[Self], wide: &mut Vec<f32>);
    fn round(wide: &[f32], numbers: &mut [MaybeUninit<Self>]);
}

impl Number for f32 {
    fn widen(numbers: &[f32], wide: &mut Vec<f32>) {
        wide.clear();
        wide.extend_from_slice(numbers);
    }

    fn round(wide: &[f32], numbers: &mut [MaybeUninit<f32>]) {
        numbers.write_copy_of_slice(wide);
    }
}

/// The same for both halves, which share a trait for slices but none for numbers.
macro_rules! half_number {
    ($half:ident) => {
        impl Number for $half {
            fn widen(numbers: &[$half], wide: &mut Vec<f32>) {
                wide.resize(numbers.len(), 0.0);
                numbers.convert_to_f32_slice(wide);
            }

            fn round(wide: &[f32], numbers: &mut [MaybeUninit<$half>]) {
                let mut block = [$half::ZERO; 1024];
                let blocks = numbers.chunks_mut(block.len());
                for (numbers, wide) in blocks.zip(wide.chunks(block.len())) {
                    block[..wide.len()].convert_from_f32_slice(wide);
                    numbers.write_copy_of_slice(&block[..wide.len()]);
                }
            }
        }
    };
}

half_number!(f16);
half_number!(bf16);

struct Update<'a> {
    ups: &'a [f32],
    downs: &'a [f32],
    rank: usize,
    cols: usize,
}

impl Update<'_> {
    fn merge<T: Number>(&self, base: &[T]) -> Vec<T> {
        let mut out = Vec::with_capacity(base.len());
        let (size, ups) = ((TILE_ROWS * self.cols).max(1), TILE_ROWS * self.rank);
        out.spare_capacity_mut()[..base.len()]
            .par_chunks_mut(size)
            .zip_eq(base.par_chunks(size))
            .zip_eq(self.ups.par_chunks(ups.max(1)))
            .for_each_init(Vec::new, |wide, ((out, base), ups)| {
                T::widen(base, wide);
                add_products(wide, ups, self.downs, self.cols);
                T::round(wide, out);
            });
        // SAFETY: the tiles cover all of it, and each was written whole.
        #[allow(
            unsafe_code,
            reason = "not zeroed before: that is a pass over memory of its own"
        )]
        unsafe {
            out.set_len(base.len());
        }
        out
    }
}

/// Adds ups [rows, r] · downs [r, cols] to some rows.
fn add_products(rows: &mut [f32], ups: &[f32], downs: &[f32], cols: usize) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has been asked.
        #[allow(unsafe_code, reason = "compiled for AVX2")]
        return unsafe { add_products_avx2(rows, ups, downs, cols) };
    }
    add_products_plain(rows, ups, downs, cols);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn add_products_avx2(rows: &mut [f32], ups: &[f32], downs: &[f32], cols: usize) {
    add_products_plain(rows, ups, downs, cols);
}

/// Plain loops over columns, which compilers turn into vectors; four terms at a time, so that a sum is
/// loaded and stored once for four products. A product of so few terms is not worth packing.
#[inline(always)]
#[allow(
    clippy::inline_always,
    reason = "compiled anew with its caller's instructions"
)]
fn add_products_plain(rows: &mut [f32], ups: &[f32], downs: &[f32], cols: usize) {
    let rank = downs.len() / cols.max(1);
    for (row, ups) in rows
        .chunks_exact_mut(cols.max(1))
        .zip(ups.chunks_exact(rank.max(1)))
    {
        let (fours, rest) = ups.as_chunks::<4>();
        let (many, few) = downs.split_at(4 * fours.len() * cols);
        for (up, down) in fours.iter().zip(many.chunks_exact(4 * cols)) {
            let (a, down) = down.split_at(cols);
            let (b, down) = down.split_at(cols);
            let (c, d) = down.split_at(cols);
            for ((((sum, a), b), c), d) in row.iter_mut().zip(a).zip(b).zip(c).zip(d) {
                *sum += (up[0] * a + up[1] * b) + (up[2] * c + up[3] * d);
            }
        }
        for (up, down) in rest.iter().zip(few.chunks_exact(cols)) {
            for (sum, down) in row.iter_mut().zip(down) {
                *sum += up * down;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn random(rows: usize, cols: usize) -> Tensor {
        Tensor::randn(0f32, 1.0, (rows, cols), &Device::Cpu).unwrap()
    }

    #[test]
    fn the_fused_pass_rounds_the_exact_sum_once() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let base = random(75, 33).to_dtype(dtype).unwrap();
            let term = |rank, scale| LowRankUpdate {
                matrix: String::new(),
                down: random(rank, 33),
                up: random(75, rank),
                scale,
            };
            let terms = [term(3, 0.5), term(1, -0.25)];
            let merged = merge_matrix(&base, &terms.iter().collect::<Vec<_>>()).unwrap();
            let wide = |x: &Tensor| x.to_dtype(DType::F64).unwrap();
            let mut exact = wide(&base);
            for term in &terms {
                let delta = wide(&term.up).matmul(&wide(&term.down)).unwrap();
                exact = (exact + (delta * term.scale).unwrap()).unwrap();
            }
            let rounding = match dtype {
                DType::F32 => 1e-6,
                DType::F16 => 4e-4,
                _ => 3e-3,
            };
            let error = crate::testing::relative_error(&merged, &exact);
            assert!(error < rounding, "{dtype:?}: {error:e}");
        }
    }
}
