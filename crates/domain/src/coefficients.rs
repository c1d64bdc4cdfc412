//! Coefficients: the numbers that stand for a person, and the algebra on them.
//!
//! A photo's coefficients are kept as they were predicted ([`StoredCoefficients`]), so that photos
//! can come and go: an identity's are the mean over its photos, recomputed from the stored rows, and
//! only then normalised per token. Nothing here prints a value, and every buffer is wiped on drop.

use std::fmt;

use half::f16;
use half::slice::HalfFloatSliceExt as _;
use thiserror::Error;
use zeroize::{Zeroize as _, Zeroizing};

/// Added to a token's squared length before the square root, so that an empty token stays finite.
/// It vanishes in f16, which is why the normalisation never happens there.
const EPSILON: f64 = 1e-8;

/// How far the weights of a blend may be from a sum of one.
const WEIGHT_TOLERANCE: f32 = 1e-4;

const MAGIC: [u8; 3] = *b"LKC";
const VERSION: u8 = 1;
const HEADER: usize = 12;

/// What can be wrong with coefficients. No variant carries one of their values.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum CoefficientsError {
    /// One of the two sizes is zero, or their product is beyond what can be addressed.
    #[error("coefficients of {tokens} tokens x {k} numbers: both sizes must be at least 1")]
    Empty {
        /// Number of tokens given.
        tokens: usize,
        /// Numbers per token given.
        k: usize,
    },
    /// The number of values does not fit the sizes.
    #[error("coefficients of {tokens} tokens x {k} numbers need {expected} {unit}, found {found}")]
    Length {
        /// Number of tokens given.
        tokens: usize,
        /// Numbers per token given.
        k: usize,
        /// How many values or bytes belong to these sizes.
        expected: usize,
        /// How many there were.
        found: usize,
        /// What was counted: `values` or `bytes`.
        unit: &'static str,
    },
    /// A value is infinite or not a number.
    #[error("token {token} of the coefficients is not finite; encode the photo again")]
    NotFinite {
        /// Index of the first such token.
        token: usize,
    },
    /// Two sets of coefficients that belong together differ in shape.
    #[error(
        "coefficients of {found_tokens} x {found_k} among others of {tokens} x {k}: \
         they come from different encoders and cannot be combined"
    )]
    Shape {
        /// Tokens of the first set.
        tokens: usize,
        /// Numbers per token of the first set.
        k: usize,
        /// Tokens of the set that differs.
        found_tokens: usize,
        /// Numbers per token of the set that differs.
        found_k: usize,
    },
    /// There is nothing to combine.
    #[error("no coefficients given: at least one set is needed")]
    Nothing,
    /// A blend's weight is negative or not a number.
    #[error("weight {index} of the blend is negative or not a number; weights are 0 or more")]
    Weight {
        /// Index of the first such weight.
        index: usize,
    },
    /// A blend's weights do not sum to one.
    #[error("the weights of the blend sum to {sum}, expected 1 (within 0.0001)")]
    WeightSum {
        /// What they sum to.
        sum: f32,
    },
    /// The bytes do not start as stored coefficients do.
    #[error("not stored coefficients: the header is missing or of another kind")]
    Header,
    /// The bytes were written by another version of this software.
    #[error("stored coefficients of version {found}, this software reads version {expected}")]
    Version {
        /// The version that the bytes name.
        found: u8,
        /// The version that is read here.
        expected: u8,
    },
}

/// Coefficients of one photo or one identity: `tokens` x `k` finite f32 numbers, row by row.
///
/// `Debug` shows the shape only, and the numbers are wiped on drop.
#[derive(Clone, PartialEq)]
pub struct Coefficients {
    tokens: usize,
    k: usize,
    values: Zeroizing<Vec<f32>>,
}

