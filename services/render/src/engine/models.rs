//! The models of a bundle, and which renders are painted on them together.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use anyhow::Context as _;
use likeness_bundle::Bundle;
use likeness_domain::bundle::{BundleSummary, RenderDefaults};
use likeness_hyperlora::{Basis, Kind as LoraKind};
use likeness_models::load_sdxl;
use likeness_sdxl::{LoadOptions, SampleRequest, Scheduler, Sdxl, with_trigger};

use super::{
    Failure, Job, Order,
    faces::FaceFinder,
    group::{Kind, groups},
    paint::model_fault,
    stack::same_person,
};
use crate::device::Compute;

/// What the models' thread owns: the basis, and one SDXL model at a time.
pub struct Models {
    bundle: Bundle,
    options: LoadOptions,
    pub(super) basis: Basis,
    loaded: String,
    pub(super) sdxl: Sdxl,
    pub(super) faces: FaceFinder,
    /// Images painted at a time, at most.
    pub(super) max_batch: usize,
    /// Pixels of all images that memory has been estimated to hold at a time; read by whoever takes renders.
    pub(super) memory_pixels: Arc<AtomicUsize>,
    /// Whether one batch may show several people.
    pub(super) mixes_people: bool,
}

impl Models {
    /// Loads the basis and the default model.
    pub fn load(bundle: Bundle, compute: &Compute, max_batch: usize) -> anyhow::Result<Self> {
        let options = LoadOptions {
            device: compute.device.clone(),
            dtype: compute.dtype,
        };
        let basis = Basis::load(&bundle.hyperlora()?.dir, &options.device)?;
        let loaded = bundle.name().to_owned();
        let sdxl = load_sdxl(&bundle.sdxl(None)?, &options)?;
        Ok(Self {
            faces: FaceFinder::of(&bundle),
            bundle,
            basis,
            loaded,
            sdxl,
            max_batch: max_batch.max(1),
            memory_pixels: Arc::new(AtomicUsize::new(usize::MAX)),
            mixes_people: !options.device.is_cpu(),
            options,
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
            base: self.basis.rank(LoraKind::Base).is_some()
                && self.bundle.hyperlora()?.has_base_resampler(),
        })
    }

    /// Paints renders that were taken together, group by group in order of arrival, and answers each.
    pub fn paint(&mut self, orders: Vec<Order>) {
        let fit = |a: &Order, b: &Order| self.fit(&a.job, &b.job);
        let groups = groups(&orders, fit);
        let mut orders: Vec<Option<Order>> = orders.into_iter().map(Some).collect();
        for group in groups {
            let group = group.into_iter().filter_map(|at| orders[at].take());
            self.paint_group(group.collect());
        }
    }

    /// Whether two renders can be painted together. Only one person at a time is shown on the CPU: terms beside the
    /// weights are rounded otherwise than merged ones, and a picture has the same pixels there whatever it is painted with.
    fn fit(&self, a: &Job, b: &Job) -> bool {
        let mixes = self.mixes_people || same_person(a, b);
        mixes && Kind::of(&a.spec) == Kind::of(&b.spec)
    }

    /// How many images of a kind are painted at a time.
    pub fn batch_limit(&self, request: &SampleRequest) -> usize {
        let limit = self.sdxl.batch_limit(request);
        let area = request.width as usize * request.height as usize;
        self.memory_pixels
            .store(limit.saturating_mul(area), Ordering::Relaxed);
        limit.min(self.max_batch)
    }

    /// The bundle's default width and height.
    pub fn default_size(&self) -> (u32, u32) {
        let defaults = self.bundle.defaults();
        (defaults.width, defaults.height)
    }

    pub fn switch_to(&mut self, model: &str) -> Result<(), Failure> {
        if self.loaded == model {
            return Ok(());
        }
        let name = (model != self.bundle.name()).then_some(model);
        let load = || anyhow::Ok(load_sdxl(&self.bundle.sdxl(name)?, &self.options)?);
        self.sdxl = load().map_err(|error| {
            tracing::error!(model, "{error:#}");
            not_loaded(&error)
        })?;
        model.clone_into(&mut self.loaded);
        Ok(())
    }

    /// What one candidate of a render asks of the model; `index` goes through each image's candidates in turn.
    pub fn request(&self, job: &Job, index: u32) -> Result<SampleRequest, Failure> {
        let spec = &job.spec;
        let best_of = spec.best_of.max(1);
        let seed = spec.seed_of(index / best_of, index % best_of);
        let scheduler: Scheduler = spec.scheduler.as_str().parse().map_err(model_fault)?;
        Ok(SampleRequest {
            prompt: if job.has_lora() {
                // Without them the LoRA fades.
                with_trigger(&self.bundle.defaults().trigger, &spec.prompt)
            } else {
                spec.prompt.clone()
            },
            negative_prompt: spec.negative_prompt.clone(),
            width: spec.width,
            height: spec.height,
            steps: spec.steps,
            guidance: f64::from(spec.guidance),
            guidance_rescale: 0.0,
            scheduler,
            seed: seed.unsigned_abs(),
            clip_skip: self.bundle.defaults().clip_skip,
            init: job.init.clone(),
        })
    }
}

/// Files that do not fit stay as they are; a device or a disk that fails may do better another time.
fn not_loaded(error: &anyhow::Error) -> Failure {
    let (reason, message) = (
        "MODEL_NOT_LOADED",
        "the worker cannot load this model".to_owned(),
    );
    match error.downcast_ref() {
        Some(likeness_sdxl::Error::Compute(_) | likeness_sdxl::Error::Io { .. }) => {
            Failure::Transient { reason, message }
        }
        _ => Failure::Permanent { reason, message },
    }
}
