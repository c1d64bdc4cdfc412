//! A loaded SDXL model, and sampling with it.

pub(crate) mod load;

use std::ops::ControlFlow;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use image::RgbImage;

use crate::Error;
use crate::config::{IndexConfig, SchedulerConfig};
use crate::merge::{AttentionMatrix, LowRankUpdate};
use crate::noise::TorchNoise;
use crate::preview::Previews;
use crate::prompt::{PromptStates, TextStack};
use crate::schedulers::{Scheduler, Solver};
use crate::unet::{Conditioning, UNet};
use crate::vae::Vae;

/// Longest side of a picture.
const MAX_SIDE: u32 = 2048;
/// Sides are multiples of this even where the autoencoder would allow less.
const SIDE_STEP: u32 = 8;
/// Above this a picture is nothing but saturated colours.
const MAX_GUIDANCE: f64 = 100.0;

/// Where and in which number type a model runs.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// The device.
    pub device: Device,
    /// Type of the UNet's and the text encoders' weights; the autoencoder is always f32.
    pub dtype: DType,
}

impl LoadOptions {
    /// Matrix products in bf16 exist on GPUs only.
    fn check(&self) -> Result<(), Error> {
        let (device, expected) = match self.device {
            Device::Cpu => ("the CPU", "f32 or f16"),
            _ => ("a GPU", "f32, f16 or bf16"),
        };
        match (self.dtype, &self.device) {
            (DType::F32 | DType::F16, _) => Ok(()),
            (DType::BF16, gpu) if !gpu.is_cpu() => Ok(()),
            (dtype, _) => Err(Error::NumberType {
                dtype: dtype.as_str(),
                device,
                expected,
            }),
        }
    }
}

/// One loaded model: tokenizers, text encoders, UNet and autoencoder.
pub struct Sdxl {
    text: TextStack,
    unet: UNet,
    vae: Arc<Vae>,
    factor: usize,
    scheduler: SchedulerConfig,
    index: IndexConfig,
    preview: Previews,
    device: Device,
    dtype: DType,
}

/// One picture to sample.
#[derive(Clone, PartialEq)]
pub struct SampleRequest {
    /// What to show.
    pub prompt: String,
    /// What to avoid; absent is not the same as "".
    pub negative_prompt: Option<String>,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Denoising steps, 1 to 1000.
    pub steps: u32,
    /// Classifier-free guidance; at 1 or less the second pass is left away.
    pub guidance: f64,
    /// The solver.
    pub scheduler: Scheduler,
    /// Start of the noise, as in `torch.manual_seed`.
    pub seed: u64,
    /// The text encoders' layer that is used, counted from the end as ComfyUI counts: 1 is the last,
    /// 2 the one before, with which SDXL was trained.
    pub clip_skip: u32,
}

/// Everything but the prompts, which are the caller's own.
impl std::fmt::Debug for SampleRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SampleRequest")
            .field("width", &self.width)
            .field("height", &self.height)
            .field("steps", &self.steps)
            .field("guidance", &self.guidance)
            .field("scheduler", &self.scheduler)
            .field("seed", &self.seed)
            .field("clip_skip", &self.clip_skip)
            .finish_non_exhaustive()
    }
}

/// Sizes that a model can sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeLimits {
    /// Width and height are multiples of this.
    pub multiple_of: u32,
    /// Largest width and height.
    pub max_side: u32,
}

/// What prompts condition the UNet on. No `Debug`: it would tell of the prompt.
pub struct PromptEmbeddings {
    /// States of the prompt, [1, tokens, width].
    pub states: Tensor,
    /// Pooled prompt, [1, projection].
    pub pooled: Tensor,
    /// The same two of the negative prompt, where there is guidance.
    pub negative: Option<(Tensor, Tensor)>,
}

/// A finished step, as the caller's callback sees it.
pub struct Step<'a> {
    /// From 1.
    pub index: u32,
    /// Steps of this request.
    pub total: u32,
    /// The timestep that the UNet was given.
    pub timestep: f64,
    /// The noise level before this step; none for solvers that go by the timestep alone.
    pub sigma: Option<f64>,
    latents: &'a Tensor,
    denoised: &'a Tensor,
    preview: &'a Previews,
}

