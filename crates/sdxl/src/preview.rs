//! Small pictures straight from latents, by a linear map that is fitted to the model's own
//! autoencoder when the first is asked for.

use std::sync::{Arc, OnceLock};

use candle_core::{DType, Device, Tensor};
use image::{Rgb, RgbImage};

use crate::Error;
use crate::noise::TorchNoise;
use crate::vae::Vae;

/// Latent channels and a constant.
const TERMS: usize = 5;
/// Latents decoded for the fit, as a square of this side.
const SIDE: usize = 16;
/// Latents are constant over patches of this side: noise that changes from latent to latent is
/// nothing that the autoencoder has ever seen.
const PATCH: usize = 4;
const FIT_PICTURES: usize = 4;
/// Any constant does; a fixed one keeps previews the same from load to load.
const FIT_SEED: u64 = 20_240_229;

/// Makes previews. Fitting decodes pictures, which takes seconds at full size on a CPU: it waits until
/// somebody wants one.
pub(crate) struct Previews {
    vae: Arc<Vae>,
    factor: usize,
    device: Device,
    map: OnceLock<PreviewMap>,
}

impl Previews {
    /// For an autoencoder with `factor` pixels per latent.
    pub fn new(vae: Arc<Vae>, factor: usize, device: Device) -> Previews {
        Previews {
            vae,
            factor,
            device,
            map: OnceLock::new(),
        }
    }

    /// A picture with one pixel per latent of `latents` [1, 4, h, w].
    pub fn picture(&self, latents: &Tensor) -> Result<RgbImage, Error> {
        let map = match self.map.get() {
            Some(map) => map,
            None => {
                let fitted = PreviewMap::fit(&self.vae, self.factor, &self.device)?;
                self.map.get_or_init(|| fitted)
            }
        };
        map.picture(latents)
    }
}

/// rgb = map · (latent channels, 1), per latent.
#[derive(Clone, Debug)]
struct PreviewMap {
    /// [term][colour].
    map: [[f64; 3]; TERMS],
}

impl PreviewMap {
    /// Decodes a few pseudo-random latents and solves for the map, least squares.
    fn fit(vae: &Vae, factor: usize, device: &Device) -> Result<PreviewMap, Error> {
        let mut noise = TorchNoise::new(FIT_SEED);
        let mut fit = LeastSquares::default();
        for _ in 0..FIT_PICTURES {
            let latents = patches(&mut noise);
            let tensor = Tensor::from_slice(&latents, (1, 4, SIDE, SIDE), device)?;
            let colours = vae.decode(&tensor)?.avg_pool2d(factor)?;
            fit.add(&latents, &host(&colours)?);
        }
        Ok(PreviewMap { map: fit.solve() })
    }

    fn picture(&self, latents: &Tensor) -> Result<RgbImage, Error> {
        let (_, _, height, width) = latents.dims4()?;
        let values = host(latents)?;
        let plane = height * width;
        Ok(RgbImage::from_fn(width as u32, height as u32, |x, y| {
            let at = y as usize * width + x as usize;
            let terms = terms(&values, plane, at);
            Rgb([0, 1, 2].map(|colour| {
                let value: f64 = terms
                    .iter()
                    .zip(&self.map)
                    .map(|(t, m)| t * m[colour])
                    .sum();
                ((value + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8
            }))
        }))
    }
}

fn host(x: &Tensor) -> Result<Vec<f32>, Error> {
    Ok(x.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}

/// The four channels at `at`, and 1.
fn terms(values: &[f32], plane: usize, at: usize) -> [f64; TERMS] {
    std::array::from_fn(|c| {
        if c < 4 {
            f64::from(values[c * plane + at])
        } else {
            1.0
        }
    })
}

fn patches(noise: &mut TorchNoise) -> Vec<f32> {
    let across = SIDE / PATCH;
    let coarse = noise.draw(4 * across * across);
    let value = |i: usize| {
        let (channel, y, x) = (i / (SIDE * SIDE), i / SIDE % SIDE, i % SIDE);
        coarse[(channel * across + y / PATCH) * across + x / PATCH]
    };
    (0..4 * SIDE * SIDE).map(value).collect()
}

/// The normal equations of the fit.
#[derive(Default)]
struct LeastSquares {
    square: [[f64; TERMS]; TERMS],
    cross: [[f64; 3]; TERMS],
}

impl LeastSquares {
    fn add(&mut self, latents: &[f32], colours: &[f32]) {
        let plane = SIDE * SIDE;
        for at in 0..plane {
            let terms = terms(latents, plane, at);
            for (i, a) in terms.iter().enumerate() {
                for (j, b) in terms.iter().enumerate() {
                    self.square[i][j] += a * b;
                }
                for colour in 0..3 {
                    self.cross[i][colour] += a * f64::from(colours[colour * plane + at]);
                }
            }
        }
    }

    /// Gauss–Jordan; the matrix is a Gram matrix of more than a thousand samples plus a little, so
    /// no pivot vanishes.
    fn solve(mut self) -> [[f64; 3]; TERMS] {
        for i in 0..TERMS {
            self.square[i][i] += 1e-6;
            let pivot = self.square[i][i];
            self.square[i].iter_mut().for_each(|value| *value /= pivot);
            self.cross[i].iter_mut().for_each(|value| *value /= pivot);
            for j in (0..TERMS).filter(|&j| j != i) {
                let factor = self.square[j][i];
                for k in 0..TERMS {
                    self.square[j][k] -= factor * self.square[i][k];
                }
                for colour in 0..3 {
                    self.cross[j][colour] -= factor * self.cross[i][colour];
                }
            }
        }
        self.cross
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn least_squares_finds_a_linear_map() {
        let mut noise = TorchNoise::new(3);
        let latents = patches(&mut noise);
        let plane = SIDE * SIDE;
        let colour = |c: usize, at: usize| {
            let t = terms(&latents, plane, at);
            (t[c] * 0.5 - t[3] * 0.25 + 0.125 * (c as f64 + 1.0)) as f32
        };
        let colours: Vec<f32> = (0..3)
            .flat_map(|c| (0..plane).map(move |at| (c, at)))
            .map(|(c, at)| colour(c, at))
            .collect();
        let mut fit = LeastSquares::default();
        fit.add(&latents, &colours);
        let map = fit.solve();
        for c in 0..3 {
            assert!((map[c][c] - 0.5).abs() < 1e-4, "{map:?}");
            assert!((map[3][c] + 0.25).abs() < 1e-4);
            assert!((map[4][c] - 0.125 * (c as f64 + 1.0)).abs() < 1e-4);
        }
    }
}
