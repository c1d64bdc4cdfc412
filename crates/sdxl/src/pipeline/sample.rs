//! Sampling: pictures of one batch walk down the schedule together, each with its own prompt, noise,
//! identity, callback and end.
//!
//! A picture depends on its own request only. Its noise is its own; the UNet's kernels on the CPU
//! multiply each sample by itself; prompts are never padded to their neighbours' length, but samples
//! with another number of text states go through the UNet in a pass of their own.

use candle_core::{DType, Result as Compute, Tensor};
use image::RgbImage;

use super::{OnStep, SampleRequest, Sdxl, Step};
use crate::Error;
use crate::merge::Unmerged;
use crate::noise::TorchNoise;
use crate::schedulers::Solver;
use crate::unet::Conditioning;

/// One picture of a batch.
pub struct Sample<'a> {
    /// What to sample.
    pub request: &'a SampleRequest,
    /// Low-rank terms of this picture alone, beside whatever is merged: an identity among others.
    pub unmerged: Option<&'a Unmerged>,
    /// Initial noise [1, 4, h, w] of unit variance, rather than what the seed gives. The seed then feeds
    /// only the schedulers that draw noise in each step, from its first number on.
    pub noise: Option<&'a Tensor>,
    /// Sees every step of this picture.
    pub on_step: Box<OnStep<'a>>,
}

impl<'a> Sample<'a> {
    /// A picture without terms or noise of its own.
    pub fn new(request: &'a SampleRequest, on_step: Box<OnStep<'a>>) -> Sample<'a> {
        Sample {
            request,
            unmerged: None,
            noise: None,
            on_step,
        }
    }
}

impl Sdxl {
    /// Samples one picture. The same request gives the same picture (on one kind of device).
    ///
    /// # Errors
    /// [`Error::BadRequest`] before any work, [`Error::Cancelled`] when `on_step` breaks.
    pub fn sample(
        &self,
        request: &SampleRequest,
        on_step: &mut OnStep<'_>,
    ) -> Result<RgbImage, Error> {
        self.sample_one(Sample::new(request, Box::new(on_step)))
    }

    /// As [`Sdxl::sample`], from given initial noise [1, 4, h, w] of unit variance. The seed then feeds
    /// only the schedulers that draw noise in each step, from its first number on.
    ///
    /// # Errors
    /// As [`Sdxl::sample`]; noise of another shape.
    pub fn sample_with_noise(
        &self,
        request: &SampleRequest,
        noise: &Tensor,
        on_step: &mut OnStep<'_>,
    ) -> Result<RgbImage, Error> {
        let noise = Some(noise);
        self.sample_one(Sample {
            noise,
            ..Sample::new(request, Box::new(on_step))
        })
    }

    fn sample_one(&self, sample: Sample<'_>) -> Result<RgbImage, Error> {
        let mut pictures = self.sample_batch(vec![sample]);
        pictures.pop().unwrap_or(Err(Error::Cancelled))
    }

    /// Samples several pictures together, and answers for each in the order given. Each has its own end:
    /// one that is refused, cancelled or fails leaves the others' pixels as they would have been. On the
    /// CPU a picture has the same pixels in every batch.
    ///
    /// Where memory is short for all of them at once, fewer go through the UNet at a time; that is
    /// remembered for later batches.
    ///
    /// # Errors
    /// Per picture, those of [`Sdxl::sample`]; [`Error::BadRequest`] for one whose
    /// [`SampleRequest::batch_key`] differs from the first one's.
    pub fn sample_batch(&self, samples: Vec<Sample<'_>>) -> Vec<Result<RgbImage, Error>> {
        let key = samples.first().map(|sample| sample.request.batch_key());
        let mut ends: Vec<_> = samples.iter().map(|_| None).collect();
        let mut live = Vec::with_capacity(samples.len());
        for (index, sample) in samples.into_iter().enumerate() {
            let fits = Some(sample.request.batch_key()) == key;
            match self.begin(index, sample, fits) {
                Ok(walk) => live.push(walk),
                Err(error) => ends[index] = Some(Err(error)),
            }
        }
        while !live.is_empty() {
            for (index, end) in self.advance(&mut live) {
                ends[index] = Some(end);
            }
        }
        // Every walk has ended; the default is for the compiler.
        let ended = ends.into_iter();
        ended
            .map(|end| end.unwrap_or(Err(Error::Cancelled)))
            .collect()
    }

