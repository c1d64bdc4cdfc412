//! One token's coefficients times its basis matrices, straight from the bytes of the file.
//!
//! The product reads each number of the basis once and does one multiplication with it, so that memory
//! is the limit: no f32 copy is made, and a block of sums stays in the first-level cache.

use candle_core::DType;
use half::f16;

/// Sums kept at a time: 16 KiB, half of a first-level cache.
const BLOCK: usize = 4096;

/// Σ cᵢ · basisᵢ, where `bytes` holds one little-endian matrix of `size` numbers per coefficient.
pub(crate) fn product(coefficients: &[f32], bytes: &[u8], dtype: DType, size: usize) -> Vec<f32> {
    let mut sums = vec![0.0; size];
    let width = dtype.size_in_bytes();
    for (block, sums) in sums.chunks_mut(BLOCK).enumerate() {
        for (i, coefficient) in coefficients.iter().enumerate() {
            let start = (i * size + block * BLOCK) * width;
            add_row(
                sums,
                &bytes[start..start + sums.len() * width],
                dtype,
                *coefficient,
            );
        }
    }
    sums
}

/// A matrix [rows, columns] as [columns, rows].
pub(crate) fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut out = vec![0.0; values.len()];
    for (column, out) in out.chunks_exact_mut(rows.max(1)).enumerate() {
        for (row, out) in out.iter_mut().enumerate() {
            *out = values[row * columns + column];
        }
    }
    out
}

pub(crate) fn all_finite(values: &[f32]) -> bool {
    // Without its sign a number's bits grow with it; infinity comes after all numbers, NaN after that.
    let largest = values
        .iter()
        .map(|value| value.abs().to_bits())
        .fold(0, u32::max);
    largest < f32::INFINITY.to_bits()
}

/// sums += coefficient · row.
fn add_row(sums: &mut [f32], row: &[u8], dtype: DType, coefficient: f32) {
    #[cfg(target_arch = "x86_64")]
    if avx2::available() {
        return avx2::add_row(sums, row, dtype, coefficient);
    }
    match dtype {
        DType::F16 => add(
            sums,
            row,
            |b| f16::from_le_bytes(b).to_f32(),
            |a, b| a + coefficient * b,
        ),
        DType::BF16 => add(sums, row, from_bf16, |a, b| a + coefficient * b),
        _ => add(sums, row, f32::from_le_bytes, |a, b| a + coefficient * b),
    }
}

#[inline]
fn add<const N: usize>(
    sums: &mut [f32],
    row: &[u8],
    read: impl Fn([u8; N]) -> f32,
    combine: impl Fn(f32, f32) -> f32,
) {
    let (numbers, _) = row.as_chunks::<N>();
    for (sum, number) in sums.iter_mut().zip(numbers) {
        *sum = combine(*sum, read(*number));
    }
}

/// bf16 is the upper half of an f32.
#[inline]
fn from_bf16(bytes: [u8; 2]) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16)
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        _mm_loadu_si128, _mm256_cvtph_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps,
        _mm256_storeu_ps,
    };

    use super::{DType, add, f16, from_bf16};

    pub fn available() -> bool {
        is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
    }

    /// Must be called only where [`available`] holds.
    #[allow(
        unsafe_code,
        reason = "the processor's features are known only when running"
    )]
    pub fn add_row(sums: &mut [f32], row: &[u8], dtype: DType, coefficient: f32) {
        debug_assert!(available());
        // SAFETY: the caller has asked the processor.
        unsafe { add_row_inner(sums, row, dtype, coefficient) }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    fn add_row_inner(sums: &mut [f32], row: &[u8], dtype: DType, coefficient: f32) {
        match dtype {
            DType::F16 => add_f16(sums, row, coefficient),
            DType::BF16 => add(sums, row, from_bf16, |a, b| b.mul_add(coefficient, a)),
            _ => add(sums, row, f32::from_le_bytes, |a, b| {
                b.mul_add(coefficient, a)
            }),
        }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[allow(unsafe_code, reason = "unaligned loads and stores of eight numbers")]
    fn add_f16(sums: &mut [f32], row: &[u8], coefficient: f32) {
        let factor = _mm256_set1_ps(coefficient);
        let (eights, rest) = sums.as_chunks_mut::<8>();
        let (numbers, _) = row.as_chunks::<16>();
        for (sums, numbers) in eights.iter_mut().zip(numbers) {
            // SAFETY: the arrays are 32 and 16 bytes long, and neither load nor store asks for alignment.
            unsafe {
                let numbers = _mm256_cvtph_ps(_mm_loadu_si128(numbers.as_ptr().cast()));
                let sum = _mm256_fmadd_ps(numbers, factor, _mm256_loadu_ps(sums.as_ptr()));
                _mm256_storeu_ps(sums.as_mut_ptr(), sum);
            }
        }
        let read = |bytes| f16::from_le_bytes(bytes).to_f32();
        add(rest, &row[16 * eights.len()..], read, |a, b| {
            b.mul_add(coefficient, a)
        });
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    #[test]
    fn every_number_type_gives_the_same_sums() {
        let (k, size) = (5, BLOCK + 11);
        let coefficients: Vec<f32> = (0..k).map(|i| i as f32 - 1.5).collect();
        // Small whole numbers are exact in all three types.
        let basis: Vec<f32> = (0..k * size).map(|i| (i % 17) as f32 - 8.0).collect();
        let expected: Vec<f32> = (0..size)
            .map(|j| (0..k).map(|i| coefficients[i] * basis[i * size + j]).sum())
            .collect();
        let f32s: Vec<u8> = basis.iter().flat_map(|v| v.to_le_bytes()).collect();
        let f16s: Vec<u8> = basis
            .iter()
            .flat_map(|v| f16::from_f32(*v).to_le_bytes())
            .collect();
        let bf16s: Vec<u8> = basis
            .iter()
            .flat_map(|v| bf16::from_f32(*v).to_le_bytes())
            .collect();
        assert_eq!(product(&coefficients, &f32s, DType::F32, size), expected);
        assert_eq!(product(&coefficients, &f16s, DType::F16, size), expected);
        assert_eq!(product(&coefficients, &bf16s, DType::BF16, size), expected);
    }

    /// Subnormal numbers, infinities and NaN come through as they are.
    #[test]
    fn every_half_is_read_exactly() {
        let all: Vec<u16> = (0..=u16::MAX).collect();
        let bytes: Vec<u8> = all.iter().flat_map(|bits| bits.to_le_bytes()).collect();
        let halves = product(&[1.0], &bytes, DType::F16, all.len());
        let brains = product(&[1.0], &bytes, DType::BF16, all.len());
        let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
        for (at, bits) in all.into_iter().enumerate() {
            // Adding to 0 turns -0 into 0.
            assert!(
                same(halves[at], 0.0 + f16::from_bits(bits).to_f32()),
                "{bits:x}"
            );
            assert!(
                same(brains[at], 0.0 + bf16::from_bits(bits).to_f32()),
                "{bits:x}"
            );
        }
    }

    #[test]
    fn what_is_not_finite_is_noticed() {
        assert!(all_finite(&[0.0, -f32::MAX, f32::MIN_POSITIVE, f32::MAX]) && all_finite(&[]));
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(!all_finite(&[1.0, bad, 2.0]));
        }
    }

    #[test]
    fn transposing_swaps_rows_and_columns() {
        assert_eq!(
            transposed(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2, 3),
            [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]
        );
    }
}
