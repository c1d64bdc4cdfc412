//! The denoising loss (Ho, Jain and Abbeel, 2020): how well a UNet tells the noise in pictures' latents.

use std::collections::BTreeMap;

use candle_core::{DType, Result as Compute, Tensor, Var};
use likeness_sdxl::Unmerged;
use likeness_sdxl::parts::{Conditioning, UNet};

use crate::{Chance, Error, Gradients};

/// Timesteps of a model.
const TIMESTEPS: usize = 1000;
/// Timesteps are drawn as 1000 · u^0.6: strong noise, where a picture's layout is decided, comes up more often.
const SKEW: f64 = 0.6;
/// The largest weight of a sample. Weights are 1/ᾱ up to here: towards pure noise, a small error in the noise is a large one in
/// the picture.
const LARGEST_WEIGHT: f64 = 20.0;

/// How noise is mixed in, timestep by timestep.
#[derive(Clone, Debug)]
pub struct Noising {
    /// ᾱ: the share of the variance that is still the picture's.
    kept: Vec<f64>,
}

impl Noising {
    /// SDXL's: the roots of β rise in a straight line from √0.00085 to √0.012 ("scaled linear").
    pub fn scaled_linear() -> Noising {
        let (first, last) = (0.00085f64.sqrt(), 0.012f64.sqrt());
        let mut kept = 1.0;
        let each = (0..TIMESTEPS).map(|t| {
            let root = first + (last - first) * t as f64 / (TIMESTEPS - 1) as f64;
            kept *= 1.0 - root * root;
            kept
        });
        Noising {
            kept: each.collect(),
        }
    }

    /// ᾱ at a timestep; from the last one on it stays.
    pub fn kept(&self, timestep: usize) -> f64 {
        self.kept[timestep.min(TIMESTEPS - 1)]
    }

    /// `count` timesteps, from 0 to 999.
    pub fn draw(chance: &mut Chance, count: usize) -> Vec<usize> {
        let draw = |_| (TIMESTEPS as f64 * chance.uniform().powf(SKEW)) as usize;
        (0..count).map(draw).collect()
    }

    /// √ᾱ · latents + √(1 − ᾱ) · noise, both [b, …], each sample at its timestep.
    ///
    /// # Errors
    /// Shapes that do not fit; a failing device.
    pub fn mix(&self, latents: &Tensor, noise: &Tensor, timesteps: &[usize]) -> Compute<Tensor> {
        let kept = |t: &usize| self.kept(*t);
        let picture = per_sample(timesteps.iter().map(|t| kept(t).sqrt()), latents)?;
        let rest = per_sample(timesteps.iter().map(|t| (1.0 - kept(t)).sqrt()), noise)?;
        latents.broadcast_mul(&picture)? + noise.broadcast_mul(&rest)?
    }

    fn weight(&self, timestep: usize) -> f64 {
        self.kept(timestep).recip().min(LARGEST_WEIGHT)
    }
}

/// One number per sample, shaped to multiply `like` [b, …].
fn per_sample(numbers: impl Iterator<Item = f64>, like: &Tensor) -> Compute<Tensor> {
    let numbers: Vec<f32> = numbers.map(|number| number as f32).collect();
    let mut shape = vec![1; like.rank()];
    shape[0] = numbers.len();
    Tensor::from_vec(numbers, shape, like.device())?.to_dtype(like.dtype())
}

/// What the noise is to be told from.
pub struct Noised<'a> {
    /// Pictures' latents, scaled, [b, 4, h, w].
    pub latents: &'a Tensor,
    /// Normal numbers of the same shape.
    pub noise: &'a Tensor,
    /// One for each of the b.
    pub timesteps: &'a [usize],
}

/// The mean squared error of the noise that the UNet tells, weighted by timestep: a single number with its graph. `own` are
/// the samples' low-rank terms ([`UNet::own_terms`]); they divide b evenly, and none need be named. The UNet computes in its own
/// number type, which terms and conditioning have, too; latents, noise and loss are f32.
///
/// # Errors
/// Shapes that do not fit; a failing device.
pub fn loss(
    unet: &UNet,
    conditioning: &Conditioning,
    noised: &Noised<'_>,
    own: &[Option<&Unmerged>],
    noising: &Noising,
) -> Result<Tensor, Error> {
    let (mixed, times) = seen(unet, noised, noising)?;
    let told = unet.forward(&mixed, &times, conditioning, own)?;
    Ok(error(&told, noised, noising)?)
}

/// What the UNet is shown: latents with their noise, in its number type, and timesteps.
fn seen(unet: &UNet, noised: &Noised<'_>, noising: &Noising) -> Compute<(Tensor, Vec<f32>)> {
    let mixed = noising.mix(noised.latents, noised.noise, noised.timesteps)?;
    let times = noised.timesteps.iter().map(|&t| t as f32).collect();
    Ok((mixed.to_dtype(unet.dtype())?, times))
}

/// The loss of what the UNet told, in f32.
fn error(told: &Tensor, noised: &Noised<'_>, noising: &Noising) -> Compute<Tensor> {
    let error = (told.to_dtype(DType::F32)? - noised.noise)?.sqr()?;
    let weights = noised.timesteps.iter().map(|&t| noising.weight(t));
    let weights = per_sample(weights, &error)?;
    error.broadcast_mul(&weights)?.mean_all()
}

/// [`loss`] and its gradients for `variables`, through a UNet that runs twice and in pieces ([`UNet::descend`]): the memory of one of
/// its blocks in the place of that of all. `own` is the whole batch's terms, with their graph.
///
/// # Errors
/// As [`loss`]; [`Error::NoGradient`].
pub fn descend(
    unet: &UNet,
    conditioning: &Conditioning,
    noised: &Noised<'_>,
    own: &Unmerged,
    noising: &Noising,
    variables: &BTreeMap<String, Var>,
) -> Result<(f64, Gradients), Error> {
    let (mixed, times) = seen(unet, noised, noising)?;
    let mut value = 0.0;
    let found = unet.descend(&mixed, &times, conditioning, own, |told| {
        let told = Var::from_tensor(&told.detach())?;
        let loss = error(told.as_tensor(), noised, noising)?;
        value = f64::from(loss.to_scalar::<f32>()?);
        let slope = loss.backward()?.remove(&told);
        let missing = || Error::NoGradient {
            name: "the predicted noise".to_owned(),
        };
        slope.ok_or_else(missing)
    })?;
    Ok((value, Gradients::through(&found, variables)?))
}

#[cfg(test)]
mod tests;
