//! A prompt's tokens with their weights, normalised as the authors of HyperLoRA do it: "length+mean"
//! of ComfyUI's advanced text encoding, and AUTOMATIC1111's way of applying them.

use candle_core::{DType, Result as Compute, Tensor};

use super::weights::Segment;
use crate::Error;
use crate::tokenizer::Tokenizer;

/// Largest magnitude of a weight: far beyond it there is nothing but one word.
const MAX_WEIGHT: f64 = 100.0;

/// A prompt as one encoder's ids, without start, end and padding.
pub struct Tokens {
    pub ids: Vec<u32>,
    /// A weight per id; none, if every one is 1.
    pub weights: Option<Vec<f64>>,
}

impl Tokens {
    /// Tokenizes every segment by itself.
    ///
    /// # Errors
    /// Weights out of range; signs that the vocabulary lacks.
    pub fn read(
        tokenizer: &Tokenizer,
        field: &'static str,
        segments: &[Segment],
    ) -> Result<Tokens, Error> {
        let (mut ids, mut weights) = (Vec::new(), Vec::new());
        for segment in segments {
            check_weight(field, segment.weight)?;
            for (word, weight) in words(tokenizer, field, segment)? {
                weights.extend(std::iter::repeat_n(weight, word.len()));
                ids.extend(word);
            }
        }
        centre(&mut weights);
        let neutral = weights.iter().all(|weight| weight - 1.0 == 0.0);
        let weights = (!neutral).then_some(weights);
        Ok(Tokens { ids, weights })
    }
}

/// The ids of a segment's words, and the weight of each of a word's tokens.
fn words(
    tokenizer: &Tokenizer,
    field: &'static str,
    segment: &Segment,
) -> Result<Vec<(Vec<u32>, f64)>, Error> {
    if segment.weight - 1.0 == 0.0 {
        return Ok(vec![(tokenizer.ids(field, &segment.text)?, 1.0)]);
    }
    let words = segment.text.split_whitespace().map(|word| {
        let ids = tokenizer.ids(field, word)?;
        let weight = spread(segment.weight, ids.len());
        Ok((ids, weight))
    });
    words.collect()
}

/// "length": the change of a word of n tokens is divided among them so that its magnitude, the root
/// of the sum of squares, stays.
fn spread(weight: f64, tokens: usize) -> f64 {
    1.0 + (weight - 1.0) / (tokens.max(1) as f64).sqrt()
}

/// "mean": the weights of a prompt are shifted so that their mean is 1.
fn centre(weights: &mut [f64]) {
    let mean = weights.iter().sum::<f64>() / weights.len().max(1) as f64;
    if mean - 1.0 != 0.0 {
        for weight in weights {
            *weight += 1.0 - mean;
        }
    }
}

fn check_weight(field: &'static str, weight: f64) -> Result<(), Error> {
    if weight.abs() <= MAX_WEIGHT {
        return Ok(());
    }
    let problem = format!(
        "expected weights from -{MAX_WEIGHT} to {MAX_WEIGHT}; nested brackets multiply, and `\\(` is \
         a bracket without a weight"
    );
    Err(Error::bad_request(field, problem))
}

/// Multiplies each token's states [w, n, c] by its weight, then all of them by one number that gives
/// them the mean that they had. Start, end and padding weigh 1. Where the new mean is 0, there is no
/// such number, and the states stay as they are weighted.
pub fn apply(states: &Tensor, weights: &[f64]) -> Compute<Tensor> {
    let (w, n, _) = states.dims3()?;
    let plain = states.to_dtype(DType::F32)?;
    let column = Tensor::from_vec(in_windows(weights, w, n), (w, n, 1), states.device())?;
    let weighted = plain.broadcast_mul(&column)?;
    let ratio = mean(&plain)? / mean(&weighted)?;
    let scaled = if ratio.is_finite() {
        (weighted * ratio)?
    } else {
        weighted
    };
    match states.dtype() {
        // What does not fit becomes the largest number rather than infinity.
        DType::F16 => scaled.clamp(-65504f32, 65504f32)?.to_dtype(DType::F16),
        dtype => scaled.to_dtype(dtype),
    }
}

/// The weights of `w` windows of `n` positions.
fn in_windows(weights: &[f64], w: usize, n: usize) -> Vec<f32> {
    let mut all = vec![1f32; w * n];
    let body = n.saturating_sub(2).max(1);
    for (window, weights) in all.chunks_mut(n).zip(weights.chunks(body)) {
        for (slot, &weight) in window.iter_mut().skip(1).zip(weights) {
            *slot = weight as f32;
        }
    }
    all
}

fn mean(x: &Tensor) -> Compute<f64> {
    x.to_dtype(DType::F64)?.mean_all()?.to_scalar()
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn a_words_change_keeps_its_magnitude() {
        let each = spread(1.5, 3) - 1.0;
        assert!(((3.0 * each * each).sqrt() - 0.5).abs() < 1e-12);
        assert!((spread(0.5, 4) - 0.75).abs() < 1e-12);
    }

    #[test]
    fn the_mean_of_the_weights_becomes_one() {
        let mut weights = [1.0, 1.4, 1.0, 0.8, 0.9];
        centre(&mut weights);
        assert!((weights.iter().sum::<f64>() - 5.0).abs() < 1e-12);
        assert!((weights[1] - weights[3] - 0.6).abs() < 1e-12);
        centre(&mut []);
    }

    #[test]
    fn weights_fill_windows_between_start_and_end() {
        let placed = in_windows(&[2.0, 3.0, 4.0], 2, 4);
        assert_eq!(placed, [1.0, 2.0, 3.0, 1.0, 1.0, 4.0, 1.0, 1.0]);
    }

    #[test]
    fn a_mean_of_zero_leaves_the_weighted_states() {
        let states = Tensor::new(&[[[1f32, 1.0], [1.0, -0.5], [1.0, 1.0]]], &Device::Cpu).unwrap();
        let weighted = apply(&states, &[-8.0]).unwrap();
        assert_eq!(
            weighted.get(0).unwrap().to_vec2::<f32>().unwrap()[1],
            [-8.0, 4.0]
        );
    }

    #[test]
    fn half_precision_never_becomes_infinite() {
        let states = Tensor::full(3000f32, (1, 3, 2), &Device::Cpu).unwrap();
        let states = states.to_dtype(DType::F16).unwrap();
        let weighted = apply(&states, &[-100.0]).unwrap();
        let values = weighted.flatten_all().unwrap().to_vec1::<half::f16>();
        assert!(values.unwrap().iter().all(|v| v.is_finite()));
    }
}
