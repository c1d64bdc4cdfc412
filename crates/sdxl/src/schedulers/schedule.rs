//! Timesteps and noise levels, computed once per request.

use super::Scheduler;
use crate::Error;
use crate::config::{BetaSchedule, FinalSigma, SchedulerConfig, Spacing};

/// ρ of Karras et al. (2022), eq. 5.
const RHO: f64 = 7.0;

/// The noise schedule that the model was trained with.
pub struct Training {
    /// ᾱ per training timestep, rounded to f32 as in every published implementation.
    alphas: Vec<f64>,
}

impl Training {
    pub fn new(config: &SchedulerConfig) -> Training {
        let mut product = 1.0f64;
        let alphas = betas(config).into_iter().map(|beta| {
            product *= f64::from(1.0 - beta);
            f64::from(product as f32)
        });
        Training {
            alphas: alphas.collect(),
        }
    }

    /// ᾱ at a training timestep.
    pub fn alpha(&self, timestep: usize) -> f64 {
        self.alphas[timestep.min(self.alphas.len() - 1)]
    }

    pub fn len(&self) -> usize {
        self.alphas.len()
    }

    /// √((1 - ᾱ)/ᾱ) per training timestep, rising.
    fn sigmas(&self) -> Vec<f64> {
        self.alphas
            .iter()
            .map(|&a| f64::from(((1.0 - a) / a).sqrt() as f32))
            .collect()
    }
}

/// β per training timestep in f32, stepped from both ends towards the middle.
fn betas(config: &SchedulerConfig) -> Vec<f32> {
    let scaled = config.beta_schedule == BetaSchedule::ScaledLinear;
    let end_point = |beta: f64| {
        if scaled {
            beta.sqrt() as f32
        } else {
            beta as f32
        }
    };
    let (start, end) = (end_point(config.beta_start), end_point(config.beta_end));
    let count = config.num_train_timesteps;
    let step = (end - start) / (count - 1) as f32;
    let at = |i: usize| {
        if i < count / 2 {
            start + step * i as f32
        } else {
            end - step * (count - 1 - i) as f32
        }
    };
    (0..count)
        .map(at)
        .map(|beta| if scaled { beta * beta } else { beta })
        .collect()
}

/// What a solver walks through.
pub struct Schedule {
    /// The timestep that the UNet is given, per step.
    pub timesteps: Vec<f64>,
    /// Noise level before each step and behind the last; empty for solvers that go by ᾱ.
    pub sigmas: Vec<f64>,
    /// The initial noise is scaled by this.
    pub initial_scale: f64,
}

impl Schedule {
    pub fn new(
        scheduler: Scheduler,
        steps: usize,
        training: &Training,
        config: &SchedulerConfig,
    ) -> Result<Schedule, Error> {
        match scheduler {
            Scheduler::Ddim => ddim(steps, training, config),
            Scheduler::Lcm => lcm(steps, config),
            Scheduler::Euler => Ok(euler(steps, training, config, false)),
            Scheduler::EulerAncestral => {
                let mut schedule = euler(steps, training, config, false);
                // It always ends at no noise.
                schedule.sigmas[steps] = 0.0;
                Ok(schedule)
            }
            Scheduler::EulerKarras => Ok(euler(steps, training, config, true)),
            Scheduler::Dpmpp2m => dpmpp(steps, training, config),
            Scheduler::Dpmpp2mKarras => Ok(dpmpp_karras(steps, training, config)),
        }
    }
}

fn ddim(steps: usize, training: &Training, config: &SchedulerConfig) -> Result<Schedule, Error> {
    let spacing = config.timestep_spacing.unwrap_or(Spacing::Leading);
    let mut timesteps = spaced(spacing, steps, training.len(), config);
    for t in &mut timesteps {
        *t = t.round_ties_even();
    }
    if timesteps
        .iter()
        .any(|&t| t < 0.0 || t >= training.len() as f64)
    {
        return Err(Error::bad_request(
            "steps",
            format!("{steps} are too many for ddim"),
        ));
    }
    Ok(Schedule {
        timesteps,
        sigmas: Vec::new(),
        initial_scale: 1.0,
    })
}

/// Every k-th of the steps that the model was distilled with, from the noisiest.
fn lcm(steps: usize, config: &SchedulerConfig) -> Result<Schedule, Error> {
    let original = config.original_inference_steps;
    if steps > original {
        return Err(Error::bad_request(
            "steps",
            format!("lcm takes 1 to {original}"),
        ));
    }
    let ratio = config.num_train_timesteps / original;
    let from_noisiest = |index: usize| ((original - index) * ratio - 1) as f64;
    let timesteps = (0..steps)
        .map(|i| from_noisiest(i * original / steps))
        .collect();
    Ok(Schedule {
        timesteps,
        sigmas: Vec::new(),
        initial_scale: 1.0,
    })
}

