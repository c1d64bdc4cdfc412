//! The autoencoder's loss.

use candle_core::{D, Result as Compute, Tensor};
use likeness_sdxl::parts::Vae;

/// Weights of the terms beside the mean absolute error, whose weight is 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Terms {
    /// The mean squared error.
    pub squared: f64,
    /// The mean absolute error of the differences between neighbouring pixels: edges stay sharp.
    pub edges: f64,
    /// The Kullback-Leibler distance of the latents' distribution from the normal one, per latent.
    pub normal: f64,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            squared: 2.0,
            edges: 0.5,
            normal: 1e-4,
        }
    }
}

/// What one batch gave.
#[derive(Debug)]
pub struct Outcome {
    /// A single number with its graph.
    pub loss: Tensor,
    /// The pictures after encoding and decoding, [b, 3, h, w].
    pub pictures: Tensor,
}

/// The loss of `pictures` [b, 3, h, w] from -1 to 1; `noise` [b, 4, h/factor, w/factor] draws the latents from their
/// distribution.
///
/// # Errors
/// A failing device; shapes that do not fit.
pub fn loss(vae: &Vae, pictures: &Tensor, noise: &Tensor, terms: Terms) -> Compute<Outcome> {
    let moments = vae.moments(pictures)?;
    let mean = moments.narrow(1, 0, 4)?;
    // As diffusers bounds it: beyond, the variance is no number that f32 can use.
    let log_variance = moments.narrow(1, 4, 4)?.clamp(-30f32, 20f32)?;
    let latents = (&mean + (log_variance.affine(0.5, 0.0)?.exp()? * noise)?)?;
    let found = vae.pictures(&latents)?;
    let error = (&found - pictures)?;
    let normal = ((mean.sqr()? + log_variance.exp()?)? - log_variance)?;
    let normal = (normal.mean_all()? - 1.0)?.affine(0.5 * terms.normal, 0.0)?;
    Ok(Outcome {
        loss: (error_terms(&error, terms)? + normal)?,
        pictures: found,
    })
}

/// The terms that look at pictures' error alone, [b, 3, h, w].
///
/// # Errors
/// A failing device.
pub fn error_terms(error: &Tensor, terms: Terms) -> Compute<Tensor> {
    let edges = (edges(error, D::Minus1)? + edges(error, D::Minus2)?)?;
    let loss = (error.abs()?.mean_all()? + (error.sqr()?.mean_all()? * terms.squared)?)?;
    loss + (edges * terms.edges)?
}

/// The mean absolute difference of neighbours along an axis.
fn edges(x: &Tensor, axis: D) -> Compute<Tensor> {
    let count = x.dim(axis)? - 1;
    (x.narrow(axis, 1, count)? - x.narrow(axis, 0, count)?)?
        .abs()?
        .mean_all()
}

/// Peak signal to noise ratio in decibels, of pictures from -1 to 1.
///
/// # Errors
/// A failing device; shapes that do not fit.
pub fn psnr(found: &Tensor, expected: &Tensor) -> Compute<f64> {
    let error = (found - expected)?.sqr()?.mean_all()?.to_scalar::<f32>()?;
    Ok(10.0 * (4.0 / f64::from(error)).log10())
}

#[cfg(test)]
mod tests;
