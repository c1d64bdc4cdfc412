//! The models of a bundle, and the passes over them that make a picture of a person.

use std::{ops::ControlFlow, time::Instant};

use anyhow::Context as _;
use bytes::Bytes;
use candle_core::{DType, Device};
use likeness_bundle::{Bundle, SdxlModel};
use likeness_domain::{
    bundle::{BundleSummary, RenderDefaults},
    coefficients::{self, Coefficients},
    render::{ImageFormat, RenderProgress, RenderTimings, RenderedImage},
};
use likeness_hyperlora::{Basis, Kind, Lora, Stack};
use likeness_sdxl::{
    LoadOptions, LowRankUpdate, SampleRequest, Scheduler, Sdxl, Step, with_trigger,
};
use ring::digest::{SHA256, digest};

use super::{Failure, Job, Painted, encode::encode};

/// Longest side of a preview in pixels.
const PREVIEW_SIDE: u32 = 128;

/// What the models' thread owns: the basis, and one SDXL model at a time.
pub struct Models {
    bundle: Bundle,
    basis: Basis,
    loaded: String,
    sdxl: Sdxl,
}

impl Models {
    /// Loads the basis and the default model.
    pub fn load(bundle: Bundle) -> anyhow::Result<Self> {
        let basis = Basis::load(&bundle.hyperlora()?.dir, &Device::Cpu)?;
        let loaded = bundle.name().to_owned();
        let sdxl = load_sdxl(&bundle, None)?;
        Ok(Self {
            bundle,
            basis,
            loaded,
            sdxl,
        })
    }

    /// What the queue needs to know of the bundle. Its default model goes by the bundle's own name.
    pub fn summary(&self) -> anyhow::Result<BundleSummary> {
        let defaults = self.bundle.defaults();
        let others = self.bundle.model_names().map(str::to_owned);
        Ok(BundleSummary {
            digest: self.bundle.digest(),
            name: self.bundle.name().to_owned(),
            version: self.bundle.version().to_owned(),
            encoder: self.bundle.encoder_digest()?,
            tokens: u32::try_from(self.basis.tokens())?,
            k: u32::try_from(self.basis.k())?,
            models: std::iter::once(self.bundle.name().to_owned())
                .chain(others)
                .collect(),
            defaults: RenderDefaults {
                scheduler: defaults
                    .scheduler
                    .parse()
                    .with_context(|| format!("the bundle's scheduler {}", defaults.scheduler))?,
                steps: defaults.steps,
                guidance: defaults.guidance as f32,
                id_scale: defaults.id_scale as f32,
                width: defaults.width,
                height: defaults.height,
            },
        })
    }

    /// Makes the images of one render, and leaves nothing of the person behind in the weights.
    pub fn paint(&mut self, job: &Job) -> Result<Painted, Failure> {
        self.switch_to(&job.spec.model)?;
        let painted = self.paint_merged(job);
        self.sdxl.merge(&[]).map_err(model_fault)?;
        painted
    }

    fn switch_to(&mut self, model: &str) -> Result<(), Failure> {
        if self.loaded == model {
            return Ok(());
        }
        let name = (model != self.bundle.name()).then_some(model);
        self.sdxl = load_sdxl(&self.bundle, name).map_err(|error| {
            tracing::error!(model, "{error:#}");
            Failure::Permanent {
                reason: "MODEL_NOT_LOADED",
                message: "the worker cannot load this model".to_owned(),
            }
        })?;
        model.clone_into(&mut self.loaded);
        Ok(())
    }

    fn paint_merged(&mut self, job: &Job) -> Result<Painted, Failure> {
        let mut timings = RenderTimings::default();
        let updates = timed(&mut timings.synthesis, || self.synthesise(job))?;
        timed(&mut timings.merge, || self.sdxl.merge(&updates)).map_err(bundle_mismatch)?;
        let mut images = Vec::with_capacity(job.spec.image_count as usize);
        for index in 0..job.spec.image_count {
            let picture = timed(&mut timings.sampling, || self.sample(job, index))?;
            let file = timed(&mut timings.encoding, || {
                encode(&picture, job.spec.output_format).map_err(encoding_fault)
            })?;
            images.push((file.clone(), describe(job, index, &file)));
        }
        Ok(Painted { images, timings })
    }

    /// Coefficients × basis: the update of every attention matrix, none where nobody is shown.
    fn synthesise(&self, job: &Job) -> Result<Vec<LowRankUpdate>, Failure> {
        if job.sets.is_empty() || job.spec.id_scale == 0.0 {
            return Ok(Vec::new());
        }
        let coefficients = blend(&job.sets)?;
        let lora = self
            .basis
            .synthesize(&coefficients, Kind::Id)
            .map_err(bundle_mismatch)?;
        updates(&lora, f64::from(job.spec.id_scale)).map_err(bundle_mismatch)
    }

