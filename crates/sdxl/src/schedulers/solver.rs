//! One step of each solver. Latents are f32; coefficients are worked out in f64.

use candle_core::{Result as Compute, Tensor};

use super::Scheduler;
use super::schedule::{Schedule, Training};
use crate::Error;
use crate::config::{FinalSigma, Prediction, SchedulerConfig};

/// σ of the data in the boundary conditions of consistency models.
const LCM_SIGMA_DATA: f64 = 0.5;

/// A solver on its way through one schedule.
pub struct Solver {
    scheduler: Scheduler,
    config: SchedulerConfig,
    training: Training,
    schedule: Schedule,
    steps: usize,
    /// The last step's estimate of the noiseless latents, for multistep solvers.
    previous: Option<Tensor>,
}

/// What a step leaves.
pub struct Advance {
    /// The next step's latents.
    pub latents: Tensor,
    /// The estimate of the noiseless latents.
    pub denoised: Tensor,
}

/// Draws noise of the latents' shape.
pub type Draw<'a> = dyn FnMut() -> Compute<Tensor> + 'a;

impl Solver {
    pub fn new(
        scheduler: Scheduler,
        steps: usize,
        config: &SchedulerConfig,
    ) -> Result<Solver, Error> {
        let most = config.num_train_timesteps;
        if steps == 0 || steps > most {
            return Err(Error::bad_request("steps", format!("expected 1 to {most}")));
        }
        check_variant(scheduler, config)?;
        let training = Training::new(config);
        let schedule = Schedule::new(scheduler, steps, &training, config)?;
        let config = config.clone();
        Ok(Solver {
            scheduler,
            config,
            training,
            schedule,
            steps,
            previous: None,
        })
    }

    /// The timestep that the UNet is given, per step.
    pub fn timesteps(&self) -> &[f64] {
        &self.schedule.timesteps
    }

    /// Noise level before each step and behind the last; empty for ddim and lcm.
    pub fn sigmas(&self) -> &[f64] {
        &self.schedule.sigmas
    }

    /// The initial noise is multiplied by this.
    pub fn initial_scale(&self) -> f64 {
        self.schedule.initial_scale
    }

    /// Clean latents with the noise of a step, in the solver's own scale: where a run that begins at
    /// that step starts from.
    pub fn add_noise(&self, step: usize, clean: &Tensor, noise: &Tensor) -> Compute<Tensor> {
        match self.scheduler {
            Scheduler::Ddim | Scheduler::Lcm => {
                let alpha = self.training.alpha(self.schedule.timesteps[step] as usize);
                weighted(clean, alpha.sqrt(), noise, (1.0 - alpha).sqrt())
            }
            Scheduler::Euler | Scheduler::EulerKarras | Scheduler::EulerAncestral => {
                weighted(clean, 1.0, noise, self.schedule.sigmas[step])
            }
            Scheduler::Dpmpp2m | Scheduler::Dpmpp2mKarras => {
                let level = Level::new(self.schedule.sigmas[step]);
                weighted(clean, level.alpha, noise, level.sigma)
            }
        }
    }

    /// The latents as the UNet wants them: of unit variance.
    pub fn scale_input(&self, latents: &Tensor, step: usize) -> Compute<Tensor> {
        match self.scheduler {
            Scheduler::Euler | Scheduler::EulerKarras | Scheduler::EulerAncestral => {
                let sigma = self.schedule.sigmas[step];
                latents / (sigma * sigma + 1.0).sqrt()
            }
            _ => Ok(latents.clone()),
        }
    }

    /// From step `step`'s latents and what the UNet predicts to the next latents.
    pub fn step(
        &mut self,
        step: usize,
        latents: &Tensor,
        predicted: &Tensor,
        draw: &mut Draw<'_>,
    ) -> Compute<Advance> {
        let noise = &self.noise(step, latents, predicted)?;
        match self.scheduler {
            Scheduler::Ddim => self.ddim(step, latents, noise),
            Scheduler::Euler | Scheduler::EulerKarras => self.euler(step, latents, noise),
            Scheduler::EulerAncestral => self.euler_ancestral(step, latents, noise, draw),
            Scheduler::Dpmpp2m | Scheduler::Dpmpp2mKarras => self.dpmpp(step, latents, noise),
            Scheduler::Lcm => self.lcm(step, latents, noise, draw),
        }
    }

    /// The noise in the latents that the UNet's prediction says: of a velocity v, ε = √ᾱ v + √(1-ᾱ) x, with x
    /// of unit variance.
    fn noise(&self, step: usize, latents: &Tensor, predicted: &Tensor) -> Compute<Tensor> {
        if self.config.prediction_type == Prediction::Epsilon {
            return Ok(predicted.clone());
        }
        let (alpha, sigma) = match self.schedule.sigmas.get(step) {
            Some(&sigma) => {
                let level = Level::new(sigma);
                (level.alpha, level.sigma)
            }
            None => {
                let alpha = self.training.alpha(self.schedule.timesteps[step] as usize);
                (alpha.sqrt(), (1.0 - alpha).sqrt())
            }
        };
        weighted(predicted, alpha, &self.scale_input(latents, step)?, sigma)
    }

    /// Song et al. (2020), eq. 12 with σ = 0.
    fn ddim(&self, step: usize, latents: &Tensor, noise: &Tensor) -> Compute<Advance> {
        let timestep = self.schedule.timesteps[step] as usize;
        let alpha = self.training.alpha(timestep);
        let stride = self.training.len() / self.steps;
        let next = match timestep.checked_sub(stride) {
            Some(next) => self.training.alpha(next),
            None if self.config.set_alpha_to_one.unwrap_or(true) => 1.0,
            None => self.training.alpha(0),
        };
        let mut denoised = weighted(latents, 1.0, noise, -(1.0 - alpha).sqrt())?;
        denoised = (denoised / alpha.sqrt())?;
        if self.config.clip_sample.unwrap_or(true) {
            denoised = self.clip(&denoised)?;
        }
        let latents = weighted(&denoised, next.sqrt(), noise, (1.0 - next).sqrt())?;
        Ok(Advance { latents, denoised })
    }