impl Coefficients {
    /// Takes `values`, row by row.
    ///
    /// # Errors
    /// If a size is zero, the count does not fit, or a value is not finite.
    pub fn new(tokens: usize, k: usize, values: Vec<f32>) -> Result<Self, CoefficientsError> {
        let values = Zeroizing::new(values);
        let expected = numbers(tokens, k)?;
        if values.len() != expected {
            return Err(length(tokens, k, expected, values.len(), "values"));
        }
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            return Err(CoefficientsError::NotFinite { token: at / k });
        }
        Ok(Self { tokens, k, values })
    }

    /// Number of tokens: 8 for each attention module that the LoRA reaches.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Numbers per token: the size of the basis.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The numbers, row by row: `[tokens, k]`.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Each token t as t · rsqrt(Σt² + 1e-8): what synthesis takes.
    #[must_use]
    pub fn normalised(&self) -> Self {
        let mut values = self.values.clone();
        for token in values.chunks_exact_mut(self.k) {
            let scale = (squared_length(token) + EPSILON).sqrt().recip();
            for value in token {
                *value = (f64::from(*value) * scale) as f32;
            }
        }
        Self { values, ..*self }
    }

    /// The numbers as little-endian f16, row by row. Meant for normalised tokens: values beyond
    /// ±65504 do not fit f16 and are refused when the bytes are read.
    pub fn to_f16_bytes(&self) -> Zeroizing<Vec<u8>> {
        let mut halves = vec![f16::ZERO; self.values.len()];
        halves.convert_from_f32_slice(&self.values);
        let bytes = halves_to_bytes(&halves);
        wipe(&mut halves);
        bytes
    }

    /// Reads what [`Coefficients::to_f16_bytes`] wrote.
    ///
    /// # Errors
    /// If a size is zero, the count of bytes does not fit, or a value is not finite.
    pub fn from_f16_bytes(
        tokens: usize,
        k: usize,
        bytes: &[u8],
    ) -> Result<Self, CoefficientsError> {
        let expected = numbers(tokens, k)?.saturating_mul(2);
        if bytes.len() != expected {
            return Err(length(tokens, k, expected, bytes.len(), "bytes"));
        }
        let values = bytes
            .chunks_exact(2)
            .map(|pair| half_at(pair).to_f32())
            .collect();
        Self::new(tokens, k, values)
    }
}

impl fmt::Debug for Coefficients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Coefficients[{} x {}]", self.tokens, self.k)
    }
}

/// Coefficients of one photo in the form that is kept: each token as an f16 unit vector and its
/// length as f32, before any mean. `Debug` shows the shape only; wiped on drop.
#[derive(Clone, PartialEq)]
pub struct StoredCoefficients {
    tokens: usize,
    k: usize,
    lengths: Zeroizing<Vec<f32>>,
    units: Vec<f16>,
}

impl StoredCoefficients {
    /// Splits each token into length and direction. An all-zero token has length 0.
    pub fn from_coefficients(coefficients: &Coefficients) -> Self {
        let mut lengths = Zeroizing::new(Vec::with_capacity(coefficients.tokens));
        let mut units = Vec::with_capacity(coefficients.values.len());
        for token in coefficients.values.chunks_exact(coefficients.k) {
            let length = squared_length(token).sqrt();
            let scale = if length > 0.0 { length.recip() } else { 0.0 };
            lengths.push((length as f32).min(f32::MAX));
            units.extend(
                token
                    .iter()
                    .map(|value| f16::from_f64(f64::from(*value) * scale)),
            );
        }
        Self {
            tokens: coefficients.tokens,
            k: coefficients.k,
            lengths,
            units,
        }
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Numbers per token.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The coefficients as predicted, to the precision of f16.
    pub fn to_coefficients(&self) -> Coefficients {
        let mut values = Zeroizing::new(vec![0.0; self.units.len()]);
        self.add_to(&mut values);
        Coefficients {
            tokens: self.tokens,
            k: self.k,
            values,
        }
    }

    /// The bytes to keep: `LKC`, a version byte, tokens and k as little-endian u32, the lengths as
    /// little-endian f32, the units as little-endian f16.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let size = HEADER + 4 * self.tokens + 2 * self.units.len();
        let mut bytes = Zeroizing::new(Vec::with_capacity(size));
        bytes.extend(MAGIC);
        bytes.push(VERSION);
        bytes.extend((self.tokens as u32).to_le_bytes());
        bytes.extend((self.k as u32).to_le_bytes());
        bytes.extend(self.lengths.iter().flat_map(|length| length.to_le_bytes()));
        bytes.extend(self.units.iter().flat_map(|unit| unit.to_le_bytes()));
        bytes
    }