    /// Checks a request, encodes its prompts and draws its noise.
    fn begin<'a>(&self, index: usize, sample: Sample<'a>, fits: bool) -> Result<Walk<'a>, Error> {
        let request = sample.request;
        self.check(request)?;
        let size = self.latent_sides(request.width, request.height)?;
        let solver = Solver::new(request.scheduler, request.steps as usize, &self.scheduler)?;
        if !fits {
            let problem =
                "size, steps, scheduler and guidance differ from the batch's first picture";
            return Err(Error::bad_request("batch", problem));
        }
        if let Some(unmerged) = sample.unmerged {
            self.unet.matrices.check_unmerged(unmerged)?;
        }
        let given = sample.noise.map(|noise| self.checked_noise(noise, size));
        let given = given.transpose()?;
        let conditioning = self.condition(request)?;
        let mut noise = TorchNoise::new(request.seed);
        // Where the noise is given, the seed's first numbers are the first step's, as in diffusers.
        let initial = given.map_or_else(|| self.draw(&mut noise, size), Ok)?;
        let latents = self.start(request, &solver, &initial)?;
        Ok(Walk {
            index,
            step: request.first_step() as usize,
            first: request.first_step() as usize,
            request,
            unmerged: sample.unmerged,
            on_step: sample.on_step,
            conditioning,
            solver,
            noise,
            latents,
        })
    }

    /// The latents of the first step: noise alone, or the picture to start from and noise.
    fn start(
        &self,
        request: &SampleRequest,
        solver: &Solver,
        noise: &Tensor,
    ) -> Result<Tensor, Error> {
        let Some(init) = &request.init else {
            return Ok((noise * solver.initial_scale())?);
        };
        let clean = self.encode(&init.picture)?;
        Ok(solver.add_noise(request.first_step() as usize, &clean, noise)?)
    }

    /// One step of all; who is through, cancelled or failed leaves `live`.
    fn advance(&self, live: &mut Vec<Walk<'_>>) -> Vec<(usize, Result<RgbImage, Error>)> {
        let mut predicted = self.predict(live).into_iter();
        let mut ended = Vec::new();
        live.retain_mut(|walk| {
            let noise = predicted.next().unwrap_or(Err(Error::Cancelled));
            let latents = match noise.and_then(|noise| walk.take_step(self, &noise)) {
                Ok(()) if walk.step < walk.solver.timesteps().len() => return true,
                Ok(()) => Ok(walk.latents.clone()),
                Err(error) => Err(error),
            };
            ended.push((walk.index, latents));
            false
        });
        // Only now, so that nobody's step waits for another's picture.
        let decoded = ended.into_iter();
        decoded
            .map(|(index, latents)| (index, latents.and_then(|latents| self.decode(&latents))))
            .collect()
    }

    /// The picture of latents [1, 4, h, w] in the scale that [`Sdxl::encode`] gives.
    ///
    /// # Errors
    /// Another shape; a picture that is not finite.
    pub fn decode(&self, latents: &Tensor) -> Result<RgbImage, Error> {
        picture(&self.vae.decode(latents)?)
    }

    /// The predicted noise of every walk, guided, in f32.
    fn predict(&self, live: &[Walk<'_>]) -> Vec<Result<Tensor, Error>> {
        let mut noises: Vec<_> = live.iter().map(|_| None).collect();
        for pass in self.passes(live) {
            let walks: Vec<&Walk<'_>> = pass.iter().map(|&at| &live[at]).collect();
            for (&at, noise) in pass.iter().zip(self.predict_pass(&walks)) {
                noises[at] = Some(noise);
            }
        }
        let noises = noises.into_iter();
        noises
            .map(|noise| noise.unwrap_or(Err(Error::Cancelled)))
            .collect()
    }

    /// Which walks go through the UNet together: those with equally many text states, as many as
    /// memory has been seen to hold.
    fn passes(&self, live: &[Walk<'_>]) -> Vec<Vec<usize>> {
        let mut passes: Vec<Vec<usize>> = Vec::new();
        for (at, walk) in live.iter().enumerate() {
            let most = self.room.samples(walk.area());
            let fits = |pass: &&mut Vec<usize>| {
                pass.len() < most && live[pass[0]].text_states() == walk.text_states()
            };
            match passes.iter_mut().find(fits) {
                Some(pass) => pass.push(at),
                None => passes.push(vec![at]),
            }
        }
        passes
    }

    /// One pass through the UNet, or two of half the size where memory is short.
    fn predict_pass(&self, walks: &[&Walk<'_>]) -> Vec<Result<Tensor, Error>> {
        match self.pass(walks) {
            Ok(noises) => noises.into_iter().map(Ok).collect(),
            Err(error) if error.is_out_of_memory() && walks.len() > 1 => {
                self.room.was_short(walks.len(), walks[0].area());
                let (first, second) = walks.split_at(walks.len().div_ceil(2));
                let mut noises = self.predict_pass(first);
                noises.extend(self.predict_pass(second));
                noises
            }
            Err(error) => share(error, walks.len()),
        }
    }

    fn pass(&self, walks: &[&Walk<'_>]) -> Result<Vec<Tensor>, Error> {
        self.room.check(walks.len())?;
        let inputs = walks.iter().map(|walk| walk.input(self.dtype));
        let inputs = inputs.collect::<Compute<Vec<_>>>()?;
        let join = |part: fn(&Conditioning) -> &Tensor| {
            let parts: Vec<_> = walks.iter().map(|walk| part(&walk.conditioning)).collect();
            Tensor::cat(&parts, 0)
        };
        let conditioning = Conditioning {
            text: join(|conditioning| &conditioning.text)?,
            pooled: join(|conditioning| &conditioning.pooled)?,
            time_ids: walks[0].conditioning.time_ids,
        };
        let unmerged: Vec<_> = walks.iter().map(|walk| walk.unmerged).collect();
        let (latents, timestep) = (Tensor::cat(&inputs, 0)?, walks[0].timestep());
        let unet = &self.unet;
        let noise = unet.forward(&latents, &[timestep as f32], &conditioning, &unmerged)?;
        let noise = noise.to_dtype(DType::F32)?;
        let rows = walks[0].rows();
        let of =
            |(i, walk): (usize, &&Walk<'_>)| Ok(walk.guide(&noise.narrow(0, i * rows, rows)?)?);
        walks.iter().enumerate().map(of).collect()
    }

    fn draw(&self, noise: &mut TorchNoise, (h, w): (usize, usize)) -> Compute<Tensor> {
        Tensor::from_vec(noise.draw(4 * h * w), (1, 4, h, w), &self.device)
    }

    fn checked_noise(&self, noise: &Tensor, (h, w): (usize, usize)) -> Result<Tensor, Error> {
        if noise.dims() != [1, 4, h, w] {
            let problem = format!("its shape is {:?}, expected [1, 4, {h}, {w}]", noise.dims());
            return Err(Error::bad_request("noise", problem));
        }
        Ok(noise.to_device(&self.device)?.to_dtype(DType::F32)?)
    }
}

/// One picture on its way from noise.
struct Walk<'a> {
    /// Its place in the batch.
    index: usize,
    /// The step to take next, from 0, and the one that was taken first.
    step: usize,
    first: usize,
    request: &'a SampleRequest,
    unmerged: Option<&'a Unmerged>,
    on_step: Box<OnStep<'a>>,
    conditioning: Conditioning,
    solver: Solver,
    noise: TorchNoise,
    latents: Tensor,
}

impl Walk<'_> {
    /// Its rows of a pass: the negative prompt's, if there is guidance, and the prompt's.
    fn rows(&self) -> usize {
        if self.request.guided() { 2 } else { 1 }
    }

    fn text_states(&self) -> usize {
        self.conditioning.text.dims()[1]
    }

    /// Pixels of its picture.
    fn area(&self) -> usize {
        self.request.width as usize * self.request.height as usize
    }

    fn timestep(&self) -> f64 {
        self.solver.timesteps()[self.step]
    }

    /// What the UNet is given, [rows, 4, h, w].
    fn input(&self, dtype: DType) -> Compute<Tensor> {
        let latents = self.solver.scale_input(&self.latents, self.step)?;
        latents.to_dtype(dtype)?.repeat((self.rows(), 1, 1, 1))
    }

    /// Classifier-free guidance of the UNet's noise [rows, 4, h, w].
    fn guide(&self, noise: &Tensor) -> Compute<Tensor> {
        if !self.request.guided() {
            return Ok(noise.clone());
        }
        let (negative, positive) = (noise.narrow(0, 0, 1)?, noise.narrow(0, 1, 1)?);
        let guided = (&negative + ((&positive - &negative)? * self.request.guidance)?)?;
        rescale(&guided, &positive, self.request.guidance_rescale)
    }

    /// From the predicted noise to the next latents, and to the caller.
    fn take_step(&mut self, model: &Sdxl, predicted: &Tensor) -> Result<(), Error> {
        let (_, _, h, w) = self.latents.dims4()?;
        let (timestep, sigma) = (
            self.timestep(),
            self.solver.sigmas().get(self.step).copied(),
        );
        let mut draw = || model.draw(&mut self.noise, (h, w));
        let step = self.step;
        let advance = self
            .solver
            .step(step, &self.latents, predicted, &mut draw)?;
        self.latents = advance.latents;
        self.step += 1;
        let seen = Step {
            index: (self.step - self.first) as u32,
            total: (self.solver.timesteps().len() - self.first) as u32,
            timestep,
            sigma,
            latents: &self.latents,
            denoised: &advance.denoised,
            preview: &model.preview,
        };
        if (self.on_step)(seen).is_break() {
            return Err(Error::Cancelled);
        }
        Ok(())
    }
}

/// Lin et al. (2023), eq. 15 and 16, with the deviations over all but the batch.
fn rescale(guided: &Tensor, positive: &Tensor, share: f64) -> Compute<Tensor> {
    if share == 0.0 {
        return Ok(guided.clone());
    }
    let deviation = |x: &Tensor| x.flatten_all()?.var(0)?.sqrt();
    let factor = (deviation(positive)? / deviation(guided)?)?;
    guided.broadcast_mul(&((factor * share)? + (1.0 - share))?)
}

/// A fault of a pass is a fault of each of its pictures.
fn share(error: Error, count: usize) -> Vec<Result<Tensor, Error>> {
    let text = error.to_string();
    let copy = |_| Err(Error::Compute(candle_core::Error::Msg(text.clone())));
    let mut errors: Vec<_> = (1..count).map(copy).collect();
    errors.push(Err(error));
    errors
}

/// [1, 3, h, w] from -1 to 1 → pixels, rounded to the nearest level.
fn picture(decoded: &Tensor) -> Result<RgbImage, Error> {
    // 0 · x is 0 for finite x and NaN otherwise. A NaN would become a black pixel.
    if (decoded * 0.0)?.sum_all()?.to_scalar::<f32>()? != 0.0 {
        return Err(Error::NotFinitePicture);
    }
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
