//! HyperLoRA as it is trained: from CLIP states and a face embedding to each sample's low-rank terms, with gradients. The
//! weights bear the released files' names, so what is saved is what `likeness-hyperlora` loads.

mod basis;
mod resampler;

use candle_core::{D, Result as Compute, Tensor};

pub use basis::{Basis, Module, batch_terms, modules, write_modules};
pub use resampler::{IdProjector, Resampler};

/// Added to a token's squared length before the root is taken; the released models' value.
const EPS: f64 = 1e-8;

/// Tokens of unit length from those of one photo each, [b, tokens, k] both.
///
/// # Errors
/// A failing device.
pub fn normalised(coefficients: &Tensor) -> Compute<Tensor> {
    let squares = (coefficients.sqr()?.sum_keepdim(D::Minus1)? + EPS)?;
    coefficients.broadcast_div(&squares.sqrt()?)
}

#[cfg(test)]
mod tests;
