//! One token's coefficients times its basis matrices, straight from the bytes of the file.
//!
//! The product reads each number of the basis once and does one multiplication with it, so that memory
//! is the limit: no f32 copy is made, and a block of sums stays in the first-level cache.

use candle_core::DType;
use half::slice::{HalfBitsSliceExt as _, HalfFloatSliceExt as _};
use half::{bf16, f16};

/// Sums kept at a time: 8 KiB, with as much again for the converted row.
const BLOCK: usize = 2048;

/// Σ cᵢ · basisᵢ, where `bytes` holds one little-endian matrix of `size` numbers per coefficient.
pub(crate) fn product(coefficients: &[f32], bytes: &[u8], dtype: DType, size: usize) -> Vec<f32> {
    let mut sums = vec![0.0; size];
    let width = dtype.size_in_bytes();
    let mut row = Row::new();
    for (block, sums) in sums.chunks_mut(BLOCK).enumerate() {
        for (i, coefficient) in coefficients.iter().enumerate() {
            let start = (i * size + block * BLOCK) * width;
            let values = row.read(&bytes[start..start + sums.len() * width], dtype);
            sums.iter_mut()
                .zip(values)
                .for_each(|(sum, value)| *sum += coefficient * value);
        }
    }
    sums
}

/// Room for part of a basis matrix, as bits and as f32.
struct Row {
    bits: [u16; BLOCK],
    values: [f32; BLOCK],
}

impl Row {
    fn new() -> Self {
        Self {
            bits: [0; BLOCK],
            values: [0.0; BLOCK],
        }
    }

    /// Converts at most [`BLOCK`] numbers.
    fn read(&mut self, bytes: &[u8], dtype: DType) -> &[f32] {
        let count = bytes.len() / dtype.size_in_bytes();
        let (bits, values) = (&mut self.bits[..count], &mut self.values[..count]);
        if dtype == DType::F32 {
            let words = bytes.chunks_exact(4);
            for (value, b) in values.iter_mut().zip(words) {
                *value = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            }
            return values;
        }
        for (bits, b) in bits.iter_mut().zip(bytes.chunks_exact(2)) {
            *bits = u16::from_le_bytes([b[0], b[1]]);
        }
        match dtype {
            DType::BF16 => bits.reinterpret_cast::<bf16>().convert_to_f32_slice(values),
            _ => bits.reinterpret_cast::<f16>().convert_to_f32_slice(values),
        }
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_type_gives_the_same_sums() {
        let (k, size) = (5, BLOCK + 3);
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
}