impl Step<'_> {
    /// The latents after this step, [1, 4, h, w] in f32, in the solver's own scale.
    pub fn latents(&self) -> &Tensor {
        self.latents
    }

    /// A rough picture of the result so far, one pixel per latent. Computed when asked for.
    ///
    /// # Errors
    /// A failing device.
    pub fn preview(&self) -> Result<RgbImage, Error> {
        self.preview.picture(self.denoised)
    }
}

/// Progress callback; breaking stops the sampling.
pub type OnStep<'a> = dyn FnMut(Step<'_>) -> ControlFlow<()> + 'a;

impl Sdxl {
    /// Names and shapes of all attention projections of the UNet.
    pub fn attention_matrices(&self) -> Vec<AttentionMatrix> {
        self.unet.matrices.list()
    }

    /// The weight [out, in] of an attention projection as sampling uses it now, merged or not; none, if
    /// there is no projection of this name.
    pub fn attention_weight(&self, name: &str) -> Option<&Tensor> {
        self.unet.matrices.named(name)
    }

    /// Sets W' = W + Σ scale · up · down, always from the weights that were loaded; matrices that no
    /// update names get their loaded weights back, to the bit. `merge(&[])` restores all.
    ///
    /// # Errors
    /// Unknown names, shapes that do not fit, NaN and infinity; nothing has changed then.
    pub fn merge(&mut self, updates: &[LowRankUpdate]) -> Result<(), Error> {
        self.unet.matrices.merge(updates)
    }

    /// The sizes that [`Sdxl::sample`] takes.
    pub fn size_limits(&self) -> SizeLimits {
        SizeLimits {
            multiple_of: SIDE_STEP.max(self.factor as u32),
            max_side: MAX_SIDE,
        }
    }

    /// Samples one picture. The same request gives the same picture (on one kind of device).
    ///
    /// # Errors
    /// [`Error::BadRequest`] before any work, [`Error::Cancelled`] when `on_step` breaks.
    pub fn sample(
        &self,
        request: &SampleRequest,
        on_step: &mut OnStep<'_>,
    ) -> Result<RgbImage, Error> {
        self.sample_inner(request, None, on_step)
    }

    /// As [`Sdxl::sample`], from given initial noise [1, 4, h, w] of unit variance. The seed still
    /// feeds the schedulers that draw noise in each step.
    ///
    /// # Errors
    /// As [`Sdxl::sample`]; noise of another shape.
    pub fn sample_with_noise(
        &self,
        request: &SampleRequest,
        noise: &Tensor,
        on_step: &mut OnStep<'_>,
    ) -> Result<RgbImage, Error> {
        self.sample_inner(request, Some(noise), on_step)
    }

    fn sample_inner(
        &self,
        request: &SampleRequest,
        initial: Option<&Tensor>,
        on_step: &mut OnStep<'_>,
    ) -> Result<RgbImage, Error> {
        let size = self.latent_sides(request.width, request.height)?;
        check_guidance(request.guidance)?;
        let solver = Solver::new(request.scheduler, request.steps as usize, &self.scheduler)?;
        let conditioning = self.condition(request)?;
        let mut noise = TorchNoise::new(request.seed);
        let start = self.draw(&mut noise, size)?;
        let start = match initial {
            None => start,
            Some(given) => self.checked_noise(given, size)?,
        };
        let run = Run {
            model: self,
            conditioning,
            guidance: request.guidance,
        };
        let latents = run.denoise(solver, &start, &mut noise, on_step)?;
        picture(&self.vae.decode(&latents)?)
    }

    /// The latents [1, 4, h, w] of a picture, in the scale that the UNet works in.
    ///
    /// # Errors
    /// [`Error::BadRequest`] for a size outside [`Sdxl::size_limits`].
    pub fn encode(&self, picture: &RgbImage) -> Result<Tensor, Error> {
        let (width, height) = picture.dimensions();
        self.latent_sides(width, height)?;
        let shape = (height as usize, width as usize, 3);
        let pixels = Tensor::from_slice(picture.as_raw(), shape, &self.device)?;
        let levels = pixels
            .permute((2, 0, 1))?
            .unsqueeze(0)?
            .to_dtype(DType::F32)?;
        self.vae.encode(&((levels / 127.5)? - 1.0)?)
    }

