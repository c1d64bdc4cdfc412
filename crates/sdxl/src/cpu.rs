//! What the fast paths on the CPU share: matrix products that add into strided memory, and
//! elementary functions without branches or calls, so that loops over them vectorise.

use candle_core::{CpuStorage, Layout, Result as Compute};
use gemm::Parallelism;

/// The numbers of a contiguous f32 tensor.
pub fn contiguous_f32<'a>(storage: &'a CpuStorage, layout: &Layout) -> Compute<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        candle_core::bail!("this operation needs contiguous tensors")
    };
    Ok(&storage.as_slice::<f32>()?[start..end])
}

/// A matrix in memory: element (row, column) lies at row · row_stride + column · column_stride.
#[derive(Clone, Copy)]
pub struct Operand<'a> {
    pub data: &'a [f32],
    pub row_stride: usize,
    pub column_stride: usize,
}

/// A product's size: [m, k] · [k, n].
#[derive(Clone, Copy)]
pub struct Size {
    pub m: usize,
    pub n: usize,
    pub k: usize,
}

/// Adds left · right to the rows at `out`, `out_stride` apart.
///
/// # Safety
/// For every row < m, the n numbers from out + row · out_stride on must be writable and must not be
/// accessed by anyone else meanwhile.
#[allow(
    unsafe_code,
    reason = "callers write into tiles of a buffer that other threads fill"
)]
pub unsafe fn add_product(
    out: *mut f32,
    out_stride: usize,
    size: Size,
    left: Operand<'_>,
    right: Operand<'_>,
    parallelism: Parallelism,
) {
    let Size { m, n, k } = size;
    left.check(m, k);
    right.check(k, n);
    // SAFETY: the operands were checked to hold their last element; `out` is the caller's promise.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out,
            1,
            out_stride as isize,
            true,
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

impl Operand<'_> {
    /// Touches the last element, so that a product of wrong sizes stops here.
    fn check(&self, rows: usize, columns: usize) {
        if rows > 0 && columns > 0 {
            let last = (rows - 1) * self.row_stride + (columns - 1) * self.column_stride;
            assert!(
                last < self.data.len(),
                "a matrix product reaches beyond its operand"
            );
        }
    }
}

/// eˣ to about two units in the last place; 0 far below, finite far above.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Adding 1.5 · 2²³ rounds to a whole number, which is then the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let whole = shifted - ROUND;
    let r = (x - whole * LN2_HIGH) - whole * LN2_LOW;
    // Taylor's series to the sixth power: |r| ≤ ln 2 / 2.
    let tail = 1.0 / 120.0 + r * (1.0 / 720.0);
    let series = 1.0 + r * (1.0 + r * (0.5 + r * (1.0 / 6.0 + r * (1.0 / 24.0 + r * tail))));
    series * f32::from_bits(shifted.to_bits().wrapping_add(127) << 23)
}

/// x · sigmoid(x).
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// x · Φ(x), by Abramowitz and Stegun 7.1.26 (absolute error of erf below 1.5e-7).
#[inline(always)]
pub fn gelu(x: f32) -> f32 {
    const P: f32 = 0.327_591_1;
    const A: [f32; 5] = [
        0.254_829_6,
        -0.284_496_74,
        1.421_413_7,
        -1.453_152,
        1.061_405_4,
    ];
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + P * z);
    let polynomial = t * (A[0] + t * (A[1] + t * (A[2] + t * (A[3] + t * A[4]))));
    let tail = 0.5 * polynomial * exp(-z * z);
    // Φ is the tail below 0 and 1 minus the tail above: x Φ(x) = max(x, 0) − |x| · tail.
    x.max(0.0) - x.abs() * tail
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points() -> impl Iterator<Item = f32> {
        (-40_000..=40_000).map(|i| i as f32 * 5e-4)
    }

    #[test]
    fn exp_is_exact_to_a_few_units_in_the_last_place() {
        for x in points() {
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) - exact).abs() <= 4e-7 * exact, "{x}");
        }
        assert!(exp(-1e4) < 1e-37 && exp(1e4).is_finite());
    }

    #[test]
    fn silu_is_exact() {
        for x in points() {
            let exact = f64::from(x) / (1.0 + (-f64::from(x)).exp());
            assert!(
                (f64::from(silu(x)) - exact).abs() <= 1e-6 * exact.abs() + 1e-7,
                "{x}"
            );
        }
    }

    #[test]
    fn gelu_equals_the_tensor_librarys() {
        let values: Vec<f32> = points().collect();
        let x = candle_core::Tensor::new(values.as_slice(), &candle_core::Device::Cpu).unwrap();
        let theirs = x.gelu_erf().unwrap().to_vec1::<f32>().unwrap();
        for (x, theirs) in values.into_iter().zip(theirs) {
            assert!((gelu(x) - theirs).abs() <= 4e-7 * (1.0 + x.abs()), "{x}");
        }
    }
}
