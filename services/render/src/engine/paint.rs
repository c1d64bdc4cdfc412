//! One group of renders, painted in batches: merged where they show the same person, beside the weights where not.

use std::time::Instant;

use bytes::Bytes;
use image::RgbImage;
use likeness_domain::render::{ImageFormat, RenderProgress, RenderTimings, RenderedImage};
use likeness_sdxl::{OnStep, Sample, SampleRequest, Step, Unmerged};
use ring::digest::{SHA256, digest};

use super::{
    Failure, Job, Order, Painted, encode::encode, faces::Painting, group::told,
    likeness::Candidate, models::Models, stack::same_person,
};

/// Longest side of a preview in pixels.
const PREVIEW_SIDE: u32 = 128;

/// One render on its way: what it needs, and what there is of it.
struct Canvas {
    order: Order,
    /// Of every candidate, image by image.
    requests: Vec<SampleRequest>,
    /// How many of them have been painted.
    painted: usize,
    unmerged: Option<Unmerged>,
    /// The best candidate so far of the image that is being made.
    best: Option<Candidate>,
    images: Vec<(Bytes, RenderedImage)>,
    timings: RenderTimings,
}

impl Models {
    /// Paints a group of one kind, answers each, and leaves nothing of a person behind in the weights.
    pub fn paint_group(&mut self, orders: Vec<Order>) {
        let Some(first) = orders.first() else { return };
        let model = first.job.spec.model.clone();
        if let Err(failure) = self.switch_to(&model) {
            return orders
                .iter()
                .for_each(|order| order.tell(Err(failure.clone())));
        }
        let mut canvases = self.prepare(orders);
        if let Err(failure) = self.show(&mut canvases) {
            return fail_all(canvases, &failure);
        }
        while !canvases.is_empty() {
            canvases = self.paint_batch(canvases);
        }
        if let Err(error) = self.sdxl.merge(&[]) {
            model_fault(error);
        }
    }

    /// Requests of all images, every one checked; a render that cannot be made is answered at once.
    fn prepare(&self, orders: Vec<Order>) -> Vec<Canvas> {
        let waiting = orders
            .into_iter()
            .filter(|order| order.heed_stop().is_continue());
        let prepared = waiting.filter_map(|order| match self.requests(&order.job) {
            Ok(requests) => Some(Canvas::new(order, requests)),
            Err(failure) => {
                order.tell(Err(failure));
                None
            }
        });
        prepared.collect()
    }

    /// Requests of all images. What the model refuses is refused here, before any work is done.
    fn requests(&self, job: &Job) -> Result<Vec<SampleRequest>, Failure> {
        if job.spec.face_strength.is_some() {
            self.faces.detector()?;
        }
        if job.spec.best_of > 1 {
            self.faces.recognizer()?;
        }
        let candidates = 0..job.spec.candidates();
        candidates
            .map(|index| self.checked_request(job, index))
            .collect()
    }

    fn checked_request(&self, job: &Job, index: u32) -> Result<SampleRequest, Failure> {
        let request = self.request(job, index)?;
        self.sdxl.check(&request).map_err(sdxl_failure)?;
        Ok(request)
    }

    /// Brings the people into the model: merged where all show the same, else beside the weights.
    fn show(&mut self, canvases: &mut Vec<Canvas>) -> Result<(), Failure> {
        let Some(first) = canvases.first() else {
            return Ok(());
        };
        let shared = canvases
            .iter()
            .all(|canvas| same_person(&canvas.order.job, &first.order.job));
        if shared {
            return self.show_merged(canvases);
        }
        canvases.retain_mut(|canvas| {
            let shown = self.show_beside(canvas);
            shown
                .map_err(|failure| canvas.order.tell(Err(failure)))
                .is_ok()
        });
        Ok(())
    }

    fn show_merged(&mut self, canvases: &mut [Canvas]) -> Result<(), Failure> {
        let Some(first) = canvases.first() else {
            return Ok(());
        };
        let mut timings = RenderTimings::default();
        let updates = timed(&mut timings.synthesis, || self.synthesise(&first.order.job))?;
        timed(&mut timings.merge, || self.sdxl.merge(&updates)).map_err(sdxl_failure)?;
        for canvas in &mut *canvases {
            canvas.timings = timings;
        }
        Ok(())
    }

    fn show_beside(&self, canvas: &mut Canvas) -> Result<(), Failure> {
        let Canvas { order, timings, .. } = canvas;
        let updates = timed(&mut timings.synthesis, || self.synthesise(&order.job))?;
        if !updates.is_empty() {
            let unmerged = timed(&mut timings.merge, || self.sdxl.unmerged(&updates));
            canvas.unmerged = Some(unmerged.map_err(sdxl_failure)?);
        }
        Ok(())
    }

