//! What a picture is asked for with, and the checks that need no model.

use std::sync::Arc;

use image::RgbImage;

use crate::prompt::check_length;
use crate::{Error, Scheduler};

/// Longest side of a picture.
pub(super) const MAX_SIDE: u32 = 2048;
/// Sides are multiples of this even where the autoencoder would allow less.
pub(super) const SIDE_STEP: u32 = 8;
/// More steps than the timesteps that models are trained with repeat some.
const MAX_STEPS: u32 = 1000;
/// Above this a picture is nothing but saturated colours.
const MAX_GUIDANCE: f64 = 100.0;

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
    /// How far the guided noise is brought back to the spread that the prompt alone predicts, 0 (not at
    /// all) to 1: Lin et al. (2023), §3.4. Without guidance it does nothing.
    pub guidance_rescale: f64,
    /// The solver.
    pub scheduler: Scheduler,
    /// Start of the noise, as in `torch.manual_seed`.
    pub seed: u64,
    /// The text encoders' layer that is used, counted from the end as ComfyUI counts: 1 is the last,
    /// 2 the one before, with which SDXL was trained.
    pub clip_skip: u32,
    /// The picture to start from, rather than from nothing.
    pub init: Option<Init>,
}

/// A picture to start from.
#[derive(Clone, PartialEq)]
pub struct Init {
    /// Of the request's size.
    pub picture: Arc<RgbImage>,
    /// How much of it may change, above 0 and up to 1: the last steps · strength steps are taken, from
    /// the picture with the noise of the first of them.
    pub strength: f64,
}

/// Everything but the prompts and the picture, which are the caller's own.
impl std::fmt::Debug for SampleRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SampleRequest")
            .field("width", &self.width)
            .field("height", &self.height)
            .field("steps", &self.steps)
            .field("guidance", &self.guidance)
            .field("guidance_rescale", &self.guidance_rescale)
            .field("scheduler", &self.scheduler)
            .field("seed", &self.seed)
            .field("clip_skip", &self.clip_skip)
            .field("strength", &self.init.as_ref().map(|init| init.strength))
            .finish_non_exhaustive()
    }
}

/// What pictures must have in common to be sampled in one batch. Prompts, seeds, guidance values and
/// identities may differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BatchKey {
    width: u32,
    height: u32,
    steps: u32,
    first_step: u32,
    scheduler: Scheduler,
    guided: bool,
}

impl SampleRequest {
    /// Requests with equal keys can be sampled in one batch.
    pub fn batch_key(&self) -> BatchKey {
        BatchKey {
            width: self.width,
            height: self.height,
            steps: self.steps,
            first_step: self.first_step(),
            scheduler: self.scheduler,
            guided: self.guided(),
        }
    }

    /// Whether the UNet also predicts for the negative prompt.
    pub(crate) fn guided(&self) -> bool {
        self.guidance > 1.0
    }

    /// The step of the schedule that is taken first, from 0.
    pub(crate) fn first_step(&self) -> u32 {
        let Some(init) = &self.init else { return 0 };
        let taken = f64::from(self.steps) * init.strength;
        self.steps - (taken as u32).min(self.steps)
    }

    /// Every check that needs no model, so that a wrong request need not wait for one. [`Sdxl::sample`] makes
    /// them, too, and those that depend on the model.
    ///
    /// # Errors
    /// [`Error::BadRequest`].
    ///
    /// [`Sdxl::sample`]: crate::Sdxl::sample
    pub fn check(&self) -> Result<(), Error> {
        check_length("prompt", &self.prompt)?;
        check_length(
            "negative_prompt",
            self.negative_prompt.as_deref().unwrap_or_default(),
        )?;
        check_side("width", self.width, SIDE_STEP)?;
        check_side("height", self.height, SIDE_STEP)?;
        if !(1..=MAX_STEPS).contains(&self.steps) {
            return Err(Error::bad_request(
                "steps",
                format!("expected 1 to {MAX_STEPS}"),
            ));
        }
        if self.clip_skip == 0 {
            let problem = "expected 1, the last layer, or more; 2 is what SDXL was trained with";
            return Err(Error::bad_request("clip_skip", problem));
        }
        if self.clip_skip == 0 {
            let problem = "expected 1, the last layer, or more; 2 is what SDXL was trained with";
            return Err(Error::bad_request("clip_skip", problem));
        }
        check_range("guidance", self.guidance, MAX_GUIDANCE)?;
        check_range("guidance_rescale", self.guidance_rescale, 1.0)?;
        self.init
            .as_ref()
            .map_or(Ok(()), |init| self.check_init(init))
    }

    fn check_init(&self, init: &Init) -> Result<(), Error> {
        let (width, height) = init.picture.dimensions();
        if (width, height) != (self.width, self.height) {
            let problem = format!(
                "the picture has {width} x {height} pixels, expected the request's {} x {}",
                self.width, self.height
            );
            return Err(Error::bad_request("init", problem));
        }
        if !(init.strength > 0.0 && init.strength <= 1.0) {
            let problem = "expected a number above 0 and up to 1";
            return Err(Error::bad_request("strength", problem));
        }
        if self.first_step() == self.steps {
            let problem = format!("too little for a single one of {} steps", self.steps);
            return Err(Error::bad_request("strength", problem));
        }
        Ok(())
    }
}

/// Refuses a side that is 0, too long or no multiple of `step`.
pub(super) fn check_side(field: &'static str, side: u32, step: u32) -> Result<(), Error> {
    if side != 0 && side <= MAX_SIDE && side.is_multiple_of(step) {
        return Ok(());
    }
    let problem = format!("expected a multiple of {step} up to {MAX_SIDE}");
    Err(Error::bad_request(field, problem))
}

fn check_range(field: &'static str, value: f64, largest: f64) -> Result<(), Error> {
    // NaN is in no range.
    if (0.0..=largest).contains(&value) {
        return Ok(());
    }
    let problem = format!("expected a number from 0 to {largest}");
    Err(Error::bad_request(field, problem))
}
