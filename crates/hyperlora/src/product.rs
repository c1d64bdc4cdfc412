//! One token's coefficients times its basis matrices, straight from the bytes of the file.
//!
//! The product reads each number of the basis once and does one multiplication with it, so that memory
//! is the limit: no f32 copy is made, and a block of sums stays in the first-level cache.

use candle_core::DType;
use half::{bf16, f16};

/// Sums kept at a time: 16 KiB, half of a first-level cache.
const BLOCK: usize = 4096;

/// Rows added at a time: a sum is then loaded and stored once for as many.
const ROWS: usize = 4;

/// Σ cᵢ · basisᵢ, where `bytes` holds one little-endian matrix of `size` numbers per coefficient.
pub(crate) fn product(coefficients: &[f32], bytes: &[u8], dtype: DType, size: usize) -> Vec<f32> {
    let mut sums = vec![0.0; size];
    let width = dtype.size_in_bytes();
    for (block, sums) in sums.chunks_mut(BLOCK).enumerate() {
        let row = |i: usize| {
            let start = (i * size + block * BLOCK) * width;
            &bytes[start..start + sums.len() * width]
        };
        let (groups, rest) = coefficients.as_chunks::<ROWS>();
        let rows: Vec<&[u8]> = (0..coefficients.len()).map(row).collect();
        let (row_groups, row_rest) = rows.as_chunks::<ROWS>();
        for (rows, factors) in row_groups.iter().zip(groups) {
            add_rows(sums, rows, dtype, factors);
        }
        for (row, factor) in row_rest.iter().zip(rest) {
            add_rows(sums, &[*row], dtype, &[*factor]);
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

/// sums += Σ factor · row.
fn add_rows<const R: usize>(sums: &mut [f32], rows: &[&[u8]; R], dtype: DType, factors: &[f32; R]) {
    #[cfg(target_arch = "x86_64")]
    if avx2::available() {
        return avx2::add_rows(sums, rows, dtype, factors);
    }
    for (row, factor) in rows.iter().zip(factors) {
        add_row(sums, row, dtype, *factor);
    }
}

fn add_row(sums: &mut [f32], row: &[u8], dtype: DType, factor: f32) {
    match dtype {
        DType::F16 => add(sums, row, factor, |b| f16::from_le_bytes(b).to_f32()),
        DType::BF16 => add(sums, row, factor, |b| bf16::from_le_bytes(b).to_f32()),
        _ => add(sums, row, factor, f32::from_le_bytes),
    }
}

fn add<const N: usize>(sums: &mut [f32], row: &[u8], factor: f32, read: impl Fn([u8; N]) -> f32) {
    let (numbers, _) = row.as_chunks::<N>();
    for (sum, number) in sums.iter_mut().zip(numbers) {
        *sum += factor * read(*number);
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        __m256, _mm_loadu_si128, _mm256_castsi256_ps, _mm256_cvtepu16_epi32, _mm256_cvtph_ps,
        _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_slli_epi32, _mm256_storeu_ps,
    };

    use super::{DType, add_row};

    /// Numbers of a register.
    const EIGHT: usize = 8;

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
    pub fn add_rows<const R: usize>(
        sums: &mut [f32],
        rows: &[&[u8]; R],
        dtype: DType,
        factors: &[f32; R],
    ) {
        debug_assert!(available());
        // SAFETY: the caller has asked the processor.
        unsafe {
            match dtype {
                DType::F16 => add_eights(sums, rows, factors, |n| read_f16(n)),
                DType::BF16 => add_eights(sums, rows, factors, |n| read_bf16(n)),
                _ => add_eights(sums, rows, factors, |n| read_f32(n)),
            }
        }
        let done = sums.len() / EIGHT * EIGHT;
        for (row, factor) in rows.iter().zip(factors) {
            add_row(
                &mut sums[done..],
                &row[done * dtype.size_in_bytes()..],
                dtype,
                *factor,
            );
        }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[allow(unsafe_code, reason = "unaligned loads and stores of eight numbers")]
    fn add_eights<const R: usize, const BYTES: usize>(
        sums: &mut [f32],
        rows: &[&[u8]; R],
        factors: &[f32; R],
        read: impl Fn(&[u8; BYTES]) -> __m256,
    ) {
        let (eights, _) = sums.as_chunks_mut::<EIGHT>();
        let rows = rows.map(|row| &row.as_chunks::<BYTES>().0[..eights.len()]);
        let factors = factors.map(|factor| _mm256_set1_ps(factor));
        for (at, eight) in eights.iter_mut().enumerate() {
            // SAFETY: the array holds eight numbers, and the load asks for no alignment.
            let mut sum = unsafe { _mm256_loadu_ps(eight.as_ptr()) };
            for (row, factor) in rows.iter().zip(factors) {
                sum = _mm256_fmadd_ps(read(&row[at]), factor, sum);
            }
            // SAFETY: as above.
            unsafe { _mm256_storeu_ps(eight.as_mut_ptr(), sum) };
        }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[allow(unsafe_code, reason = "an unaligned load")]
    fn read_f16(numbers: &[u8; 16]) -> __m256 {
        // SAFETY: the array is as long as the load, which asks for no alignment.
        _mm256_cvtph_ps(unsafe { _mm_loadu_si128(numbers.as_ptr().cast()) })
    }

    /// bf16 is the upper half of an f32.
    #[target_feature(enable = "avx2,fma,f16c")]
    #[allow(unsafe_code, reason = "an unaligned load")]
    fn read_bf16(numbers: &[u8; 16]) -> __m256 {
        // SAFETY: the array is as long as the load, which asks for no alignment.
        let wide = _mm256_cvtepu16_epi32(unsafe { _mm_loadu_si128(numbers.as_ptr().cast()) });
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[allow(unsafe_code, reason = "an unaligned load")]
    fn read_f32(numbers: &[u8; 32]) -> __m256 {
        // SAFETY: the array is as long as the load, which asks for no alignment.
        unsafe { _mm256_loadu_ps(numbers.as_ptr().cast()) }
    }
}

#[cfg(test)]
mod tests {
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
