//! A loaded SDXL model, and sampling with it.

pub(crate) mod load;
mod request;
mod room;
mod sample;
mod step;
mod training;

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use image::RgbImage;

pub use self::request::{BatchKey, Init, SampleRequest};
use self::request::{MAX_SIDE, SIDE_STEP, check_side};
use self::room::Room;
pub use self::sample::Sample;
pub use self::step::{OnStep, Step};
use crate::Error;
use crate::config::{IndexConfig, SchedulerConfig};
use crate::merge::{AttentionMatrix, LowRankUpdate, Unmerged};
use crate::preview::Previews;
use crate::prompt::{PromptStates, TextStack};
use crate::schedulers::Solver;
use crate::unet::{Conditioning, UNet};
use crate::vae::Vae;

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
    room: Room,
    device: Device,
    dtype: DType,
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
    /// Unknown names, shapes that do not fit, NaN and infinity; nothing has changed then. Where the
    /// device fails, all matrices have their loaded weights.
    pub fn merge(&mut self, updates: &[LowRankUpdate]) -> Result<(), Error> {
        self.unet.matrices.merge(updates)
    }

    /// Updates as terms of one sample of a batch, beside the shared weights: the same picture as with
    /// them merged, but for rounding. They come on top of what is merged.
    ///
    /// # Errors
    /// As [`Sdxl::merge`].
    pub fn unmerged(&self, updates: &[LowRankUpdate]) -> Result<Unmerged, Error> {
        self.unet.matrices.unmerged(updates)
    }

    /// The sizes that [`Sdxl::sample`] takes.
    pub fn size_limits(&self) -> SizeLimits {
        SizeLimits {
            multiple_of: SIDE_STEP.max(self.factor as u32),
            max_side: MAX_SIDE,
        }
    }

    /// Every check of a request that [`Sdxl::sample`] makes, without computing anything.
    ///
    /// # Errors
    /// [`Error::BadRequest`].
    pub fn check(&self, request: &SampleRequest) -> Result<(), Error> {
        request.check()?;
        self.latent_sides(request.width, request.height)?;
        Solver::new(request.scheduler, request.steps as usize, &self.scheduler)?;
        self.text.clip_skip(request.clip_skip)?;
        self.text.tokens("prompt", &request.prompt)?;
        let negative = request.negative_prompt.as_deref().unwrap_or_default();
        self.text.tokens("negative_prompt", negative).map(drop)
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
        if !request.guided() {
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
        let step = self.size_limits().multiple_of;
        check_side("width", width, step)?;
        check_side("height", height, step)?;
        Ok((height as usize / self.factor, width as usize / self.factor))
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
        if !request.guided() {
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

#[cfg(test)]
mod loading_tests;
#[cfg(test)]
mod single_file_tests;
#[cfg(test)]
mod tests;