fn euler(steps: usize, training: &Training, config: &SchedulerConfig, karras: bool) -> Schedule {
    let spacing = config.timestep_spacing.unwrap_or(Spacing::Linspace);
    let table = training.sigmas();
    let mut timesteps = spaced(spacing, steps, training.len(), config);
    let mut sigmas: Vec<f64> = timesteps.iter().map(|&t| interpolate(&table, t)).collect();
    if karras {
        sigmas = karras_sigmas(sigmas[sigmas.len() - 1], sigmas[0], steps, config);
        timesteps = sigmas
            .iter()
            .map(|&sigma| timestep_of(sigma, &table))
            .collect();
    }
    let sigmas = finish(sigmas, &table, config);
    let largest = sigmas[0];
    let leading = spacing == Spacing::Leading;
    let initial_scale = if leading {
        (largest * largest + 1.0).sqrt()
    } else {
        largest
    };
    let timesteps = timesteps.into_iter().map(|t| f64::from(t as f32)).collect();
    Schedule {
        timesteps,
        sigmas,
        initial_scale,
    }
}

fn dpmpp(steps: usize, training: &Training, config: &SchedulerConfig) -> Result<Schedule, Error> {
    let spacing = config.timestep_spacing.unwrap_or(Spacing::Linspace);
    // One step more than asked for is laid out and the last, at no noise, left away.
    let mut timesteps = match spacing {
        Spacing::Trailing => spaced(spacing, steps, training.len(), config),
        Spacing::Leading | Spacing::Linspace => {
            let mut timesteps = spaced(spacing, steps + 1, training.len(), config);
            timesteps.pop();
            timesteps
        }
    };
    for t in &mut timesteps {
        *t = t.round_ties_even();
    }
    if timesteps.windows(2).any(|pair| pair[0] <= pair[1]) {
        let most = training.len() - 1;
        return Err(Error::bad_request(
            "steps",
            format!("dpmpp_2m takes 1 to {most}"),
        ));
    }
    let table = training.sigmas();
    let least = config.lambda_min_clipped.unwrap_or(f64::NEG_INFINITY);
    if table.iter().any(|sigma| -sigma.ln() < least) {
        let problem =
            "the model's `lambda_min_clipped` cuts dpmpp_2m's schedule, which is not supported";
        return Err(Error::bad_request("scheduler", problem));
    }
    let sigmas = timesteps.iter().map(|&t| interpolate(&table, t)).collect();
    let sigmas = finish(sigmas, &table, config);
    Ok(Schedule {
        timesteps,
        sigmas,
        initial_scale: 1.0,
    })
}

/// The whole training range, whatever the spacing says, with whole timesteps.
fn dpmpp_karras(steps: usize, training: &Training, config: &SchedulerConfig) -> Schedule {
    let table = training.sigmas();
    let sigmas = karras_sigmas(table[0], table[table.len() - 1], steps, config);
    let timesteps = sigmas
        .iter()
        .map(|&sigma| timestep_of(sigma, &table).round_ties_even())
        .collect();
    Schedule {
        timesteps,
        sigmas: finish(sigmas, &table, config),
        initial_scale: 1.0,
    }
}

/// Rounds to f32 and appends the end.
fn finish(mut sigmas: Vec<f64>, table: &[f64], config: &SchedulerConfig) -> Vec<f64> {
    sigmas.push(match config.final_sigmas_type {
        FinalSigma::Zero => 0.0,
        FinalSigma::SigmaMin => table[0],
    });
    sigmas
        .into_iter()
        .map(|sigma| f64::from(sigma as f32))
        .collect()
}

/// Falling timesteps, not rounded.
fn spaced(spacing: Spacing, steps: usize, train: usize, config: &SchedulerConfig) -> Vec<f64> {
    match spacing {
        Spacing::Linspace => {
            let step = (train - 1) as f64 / (steps.max(2) - 1) as f64;
            (0..steps).rev().map(|i| i as f64 * step).collect()
        }
        Spacing::Leading => {
            let ratio = train / steps;
            (0..steps)
                .rev()
                .map(|i| (i * ratio + config.steps_offset) as f64)
                .collect()
        }
        Spacing::Trailing => {
            let ratio = train as f64 / steps as f64;
            let at = |i: usize| (train as f64 - i as f64 * ratio).round_ties_even() - 1.0;
            (0..steps).map(at).collect()
        }
    }
}

/// The table between its entries; its ends outside.
fn interpolate(table: &[f64], at: f64) -> f64 {
    let last = table.len() - 1;
    let low = (at.max(0.0) as usize).min(last);
    let high = (low + 1).min(last);
    let weight = (at - low as f64).clamp(0.0, 1.0);
    table[low] * (1.0 - weight) + table[high] * weight
}

/// The timestep whose noise level is `sigma`, linear in log σ between table entries.
fn timestep_of(sigma: f64, table: &[f64]) -> f64 {
    let low = table
        .partition_point(|&entry| entry <= sigma)
        .saturating_sub(1);
    let low = low.min(table.len() - 2);
    let (a, b) = (table[low].ln(), table[low + 1].ln());
    let weight = ((a - sigma.max(1e-10).ln()) / (a - b)).clamp(0.0, 1.0);
    low as f64 + weight
}

/// Karras et al. (2022), eq. 5.
fn karras_sigmas(smallest: f64, largest: f64, steps: usize, config: &SchedulerConfig) -> Vec<f64> {
    let smallest = config.sigma_min.unwrap_or(smallest);
    let largest = config.sigma_max.unwrap_or(largest);
    let (min, max) = (smallest.powf(1.0 / RHO), largest.powf(1.0 / RHO));
    let ramp = |i: usize| i as f64 / (steps.max(2) - 1) as f64;
    (0..steps)
        .map(|i| (max + ramp(i) * (min - max)).powf(RHO))
        .collect()
}