    /// Paints as many images as fit, answers whoever has all or none to come, and gives back the others.
    fn paint_batch(&self, canvases: Vec<Canvas>) -> Vec<Canvas> {
        let request = canvases.iter().find_map(|canvas| canvas.requests.first());
        let limit = match request {
            Some(request) if !canvases.iter().any(|canvas| canvas.order.job.alone) => {
                self.batch_limit(request)
            }
            _ => 1,
        };
        let shares = shares(&canvases, limit);
        let begun = Instant::now();
        let pictures = self.sdxl.sample_batch(samples(&canvases, &shares));
        let per_picture = begun.elapsed().as_secs_f64() / pictures.len().max(1) as f64;
        let mut pictures = pictures.into_iter();
        let mut unfinished = Vec::new();
        for (mut canvas, share) in canvases.into_iter().zip(shares) {
            canvas.timings.sampling += per_picture * share as f64;
            let pictures = pictures.by_ref().take(share).collect();
            match canvas.keep(self, pictures) {
                Ok(()) if canvas.is_finished() => canvas.deliver(),
                Ok(()) => unfinished.push(canvas),
                Err(failure) => canvas.order.tell(Err(failure)),
            }
        }
        unfinished
    }
}

/// How many candidates of each render the next batch holds: the first ones' first, so that they are done first.
fn shares(canvases: &[Canvas], limit: usize) -> Vec<usize> {
    let mut left = limit.max(1);
    let take = |canvas: &Canvas| {
        let share = (canvas.requests.len() - canvas.painted).min(left);
        left -= share;
        share
    };
    canvases.iter().map(take).collect()
}

fn samples<'a>(canvases: &'a [Canvas], shares: &[usize]) -> Vec<Sample<'a>> {
    let of = |(canvas, &share): (&'a Canvas, &usize)| {
        let first = canvas.painted;
        (first..first + share).map(move |index| canvas.sample(index, first..first + share))
    };
    canvases.iter().zip(shares).flat_map(of).collect()
}

impl Canvas {
    fn new(order: Order, requests: Vec<SampleRequest>) -> Self {
        let images = Vec::with_capacity(order.job.spec.image_count as usize);
        Self {
            order,
            images,
            requests,
            painted: 0,
            unmerged: None,
            best: None,
            timings: RenderTimings::default(),
        }
    }

    /// Candidate `index`, painted together with `others` of this render.
    fn sample(&self, index: usize, others: std::ops::Range<usize>) -> Sample<'_> {
        let job = &self.order.job;
        let (first, end) = (others.start as u32, others.end as u32);
        let on_step = move |step: Step<'_>| {
            // One of those painted together speaks for all of them.
            let (candidate, done) = told(first, end, step.index, step.total);
            if candidate as usize == index {
                report(job, candidate, done, &step);
            }
            // One that must stop is told at once, though the others go on.
            self.order.heed_stop()
        };
        Sample {
            unmerged: self.unmerged.as_ref(),
            ..Sample::new(&self.requests[index], Box::new(on_step) as Box<OnStep<'_>>)
        }
    }

    /// Takes the batch's pictures of this render; the first failure is the render's.
    fn keep(
        &mut self,
        models: &Models,
        pictures: Vec<Result<RgbImage, likeness_sdxl::Error>>,
    ) -> Result<(), Failure> {
        if let Some(reason) = self.order.job.stop.reason() {
            return Err(Failure::Stopped(reason));
        }
        for picture in pictures {
            let picture = picture.map_err(|error| failure_of(&self.order.job, error))?;
            let candidate = self.candidate(models, picture)?;
            self.best = Some(match self.best.take() {
                Some(best) => best.better(candidate),
                None => candidate,
            });
            self.painted += 1;
            if self
                .painted
                .is_multiple_of(self.order.job.spec.best_of.max(1) as usize)
            {
                self.keep_best()?;
            }
        }
        Ok(())
    }

    /// The next candidate: its small faces painted again where that is asked for, and compared with the person.
    fn candidate(&mut self, models: &Models, picture: RgbImage) -> Result<Candidate, Failure> {
        let request = &self.requests[self.painted];
        let order = &self.order;
        let painting = Painting {
            order,
            request,
            unmerged: self.unmerged.as_ref(),
        };
        timed(&mut self.timings.sampling, || {
            let picture = models.detail_faces(&painting, picture)?;
            Ok(Candidate {
                likeness: models.likeness(&order.job, &picture),
                seed: request.seed.cast_signed(),
                picture,
            })
        })
    }

    /// Makes the best candidate the image.
    fn keep_best(&mut self) -> Result<(), Failure> {
        let Some(best) = self.best.take() else {
            return Ok(());
        };
        let job = &self.order.job;
        let file = timed(&mut self.timings.encoding, || {
            file_of(&best.picture, job.spec.output_format)
        })?;
        let told = describe(job, &best, &file);
        self.images.push((file, told));
        Ok(())
    }

    fn is_finished(&self) -> bool {
        self.painted == self.requests.len()
    }

    fn deliver(self) {
        let Self {
            order,
            images,
            timings,
            ..
        } = self;
        order.tell(Ok(Painted { images, timings }));
    }
}

