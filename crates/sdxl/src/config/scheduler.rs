//! `scheduler/scheduler_config.json`: how the model was trained. Which solver runs is the request's
//! choice, and with it the order, the algorithm and the kind of noise levels; diffusers' `from_config` is what
//! carries the other fields from one solver to another.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::{config_of, read_config, require};
use crate::Error;

/// How inference timesteps are spread over the training timesteps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spacing {
    /// Evenly, both ends included.
    Linspace,
    /// Multiples of a whole ratio, from 0, plus the offset.
    Leading,
    /// Multiples of the ratio, counted from the end.
    Trailing,
}

/// How betas run from their start to their end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BetaSchedule {
    /// Linear in β.
    Linear,
    /// Linear in √β.
    ScaledLinear,
}

/// What a UNet was trained to predict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prediction {
    /// The noise ε.
    #[default]
    Epsilon,
    /// The velocity √ᾱ ε - √(1-ᾱ) x₀ of Salimans and Ho (2022).
    VPrediction,
}

/// Where noise levels end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinalSigma {
    /// At no noise.
    #[default]
    Zero,
    /// At the first training timestep's level.
    SigmaMin,
}

/// The training noise schedule and the fields that solvers read.
#[allow(clippy::struct_excessive_bools, reason = "it mirrors the file")]
#[derive(Clone, Debug, Deserialize)]
pub struct SchedulerConfig {
    /// First β.
    pub beta_start: f64,
    /// Last β.
    pub beta_end: f64,
    /// The course between them.
    pub beta_schedule: BetaSchedule,
    /// Training timesteps.
    #[serde(default = "default_timesteps")]
    pub num_train_timesteps: usize,
    /// Absent: each solver's own default.
    pub timestep_spacing: Option<Spacing>,
    /// Added to leading timesteps.
    #[serde(default)]
    pub steps_offset: usize,
    /// Absent: each solver's own default (DDIM clips, LCM does not).
    pub clip_sample: Option<bool>,
    /// What clipping clips to.
    #[serde(default = "one")]
    pub clip_sample_range: f64,
    /// Where Euler and DPM-Solver++ end.
    #[serde(default)]
    pub final_sigmas_type: FinalSigma,
    /// The smallest of Karras' noise levels; absent: the schedule's own.
    pub sigma_min: Option<f64>,
    /// The largest of Karras' noise levels; absent: the schedule's own.
    pub sigma_max: Option<f64>,
    /// DPM-Solver++'s last step is of first order where it ends above no noise and has under 15 steps.
    #[serde(default = "yes")]
    pub lower_order_final: bool,
    /// The same with any number of steps.
    #[serde(default)]
    pub euler_at_final: bool,
    /// The smallest log signal-to-noise ratio that DPM-Solver++ begins at.
    pub lambda_min_clipped: Option<f64>,
    /// Whether the step before the first has ᾱ = 1 (absent: yes) or the first ᾱ.
    pub set_alpha_to_one: Option<bool>,
    /// Steps that a consistency model was distilled with.
    #[serde(default = "default_original_steps")]
    pub original_inference_steps: usize,
    /// Scale of the timestep in a consistency model's boundary conditions.
    #[serde(default = "default_timestep_scaling")]
    pub timestep_scaling: f64,
    /// What the UNet predicts.
    #[serde(default)]
    pub prediction_type: Prediction,
    timestep_type: Option<String>,
    #[serde(default)]
    rescale_betas_zero_snr: bool,
    trained_betas: Option<Value>,
    /// Clipping by quantile, of DDIM, LCM and DPM-Solver++.
    #[serde(default)]
    pub thresholding: bool,
    /// Euler's way between the training timesteps' noise levels; absent: `linear`.
    pub interpolation_type: Option<String>,
}

fn one() -> f64 {
    1.0
}

fn yes() -> bool {
    true
}

fn default_timesteps() -> usize {
    1000
}

fn default_original_steps() -> usize {
    50
}

fn default_timestep_scaling() -> f64 {
    10.0
}

impl SchedulerConfig {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// Refuses predictions other than epsilon, custom betas, and zero-SNR rescaling.
    pub fn read(path: &Path) -> Result<SchedulerConfig, Error> {
        SchedulerConfig::checked(read_config(path)?, path)
    }

    /// As [`SchedulerConfig::read`], from JSON.
    pub fn parse(json: Value, path: &Path) -> Result<SchedulerConfig, Error> {
        SchedulerConfig::checked(config_of(json, path)?, path)
    }

    fn checked(config: SchedulerConfig, path: &Path) -> Result<SchedulerConfig, Error> {
        let continuous = config.timestep_type.as_deref() == Some("continuous");
        let discrete = config.prediction_type == Prediction::Epsilon || !continuous;
        require(discrete, path, || {
            "`timestep_type` \"continuous\" with `prediction_type` \"v_prediction\" is not supported"
                .to_owned()
        })?;
        let plain = !config.rescale_betas_zero_snr && config.trained_betas.is_none();
        require(plain, path, || {
            "`rescale_betas_zero_snr` and `trained_betas` are not supported".to_owned()
        })?;
        let levels = [config.sigma_min, config.sigma_max].into_iter().flatten();
        let positive = levels
            .chain([config.clip_sample_range])
            .all(|level| level > 0.0);
        require(positive, path, || {
            "`sigma_min`, `sigma_max` and `clip_sample_range` must be positive".to_owned()
        })?;
        let betas = 0.0 < config.beta_start
            && config.beta_start <= config.beta_end
            && config.beta_end < 1.0;
        require(betas, path, || "betas must rise between 0 and 1".to_owned())?;
        let sizes = (2..=100_000).contains(&config.num_train_timesteps)
            && (1..=config.num_train_timesteps).contains(&config.original_inference_steps);
        require(sizes, path, || {
            "timestep counts are out of range".to_owned()
        })?;
        Ok(config)
    }
}