    fn euler(&self, step: usize, latents: &Tensor, noise: &Tensor) -> Compute<Advance> {
        let (sigma, next) = (self.schedule.sigmas[step], self.schedule.sigmas[step + 1]);
        Ok(Advance {
            latents: weighted(latents, 1.0, noise, next - sigma)?,
            denoised: weighted(latents, 1.0, noise, -sigma)?,
        })
    }

    fn euler_ancestral(
        &self,
        step: usize,
        latents: &Tensor,
        noise: &Tensor,
        draw: &mut Draw<'_>,
    ) -> Compute<Advance> {
        let (from, to) = (self.schedule.sigmas[step], self.schedule.sigmas[step + 1]);
        let up = (to * to * (from * from - to * to) / (from * from))
            .max(0.0)
            .sqrt();
        let down = (to * to - up * up).max(0.0).sqrt();
        let moved = weighted(latents, 1.0, noise, down - from)?;
        Ok(Advance {
            latents: weighted(&moved, 1.0, &draw()?, up)?,
            denoised: weighted(latents, 1.0, noise, -from)?,
        })
    }

    fn clip(&self, denoised: &Tensor) -> Compute<Tensor> {
        let range = self.config.clip_sample_range as f32;
        denoised.clamp(-range, range)
    }

    /// Whether DPM-Solver++'s last step is of first order: one that ends at no noise must be.
    fn lowers_last(&self) -> bool {
        let config = &self.config;
        let few = config.lower_order_final && self.schedule.timesteps.len() < 15;
        config.final_sigmas_type == FinalSigma::Zero || config.euler_at_final || few
    }

    /// Lu et al. (2022), DPM-Solver++ algorithm 2; the first and mostly the last step are of first order.
    fn dpmpp(&mut self, step: usize, latents: &Tensor, noise: &Tensor) -> Compute<Advance> {
        let level = |step: usize| Level::new(self.schedule.sigmas[step]);
        let (now, next) = (level(step), level(step + 1));
        let denoised = (weighted(latents, 1.0, noise, -now.sigma)? / now.alpha)?;
        let h = next.lambda - now.lambda;
        let gain = -next.alpha * (-h).exp_m1();
        let last = step + 1 == self.schedule.timesteps.len() && self.lowers_last();
        let mut latents = weighted(latents, next.sigma / now.sigma, &denoised, gain)?;
        if let (Some(previous), false) = (&self.previous, last) {
            let ratio = (now.lambda - level(step - 1).lambda) / h;
            let slope = (&denoised - previous)?;
            latents = weighted(&latents, 1.0, &slope, 0.5 * gain / ratio)?;
        }
        self.previous = Some(denoised.clone());
        Ok(Advance { latents, denoised })
    }

    /// Luo et al. (2023), multistep consistency sampling.
    fn lcm(
        &self,
        step: usize,
        latents: &Tensor,
        noise: &Tensor,
        draw: &mut Draw<'_>,
    ) -> Compute<Advance> {
        let timestep = self.schedule.timesteps[step];
        let alpha = self.training.alpha(timestep as usize);
        let mut clean = (weighted(latents, 1.0, noise, -(1.0 - alpha).sqrt())? / alpha.sqrt())?;
        if self.config.clip_sample.unwrap_or(false) {
            clean = self.clip(&clean)?;
        }
        let scaled = timestep * self.config.timestep_scaling;
        let variance = LCM_SIGMA_DATA * LCM_SIGMA_DATA;
        let skip = variance / (scaled * scaled + variance);
        let out = scaled / (scaled * scaled + variance).sqrt();
        let denoised = weighted(&clean, out, latents, skip)?;
        let Some(&next) = self.schedule.timesteps.get(step + 1) else {
            return Ok(Advance {
                latents: denoised.clone(),
                denoised,
            });
        };
        let next = self.training.alpha(next as usize);
        let latents = weighted(&denoised, next.sqrt(), &draw()?, (1.0 - next).sqrt())?;
        Ok(Advance { latents, denoised })
    }
}

/// Refuses what the model's configuration asks of this solver alone.
fn check_variant(scheduler: Scheduler, config: &SchedulerConfig) -> Result<(), Error> {
    let linear = config.interpolation_type.as_deref().unwrap_or("linear") == "linear";
    let field = match scheduler {
        Scheduler::Euler | Scheduler::EulerKarras if !linear => "interpolation_type",
        Scheduler::Ddim | Scheduler::Lcm | Scheduler::Dpmpp2m | Scheduler::Dpmpp2mKarras
            if config.thresholding =>
        {
            "thresholding"
        }
        _ => return Ok(()),
    };
    let problem =
        format!("{scheduler} does not support the model's `{field}`: take euler_ancestral");
    Err(Error::bad_request("scheduler", problem))
}

/// A noise level in the variance-preserving form: x = α x₀ + σ ε, λ = ln(α/σ).
struct Level {
    alpha: f64,
    sigma: f64,
    lambda: f64,
}

impl Level {
    fn new(sigma: f64) -> Level {
        let alpha = 1.0 / (sigma * sigma + 1.0).sqrt();
        Level {
            alpha,
            sigma: sigma * alpha,
            lambda: -sigma.ln(),
        }
    }
}

/// a·x + b·y.
fn weighted(x: &Tensor, a: f64, y: &Tensor, b: f64) -> Compute<Tensor> {
    (x * a)? + (y * b)?
}
