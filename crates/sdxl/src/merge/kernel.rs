//! base + Σ scale · up · down in one pass over a matrix.

use candle_core::{CpuStorage, CustomOp3, DType, Layout, Result as Compute, Shape, Tensor};
use gemm::Parallelism;
use half::{bf16, f16};
use rayon::prelude::*;

use super::LowRankUpdate;
use crate::cpu::{Operand, Size, add_product, contiguous_f32};

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

/// Tile by tile: widened, multiplied onto, rounded. Nothing of the matrix's size is made but the result.
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

/// A number type of weights.
trait Number: Copy + Default + Send + Sync {
    fn widen(self) -> f32;
    fn round(wide: f32) -> Self;
}

impl Number for f32 {
    fn widen(self) -> f32 {
        self
    }

    fn round(wide: f32) -> f32 {
        wide
    }
}

impl Number for f16 {
    fn widen(self) -> f32 {
        self.to_f32()
    }

    fn round(wide: f32) -> f16 {
        f16::from_f32(wide)
    }
}

impl Number for bf16 {
    fn widen(self) -> f32 {
        self.to_f32()
    }

    fn round(wide: f32) -> bf16 {
        bf16::from_f32(wide)
    }
}

struct Update<'a> {
    ups: &'a [f32],
    downs: &'a [f32],
    rank: usize,
    cols: usize,
}

impl Update<'_> {
    fn merge<T: Number>(&self, base: &[T]) -> Vec<T> {
        let mut out = vec![T::default(); base.len()];
        let (size, ups) = ((TILE_ROWS * self.cols).max(1), TILE_ROWS * self.rank);
        out.par_chunks_mut(size)
            .zip(base.par_chunks(size))
            .zip(self.ups.par_chunks(ups.max(1)))
            .for_each_init(Vec::new, |wide, ((out, base), ups)| {
                wide.clear();
                wide.extend(base.iter().map(|value| value.widen()));
                self.add(ups, wide);
                for (out, &wide) in out.iter_mut().zip(wide.iter()) {
                    *out = T::round(wide);
                }
            });
        out
    }

    /// Adds ups · downs to some rows.
    fn add(&self, ups: &[f32], rows: &mut [f32]) {
        let size = Size {
            m: rows.len() / self.cols.max(1),
            n: self.cols,
            k: self.rank,
        };
        let row_major = |data, row_stride| Operand {
            data,
            row_stride,
            column_stride: 1,
        };
        let (ups, downs) = (row_major(ups, self.rank), row_major(self.downs, self.cols));
        // SAFETY: `rows` holds m rows of n numbers and is not shared.
        #[allow(unsafe_code, reason = "the product is added in place")]
        unsafe {
            let out = rows.as_mut_ptr();
            add_product(out, self.cols, size, ups, downs, Parallelism::None);
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