    /// What a prompt conditions the UNet on, for comparison with other implementations: states
    /// [1, tokens, width] of the penultimate layer and pooled text [1, projection].
    ///
    /// # Errors
    /// A prompt that is too long or weighs a word out of range.
    pub fn text_embeddings(&self, prompt: &str) -> Result<(Tensor, Tensor), Error> {
        let tokens = self.text.tokens("prompt", prompt)?;
        let encoded = self.text.encode(&tokens, self.text.clip_skip(2)?, 1)?;
        Ok((encoded.states, encoded.pooled))
    }

    /// What a request's prompts condition the UNet on, as [`Sdxl::sample`] uses them: with windows
    /// enough for the longer of the two, and zeros where the model wants them for an absent negative
    /// prompt.
    ///
    /// # Errors
    /// A prompt that is too long or weighs a word out of range; a clip skip beyond the layers.
    pub fn prompt_embeddings(&self, request: &SampleRequest) -> Result<PromptEmbeddings, Error> {
        let (states, pooled) = self.encode_prompts(request)?;
        if !guided(request.guidance) {
            let negative = None;
            return Ok(PromptEmbeddings {
                states,
                pooled,
                negative,
            });
        }
        Ok(PromptEmbeddings {
            negative: Some((states.narrow(0, 0, 1)?, pooled.narrow(0, 0, 1)?)),
            states: states.narrow(0, 1, 1)?,
            pooled: pooled.narrow(0, 1, 1)?,
        })
    }

    /// How many prompts went through the text encoders.
    #[cfg(test)]
    pub(crate) fn encoded_prompts(&self) -> u64 {
        self.text.encoded()
    }

    /// Latent height and width of a request.
    fn latent_sides(&self, width: u32, height: u32) -> Result<(usize, usize), Error> {
        let SizeLimits {
            multiple_of,
            max_side,
        } = self.size_limits();
        for (field, side) in [("width", width), ("height", height)] {
            if side == 0 || side > max_side || !side.is_multiple_of(multiple_of) {
                let problem = format!("expected a multiple of {multiple_of} up to {max_side}");
                return Err(Error::bad_request(field, problem));
            }
        }
        Ok((height as usize / self.factor, width as usize / self.factor))
    }

    fn draw(&self, noise: &mut TorchNoise, (h, w): (usize, usize)) -> candle_core::Result<Tensor> {
        Tensor::from_vec(noise.draw(4 * h * w), (1, 4, h, w), &self.device)
    }

    fn checked_noise(&self, noise: &Tensor, (h, w): (usize, usize)) -> Result<Tensor, Error> {
        if noise.dims() != [1, 4, h, w] {
            let problem = format!("its shape is {:?}, expected [1, 4, {h}, {w}]", noise.dims());
            return Err(Error::bad_request("noise", problem));
        }
        Ok(noise.to_device(&self.device)?.to_dtype(DType::F32)?)
    }

    /// Encodes the prompts: the negative one first, unless there is no guidance.
    fn condition(&self, request: &SampleRequest) -> Result<Conditioning, Error> {
        let (height, width) = (request.height as f32, request.width as f32);
        let (states, pooled) = self.encode_prompts(request)?;
        Ok(Conditioning {
            text: states.to_dtype(self.dtype)?,
            pooled: pooled.to_dtype(self.dtype)?,
            time_ids: [height, width, 0.0, 0.0, height, width],
        })
    }

