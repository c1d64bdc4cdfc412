//! Painting: prompts, seeds and people to pictures, many at a time.

use std::ops::ControlFlow;

use image::RgbImage;
use likeness_bundle::Bundle;
use likeness_domain::coefficients::Coefficients;
use likeness_hyperlora::{Basis, Kind, Stack};
use likeness_models::{load_sdxl, low_rank_updates};
use likeness_sdxl::{LoadOptions, Sample, SampleRequest, Scheduler, Sdxl, Unmerged, with_trigger};

use crate::{Error, Options};

pub struct Painter {
    sdxl: Sdxl,
    basis: Basis,
    trigger: String,
    scheduler: Scheduler,
    clip_skip: u32,
    steps: u32,
    side: u32,
    batch: usize,
}

/// One picture to paint.
pub struct Job {
    /// Without the trigger words.
    pub prompt: String,
    pub seed: u64,
    pub guidance: f64,
    /// Who is shown; nobody if there is none.
    pub shown: Option<Unmerged>,
}

/// LoRAs, each with its weight.
#[derive(Default)]
pub struct Shown<'a> {
    pub id: Option<(&'a Coefficients, f64)>,
    pub base: Option<(&'a Coefficients, f64)>,
    /// Before, after, and how far.
    pub slider: Option<(&'a Coefficients, &'a Coefficients, f64)>,
}

impl Painter {
    /// The default model and the basis of a bundle.
    pub fn load(bundle: &Bundle, options: &Options) -> Result<Painter, Error> {
        let defaults = bundle.defaults();
        let load = LoadOptions {
            device: options.device.clone(),
            dtype: options.dtype,
        };
        Ok(Painter {
            sdxl: load_sdxl(&bundle.sdxl(None)?, &load)?,
            basis: Basis::load(&bundle.hyperlora()?.dir, &options.device)?,
            trigger: defaults.trigger.clone(),
            scheduler: defaults.scheduler.parse()?,
            clip_skip: defaults.clip_skip,
            steps: options.steps,
            side: options.side,
            batch: options.batch.max(1),
        })
    }

    /// Whether there is a basis for a Base-LoRA.
    pub fn has_base(&self) -> bool {
        self.basis.rank(Kind::Base).is_some()
    }

    /// LoRAs as a picture's own terms.
    pub fn terms(&self, shown: &Shown<'_>) -> Result<Unmerged, Error> {
        let lora = |coefficients: &Coefficients, kind| self.basis.synthesize(coefficients, kind);
        let mut stack = Stack::default();
        if let Some((coefficients, scale)) = shown.id {
            stack.push(&lora(coefficients, Kind::Id)?, scale)?;
        }
        if let Some((coefficients, scale)) = shown.base {
            stack.push(&lora(coefficients, Kind::Base)?, scale)?;
        }
        if let Some((before, after, strength)) = shown.slider {
            let (before, after) = (lora(before, Kind::Id)?, lora(after, Kind::Id)?);
            stack.push_slider(&before, &after, strength)?;
        }
        Ok(self.sdxl.unmerged(&low_rank_updates(&stack)?)?)
    }

    /// Paints all, and tells how many are done.
    pub fn paint(&self, jobs: &[Job], told: &dyn Fn(usize, usize)) -> Result<Vec<RgbImage>, Error> {
        let requests: Vec<SampleRequest> = jobs.iter().map(|job| self.request(job)).collect();
        let limit = requests
            .first()
            .map_or(1, |first| self.sdxl.batch_limit(first));
        let mut pictures = Vec::with_capacity(jobs.len());
        let together: Vec<_> = jobs.iter().zip(&requests).collect();
        for some in together.chunks(self.batch.min(limit)) {
            told(pictures.len(), jobs.len());
            let samples = some.iter().map(|(job, request)| Sample {
                unmerged: job.shown.as_ref(),
                ..Sample::new(request, Box::new(|_| ControlFlow::Continue(())))
            });
            for picture in self.sdxl.sample_batch(samples.collect()) {
                pictures.push(picture?);
            }
        }
        Ok(pictures)
    }

    /// What the autoencoder alone makes of a picture.
    pub fn through_the_autoencoder(&self, picture: &RgbImage) -> Result<RgbImage, Error> {
        Ok(self.sdxl.decode(&self.sdxl.encode(picture)?)?)
    }

    fn request(&self, job: &Job) -> SampleRequest {
        SampleRequest {
            prompt: with_trigger(&self.trigger, &job.prompt),
            negative_prompt: None,
            width: self.side,
            height: self.side,
            steps: self.steps,
            guidance: job.guidance,
            guidance_rescale: 0.0,
            scheduler: self.scheduler,
            seed: job.seed,
            clip_skip: self.clip_skip,
            init: None,
        }
    }
}