    /// Reads what [`StoredCoefficients::to_bytes`] wrote.
    ///
    /// # Errors
    /// If the header is not one of ours, the version is unknown, the size does not fit the header,
    /// or a value is not finite.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CoefficientsError> {
        let (tokens, k, body) = read_header(bytes)?;
        let expected = 4 * tokens + 2 * numbers(tokens, k)?;
        if body.len() != expected {
            return Err(length(tokens, k, expected + HEADER, bytes.len(), "bytes"));
        }
        let (lengths, units) = body.split_at(4 * tokens);
        let stored = Self {
            tokens,
            k,
            lengths: Zeroizing::new(lengths.chunks_exact(4).map(float_at).collect()),
            units: units.chunks_exact(2).map(half_at).collect(),
        };
        stored.check_finite()?;
        Ok(stored)
    }

    fn check_finite(&self) -> Result<(), CoefficientsError> {
        let tokens = self.lengths.iter().zip(self.units.chunks_exact(self.k));
        for (token, (length, unit)) in tokens.enumerate() {
            // The product bounds every value of the token, since no part of a unit exceeds one.
            if !length.is_finite()
                || unit
                    .iter()
                    .any(|part| !(0.0..=1.0).contains(&part.to_f32().abs()))
            {
                return Err(CoefficientsError::NotFinite { token });
            }
        }
        Ok(())
    }

    /// Adds the coefficients to `sum`, which has `tokens * k` values.
    fn add_to(&self, sum: &mut [f32]) {
        let rows = sum
            .chunks_exact_mut(self.k)
            .zip(self.units.chunks_exact(self.k));
        for ((row, unit), length) in rows.zip(self.lengths.iter()) {
            for (value, part) in row.iter_mut().zip(unit) {
                *value += part.to_f32() * length;
            }
        }
    }
}

impl Drop for StoredCoefficients {
    fn drop(&mut self) {
        wipe(&mut self.units);
    }
}

impl fmt::Debug for StoredCoefficients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoredCoefficients[{} x {}]", self.tokens, self.k)
    }
}

/// The mean over an identity's photos, not normalised.
///
/// # Errors
/// If there is no photo, or the photos come from encoders of different shapes.
pub fn mean(photos: &[StoredCoefficients]) -> Result<Coefficients, CoefficientsError> {
    let first = photos.first().ok_or(CoefficientsError::Nothing)?;
    let mut values = vec![0.0; first.units.len()];
    for photo in photos {
        same_shape((first.tokens, first.k), (photo.tokens, photo.k))?;
        photo.add_to(&mut values);
    }
    let share = (photos.len() as f32).recip();
    for value in &mut values {
        *value *= share;
    }
    Coefficients::new(first.tokens, first.k, values)
}

/// An identity's coefficients: the mean over its photos, then normalised. What a render uses.
///
/// # Errors
/// As [`mean`].
pub fn identity(photos: &[StoredCoefficients]) -> Result<Coefficients, CoefficientsError> {
    Ok(mean(photos)?.normalised())
}

/// The same of photos whose coefficients were never stored: not rounded to f16 before the mean.
///
/// # Errors
/// As [`mean`].
pub fn combine(photos: &[Coefficients]) -> Result<Coefficients, CoefficientsError> {
    let first = photos.first().ok_or(CoefficientsError::Nothing)?;
    let mut sums = vec![0.0_f64; first.values.len()];
    for photo in photos {
        same_shape((first.tokens, first.k), (photo.tokens, photo.k))?;
        for (sum, value) in sums.iter_mut().zip(photo.values.iter()) {
            *sum += f64::from(*value);
        }
    }
    let count = photos.len() as f64;
    let mean = sums.iter().map(|sum| (sum / count) as f32).collect();
    Ok(Coefficients::new(first.tokens, first.k, mean)?.normalised())
}