    fn encode_prompts(&self, request: &SampleRequest) -> Result<(Tensor, Tensor), Error> {
        let clip_skip = self.text.clip_skip(request.clip_skip)?;
        let prompt = self.text.tokens("prompt", &request.prompt)?;
        if !guided(request.guidance) {
            let PromptStates { states, pooled, .. } = self.text.encode(&prompt, clip_skip, 1)?;
            return Ok((states, pooled));
        }
        let zeros = request.negative_prompt.is_none() && self.index.force_zeros_for_empty_prompt;
        let negative = request.negative_prompt.as_deref().unwrap_or_default();
        let negative = self.text.tokens("negative_prompt", negative)?;
        let both = [&prompt, &negative].map(|tokens| self.text.window_count(tokens));
        let windows = both[0].max(both[1]);
        let positive = self.text.encode(&prompt, clip_skip, windows)?;
        let negative = if zeros {
            positive.zeros_like()?
        } else {
            self.text.encode(&negative, clip_skip, windows)?
        };
        Ok((
            Tensor::cat(&[negative.states, positive.states], 0)?,
            Tensor::cat(&[negative.pooled, positive.pooled], 0)?,
        ))
    }
}

/// What stays the same over one request's steps.
struct Run<'a> {
    model: &'a Sdxl,
    conditioning: Conditioning,
    guidance: f64,
}

impl Run<'_> {
    fn denoise(
        &self,
        mut solver: Solver,
        start: &Tensor,
        noise: &mut TorchNoise,
        on_step: &mut OnStep<'_>,
    ) -> Result<Tensor, Error> {
        let (_, _, h, w) = start.dims4()?;
        let mut latents = (start * solver.initial_scale())?;
        let timesteps = solver.timesteps().to_vec();
        for (step, &timestep) in timesteps.iter().enumerate() {
            let input = solver.scale_input(&latents, step)?;
            let predicted = self.predict(&input, timestep)?;
            let mut draw = || self.model.draw(noise, (h, w));
            let advance = solver.step(step, &latents, &predicted, &mut draw)?;
            latents = advance.latents;
            let seen = Step {
                index: step as u32 + 1,
                total: timesteps.len() as u32,
                timestep,
                sigma: solver.sigmas().get(step).copied(),
                latents: &latents,
                denoised: &advance.denoised,
                preview: &self.model.preview,
            };
            if on_step(seen).is_break() {
                return Err(Error::Cancelled);
            }
        }
        Ok(latents)
    }

    /// The predicted noise, guided, in f32.
    fn predict(&self, latents: &Tensor, timestep: f64) -> Result<Tensor, Error> {
        let latents = latents.to_dtype(self.model.dtype)?;
        if !guided(self.guidance) {
            let noise = self
                .model
                .unet
                .forward(&latents, timestep, &self.conditioning)?;
            return Ok(noise.to_dtype(DType::F32)?);
        }
        let both = Tensor::cat(&[&latents, &latents], 0)?;
        let noise = self
            .model
            .unet
            .forward(&both, timestep, &self.conditioning)?;
        let noise = noise.to_dtype(DType::F32)?;
        let (negative, positive) = (noise.narrow(0, 0, 1)?, noise.narrow(0, 1, 1)?);
        Ok((&negative + ((positive - &negative)? * self.guidance)?)?)
    }
}

fn guided(guidance: f64) -> bool {
    guidance > 1.0
}

fn check_guidance(guidance: f64) -> Result<(), Error> {
    if (0.0..=MAX_GUIDANCE).contains(&guidance) {
        return Ok(());
    }
    Err(Error::bad_request(
        "guidance",
        format!("expected a number from 0 to {MAX_GUIDANCE}"),
    ))
}

/// [1, 3, h, w] from -1 to 1 → pixels, rounded to the nearest level.
fn picture(decoded: &Tensor) -> Result<RgbImage, Error> {
    let (_, _, height, width) = decoded.dims4()?;
    let levels = ((decoded.squeeze(0)? + 1.0)? * 127.5)?
        .clamp(0f32, 255f32)?
        .round()?;
    let pixels = levels
        .permute((1, 2, 0))?
        .flatten_all()?
        .to_dtype(DType::U8)?
        .to_vec1::<u8>()?;
    let image = RgbImage::from_raw(width as u32, height as u32, pixels);
    image.ok_or_else(|| Error::Compute(candle_core::Error::Msg("decoded to no picture".into())))
}

#[cfg(test)]
mod loading_tests;
#[cfg(test)]
mod single_file_tests;
#[cfg(test)]
mod tests;