    fn sample(&self, job: &Job, index: u32) -> Result<image::RgbImage, Failure> {
        let request = self.request(job, index)?;
        let mut on_step = |step: Step<'_>| {
            report(job, index, &step);
            match job.stop.reason() {
                Some(_) => ControlFlow::Break(()),
                None => ControlFlow::Continue(()),
            }
        };
        if let Some(reason) = job.stop.reason() {
            return Err(Failure::Stopped(reason));
        }
        self.sdxl
            .sample(&request, &mut on_step)
            .map_err(|error| match error {
                likeness_sdxl::Error::Cancelled => job
                    .stop
                    .reason()
                    .map_or_else(|| model_fault("sampling stopped unasked"), Failure::Stopped),
                likeness_sdxl::Error::BadRequest { .. } => Failure::Permanent {
                    reason: "NOT_RENDERABLE",
                    message: error.to_string(),
                },
                other => model_fault(other),
            })
    }

    fn request(&self, job: &Job, index: u32) -> Result<SampleRequest, Failure> {
        let spec = &job.spec;
        let scheduler: Scheduler = spec.scheduler.as_str().parse().map_err(model_fault)?;
        Ok(SampleRequest {
            prompt: if job.sets.is_empty() {
                spec.prompt.clone()
            } else {
                // Without them the LoRA fades.
                with_trigger(&self.bundle.defaults().trigger, &spec.prompt)
            },
            negative_prompt: spec.negative_prompt.clone(),
            width: spec.width,
            height: spec.height,
            steps: spec.steps,
            guidance: f64::from(spec.guidance),
            guidance_rescale: 0.0,
            scheduler,
            seed: spec.seed.unsigned_abs() + u64::from(index),
            clip_skip: self.bundle.defaults().clip_skip,
            init: None,
        })
    }
}

fn load_sdxl(bundle: &Bundle, model: Option<&str>) -> anyhow::Result<Sdxl> {
    let options = LoadOptions {
        device: Device::Cpu,
        dtype: DType::F32,
    };
    match bundle.sdxl(model)? {
        SdxlModel::Folder(dir) => Ok(Sdxl::load(&dir, &options)?),
        SdxlModel::SingleFile { path, config } => {
            Ok(Sdxl::load_single_file(&path, config.as_deref(), &options)?)
        }
    }
}

fn blend(sets: &[(Coefficients, f32)]) -> Result<Coefficients, Failure> {
    match sets {
        [(one, _)] => Ok(one.clone()),
        several => coefficients::blend(several).map_err(bundle_mismatch),
    }
}

fn updates(lora: &Lora, scale: f64) -> Result<Vec<LowRankUpdate>, likeness_hyperlora::Error> {
    let mut stack = Stack::default();
    stack.push(lora, scale)?;
    let updates = stack.updates()?.into_iter();
    Ok(updates
        .map(|update| LowRankUpdate {
            matrix: update.target(),
            down: update.down,
            up: update.up,
            scale: 1.0,
        })
        .collect())
}

fn report(job: &Job, image: u32, step: &Step<'_>) {
    let progress = RenderProgress {
        image,
        image_count: job.spec.image_count,
        step: step.index,
        steps: step.total,
    };
    // A preview that fails is no reason to fail the render.
    let preview = step
        .preview()
        .ok()
        .and_then(|picture| preview_file(&picture));
    let _ = job.progress.send((progress, preview));
}

fn preview_file(picture: &image::RgbImage) -> Option<Bytes> {
    let small = if picture.width().max(picture.height()) > PREVIEW_SIDE {
        &image::imageops::thumbnail(picture, PREVIEW_SIDE, PREVIEW_SIDE)
    } else {
        picture
    };
    encode(small, ImageFormat::Jpeg).ok()
}

fn describe(job: &Job, index: u32, file: &[u8]) -> RenderedImage {
    let sha256 = digest(&SHA256, file)
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    RenderedImage {
        format: job.spec.output_format,
        width: job.spec.width,
        height: job.spec.height,
        size_bytes: file.len() as u64,
        sha256,
        seed: job.spec.seed + i64::from(index),
    }
}

fn timed<T>(seconds: &mut f64, work: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let result = work();
    *seconds += begun.elapsed().as_secs_f64();
    result
}

fn bundle_mismatch(error: impl std::fmt::Display) -> Failure {
    tracing::error!("BUNDLE_MISMATCH: {error}");
    Failure::Permanent {
        reason: "BUNDLE_MISMATCH",
        message: "the parts of the bundle do not fit each other".to_owned(),
    }
}

fn model_fault(error: impl std::fmt::Display) -> Failure {
    tracing::error!("MODEL_FAULT: {error}");
    Failure::Transient {
        reason: "MODEL_FAULT",
        message: "a fault of the model; it is tried again".to_owned(),
    }
}

fn encoding_fault(error: impl std::fmt::Display) -> Failure {
    Failure::Permanent {
        reason: "NOT_ENCODABLE",
        message: error.to_string(),
    }
}