/// Blends identities: the weighted mean of their normalised tokens, normalised again.
///
/// # Errors
/// If there is nothing to blend, the shapes differ, a weight is negative, or the weights do not sum
/// to 1 within 1e-4.
pub fn blend(parts: &[(Coefficients, f32)]) -> Result<Coefficients, CoefficientsError> {
    let (first, _) = parts.first().ok_or(CoefficientsError::Nothing)?;
    check_weights(parts)?;
    let mut values = vec![0.0; first.values.len()];
    for (part, weight) in parts {
        same_shape((first.tokens, first.k), (part.tokens, part.k))?;
        for (value, add) in values.iter_mut().zip(part.normalised().values()) {
            *value += add * weight;
        }
    }
    Ok(Coefficients::new(first.tokens, first.k, values)?.normalised())
}

fn check_weights(parts: &[(Coefficients, f32)]) -> Result<(), CoefficientsError> {
    if let Some(index) = parts
        .iter()
        .position(|(_, weight)| weight.is_nan() || *weight < 0.0)
    {
        return Err(CoefficientsError::Weight { index });
    }
    let sum: f32 = parts.iter().map(|(_, weight)| weight).sum();
    if (sum - 1.0).abs() > WEIGHT_TOLERANCE {
        return Err(CoefficientsError::WeightSum { sum });
    }
    Ok(())
}

fn same_shape(first: (usize, usize), other: (usize, usize)) -> Result<(), CoefficientsError> {
    if first == other {
        return Ok(());
    }
    let ((tokens, k), (found_tokens, found_k)) = (first, other);
    Err(CoefficientsError::Shape {
        tokens,
        k,
        found_tokens,
        found_k,
    })
}

/// `tokens * k`, if both are at least one and fit the u32 that the stored form keeps.
fn numbers(tokens: usize, k: usize) -> Result<usize, CoefficientsError> {
    let fits = |size: usize| size > 0 && u32::try_from(size).is_ok();
    match tokens.checked_mul(k) {
        Some(numbers) if fits(tokens) && fits(k) && fits(numbers) => Ok(numbers),
        _ => Err(CoefficientsError::Empty { tokens, k }),
    }
}

fn length(
    tokens: usize,
    k: usize,
    expected: usize,
    found: usize,
    unit: &'static str,
) -> CoefficientsError {
    CoefficientsError::Length {
        tokens,
        k,
        expected,
        found,
        unit,
    }
}

fn read_header(bytes: &[u8]) -> Result<(usize, usize, &[u8]), CoefficientsError> {
    let (header, body) = bytes
        .split_at_checked(HEADER)
        .ok_or(CoefficientsError::Header)?;
    let (magic, rest) = header.split_at(MAGIC.len());
    let (version, sizes) = rest.split_at(1);
    if magic != MAGIC {
        return Err(CoefficientsError::Header);
    }
    if version[0] != VERSION {
        return Err(CoefficientsError::Version {
            found: version[0],
            expected: VERSION,
        });
    }
    let size = |at: usize| {
        u32::from_le_bytes([sizes[at], sizes[at + 1], sizes[at + 2], sizes[at + 3]]) as usize
    };
    Ok((size(0), size(4), body))
}

fn squared_length(token: &[f32]) -> f64 {
    token
        .iter()
        .map(|value| f64::from(*value) * f64::from(*value))
        .sum()
}

fn half_at(bytes: &[u8]) -> f16 {
    f16::from_le_bytes([bytes[0], bytes[1]])
}

fn float_at(bytes: &[u8]) -> f32 {
    f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

fn halves_to_bytes(halves: &[f16]) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(2 * halves.len()));
    bytes.extend(halves.iter().flat_map(|half| half.to_le_bytes()));
    bytes
}

fn wipe(halves: &mut [f16]) {
    halves.reinterpret_cast_mut().zeroize();
}

#[cfg(test)]
mod tests;
