//! What a caller sees while a picture is sampled.

use std::ops::ControlFlow;

use candle_core::Tensor;
use image::RgbImage;

use crate::Error;
use crate::preview::Previews;

/// A finished step, as the caller's callback sees it.
pub struct Step<'a> {
    /// From 1.
    pub index: u32,
    /// Steps of this request: fewer than it names where it starts from a picture.
    pub total: u32,
    /// The timestep that the UNet was given.
    pub timestep: f64,
    /// The noise level before this step; none for solvers that go by the timestep alone.
    pub sigma: Option<f64>,
    pub(super) latents: &'a Tensor,
    pub(super) denoised: &'a Tensor,
    pub(super) preview: &'a Previews,
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

/// Progress callback; breaking stops the sampling of this picture.
pub type OnStep<'a> = dyn FnMut(Step<'_>) -> ControlFlow<()> + 'a;
