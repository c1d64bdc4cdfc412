//! Face embeddings: what a recogniser says of a face, to tell whether two photos show one person.

use std::fmt;

use zeroize::{Zeroize as _, Zeroizing};

/// How far the length of an embedding may be from one.
const UNIT_TOLERANCE: f32 = 1e-2;
const NUMBER: usize = size_of::<f32>();

/// A face embedding of unit length, wiped from memory when dropped. It is as personal as a photo.
#[derive(Clone, PartialEq)]
pub struct FaceEmbedding(Vec<f32>);

/// Why numbers are no face embedding. The numbers themselves are not in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FaceEmbeddingError {
    /// The length is not one: zero, another one, or not a number.
    #[error("a face embedding has another length than one; divide it by its length")]
    Length,
    /// Bytes that are no whole numbers.
    #[error("a face embedding of {bytes} bytes; expected a multiple of {NUMBER}")]
    Bytes {
        /// How many.
        bytes: usize,
    },
}

impl FaceEmbedding {
    /// Takes the numbers of an embedding of unit length.
    ///
    /// # Errors
    /// If the length is not one, to 1 %.
    pub fn new(values: Vec<f32>) -> Result<Self, FaceEmbeddingError> {
        let embedding = Self(values);
        let unit = (length(&embedding.0) - 1.0).abs() < UNIT_TOLERANCE;
        unit.then_some(embedding).ok_or(FaceEmbeddingError::Length)
    }

    /// The cosine to the mean of other embeddings, −1 to 1: `None` without others, for others of another size, or if
    /// they cancel each other out.
    pub fn cosine_to_mean(&self, others: &[Self]) -> Option<f32> {
        let sum = sum(others).filter(|sum| sum.len() == self.0.len())?;
        let dot: f32 = self.0.iter().zip(sum.iter()).map(|(a, b)| a * b).sum();
        let cosine = dot / (length(&self.0) * length(&sum));
        cosine.is_finite().then(|| cosine.clamp(-1.0, 1.0))
    }

    /// The direction of the embeddings' mean, of unit length: `None` without any, for some of another size, or if they
    /// cancel each other out.
    pub fn mean(embeddings: &[Self]) -> Option<Self> {
        let mut sum = sum(embeddings)?;
        let length = length(&sum);
        sum.iter_mut().for_each(|value| *value /= length);
        Self::new(std::mem::take(&mut *sum)).ok()
    }

    /// As little-endian f32.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(self.0.len() * NUMBER));
        self.0
            .iter()
            .for_each(|value| bytes.extend(value.to_le_bytes()));
        bytes
    }

    /// From little-endian f32.
    ///
    /// # Errors
    /// Bytes that are no whole numbers, or numbers whose length is not one.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FaceEmbeddingError> {
        let (numbers, []) = bytes.as_chunks::<NUMBER>() else {
            return Err(FaceEmbeddingError::Bytes { bytes: bytes.len() });
        };
        Self::new(numbers.iter().copied().map(f32::from_le_bytes).collect())
    }
}

/// The sum of embeddings of one size.
fn sum(embeddings: &[FaceEmbedding]) -> Option<Zeroizing<Vec<f32>>> {
    let size = embeddings.first()?.0.len();
    let mut sum = Zeroizing::new(vec![0.0; size]);
    for embedding in embeddings {
        if embedding.0.len() != size {
            return None;
        }
        sum.iter_mut()
            .zip(&embedding.0)
            .for_each(|(sum, value)| *sum += value);
    }
    Some(sum)
}

fn length(values: &[f32]) -> f32 {
    values.iter().map(|value| value * value).sum::<f32>().sqrt()
}

impl Drop for FaceEmbedding {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for FaceEmbedding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaceEmbedding[{}]", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn embedding(values: &[f32]) -> FaceEmbedding {
        FaceEmbedding::new(values.to_vec()).unwrap()
    }

    #[test]
    fn the_cosine_is_to_the_direction_of_the_mean() {
        let (x, y) = (embedding(&[1.0, 0.0]), embedding(&[0.0, 1.0]));
        let between = x.cosine_to_mean(&[x.clone(), y.clone()]).unwrap();
        assert!((between - 0.5_f32.sqrt()).abs() < 1e-6);
        assert_eq!(x.cosine_to_mean(std::slice::from_ref(&y)), Some(0.0));
        assert_eq!(x.cosine_to_mean(&[embedding(&[-1.0, 0.0])]), Some(-1.0));
    }

    #[test]
    fn there_is_no_cosine_to_nothing() {
        let x = embedding(&[1.0, 0.0]);
        assert_eq!(x.cosine_to_mean(&[]), None);
        assert_eq!(
            x.cosine_to_mean(&[x.clone(), embedding(&[-1.0, 0.0])]),
            None
        );
        assert_eq!(x.cosine_to_mean(&[embedding(&[1.0, 0.0, 0.0])]), None);
    }

    #[test]
    fn a_mean_has_unit_length_and_their_direction() {
        let (x, y) = (embedding(&[1.0, 0.0]), embedding(&[0.0, 1.0]));
        let mean = FaceEmbedding::mean(&[x.clone(), y.clone()]).unwrap();
        let half = 0.5_f32.sqrt();
        assert!((mean.0[0] - half).abs() < 1e-6 && (mean.0[1] - half).abs() < 1e-6);
        assert_eq!(FaceEmbedding::mean(&[]), None);
        let away = embedding(&[-1.0, 0.0]);
        assert_eq!(FaceEmbedding::mean(&[x.clone(), away]), None);
        assert_eq!(FaceEmbedding::mean(&[x, embedding(&[1.0, 0.0, 0.0])]), None);
    }

    #[test]
    fn only_numbers_of_unit_length_are_an_embedding() {
        for values in [&[][..], &[0.0], &[2.0], &[f32::NAN], &[f32::INFINITY, 1.0]] {
            assert_eq!(
                FaceEmbedding::new(values.to_vec()),
                Err(FaceEmbeddingError::Length)
            );
        }
        assert_eq!(
            FaceEmbedding::from_bytes(&[0; 5]),
            Err(FaceEmbeddingError::Bytes { bytes: 5 })
        );
    }

    #[test]
    fn bytes_and_back_is_the_same_and_nothing_is_shown() {
        let stored = embedding(&[0.6, -0.8]);
        assert_eq!(
            FaceEmbedding::from_bytes(&stored.to_bytes()),
            Ok(stored.clone())
        );
        assert_eq!(format!("{stored:?}"), "FaceEmbedding[2]");
    }
}