fn fail_all(canvases: Vec<Canvas>, failure: &Failure) {
    for canvas in canvases {
        canvas.order.tell(Err(failure.clone()));
    }
}

pub fn failure_of(job: &Job, error: likeness_sdxl::Error) -> Failure {
    match error {
        likeness_sdxl::Error::Cancelled => job
            .stop
            .reason()
            .map_or_else(|| model_fault("sampling stopped unasked"), Failure::Stopped),
        error => sdxl_failure(error),
    }
}

/// What a fault of SDXL means for a render: worth another attempt, unless the request or the bundle is wrong.
pub fn sdxl_failure(error: likeness_sdxl::Error) -> Failure {
    use likeness_sdxl::Error;
    match error {
        Error::BadRequest { .. } => Failure::Permanent {
            reason: "NOT_RENDERABLE",
            message: error.to_string(),
        },
        Error::UnknownMatrix { .. } | Error::UpdateShape { .. } | Error::NotFinite { .. } => {
            bundle_mismatch(error)
        }
        error if error.is_out_of_memory() => out_of_memory(error),
        error => model_fault(error),
    }
}

/// What a fault of synthesis means for a render.
pub fn synthesis_failure(error: likeness_hyperlora::Error) -> Failure {
    match error {
        likeness_hyperlora::Error::Compute(error) => sdxl_failure(error.into()),
        error => bundle_mismatch(error),
    }
}

fn out_of_memory(error: impl std::fmt::Display) -> Failure {
    tracing::error!("OUT_OF_MEMORY: {error}");
    Failure::Transient {
        reason: "OUT_OF_MEMORY",
        message: "the worker has too little memory for this size".to_owned(),
    }
}

/// Tells of a step of a candidate. Those of one image are told as one long walk.
fn report(job: &Job, candidate: u32, step: u32, seen: &Step<'_>) {
    let best_of = job.spec.best_of.max(1);
    let progress = RenderProgress {
        image: candidate / best_of,
        image_count: job.spec.image_count,
        step: candidate % best_of * seen.total + step,
        steps: seen.total * best_of,
    };
    // A preview that fails is no reason to fail the render.
    let preview = seen
        .preview()
        .ok()
        .and_then(|picture| preview_file(&picture));
    let _ = job.progress.send((progress, preview));
}

fn preview_file(picture: &RgbImage) -> Option<Bytes> {
    let small = if picture.width().max(picture.height()) > PREVIEW_SIDE {
        &image::imageops::thumbnail(picture, PREVIEW_SIDE, PREVIEW_SIDE)
    } else {
        picture
    };
    encode(small, ImageFormat::Jpeg).ok()
}

fn file_of(picture: &RgbImage, format: ImageFormat) -> Result<Bytes, Failure> {
    encode(picture, format).map_err(|error| Failure::Permanent {
        reason: "NOT_ENCODABLE",
        message: error.to_string(),
    })
}

fn describe(job: &Job, kept: &Candidate, file: &[u8]) -> RenderedImage {
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
        seed: kept.seed,
        likeness: kept.likeness,
    }
}

fn timed<T>(seconds: &mut f64, work: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let result = work();
    *seconds += begun.elapsed().as_secs_f64();
    result
}

/// Logs that parts of the bundle do not fit each other; no other attempt would meet better ones.
pub fn bundle_mismatch(error: impl std::fmt::Display) -> Failure {
    tracing::error!("BUNDLE_MISMATCH: {error}");
    Failure::Permanent {
        reason: "BUNDLE_MISMATCH",
        message: "the parts of the bundle do not fit each other".to_owned(),
    }
}

/// Logs a fault of the model, and says that it is worth another attempt.
pub fn model_fault(error: impl std::fmt::Display) -> Failure {
    tracing::error!("MODEL_FAULT: {error}");
    Failure::Transient {
        reason: "MODEL_FAULT",
        message: "a fault of the model; it is tried again".to_owned(),
    }
}
