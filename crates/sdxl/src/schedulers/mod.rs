//! The samplers of the design's list, with diffusers' timestep spacing and noise levels.

mod schedule;
mod solver;

use std::str::FromStr;

pub(crate) use solver::Solver;

use crate::Error;

/// Which solver turns noise into latents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheduler {
    /// DDIM, deterministic (η = 0).
    Ddim,
    /// Euler's method on the noise level.
    Euler,
    /// Euler with the noise levels of Karras et al. (2022).
    EulerKarras,
    /// Euler with fresh noise in every step.
    EulerAncestral,
    /// DPM-Solver++ (2M).
    Dpmpp2m,
    /// DPM-Solver++ (2M) with Karras' noise levels.
    Dpmpp2mKarras,
    /// The few-step sampler of latent consistency models.
    Lcm,
}

impl Scheduler {
    /// Every scheduler.
    pub const ALL: [Scheduler; 7] = [
        Scheduler::Ddim,
        Scheduler::Euler,
        Scheduler::EulerKarras,
        Scheduler::EulerAncestral,
        Scheduler::Dpmpp2m,
        Scheduler::Dpmpp2mKarras,
        Scheduler::Lcm,
    ];

    /// The name in bundles, requests and commands.
    pub fn as_str(self) -> &'static str {
        match self {
            Scheduler::Ddim => "ddim",
            Scheduler::Euler => "euler",
            Scheduler::EulerKarras => "euler_karras",
            Scheduler::EulerAncestral => "euler_ancestral",
            Scheduler::Dpmpp2m => "dpmpp_2m",
            Scheduler::Dpmpp2mKarras => "dpmpp_2m_karras",
            Scheduler::Lcm => "lcm",
        }
    }
}

impl std::fmt::Display for Scheduler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scheduler {
    type Err = Error;

    fn from_str(name: &str) -> Result<Scheduler, Error> {
        Scheduler::ALL
            .into_iter()
            .find(|scheduler| scheduler.as_str() == name)
            .ok_or_else(|| {
                let known = Scheduler::ALL.map(Scheduler::as_str).join(", ");
                Error::bad_request("scheduler", format!("expected one of {known}"))
            })
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp, reason = "zero is exact")]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};

    use super::*;
    use crate::config::SchedulerConfig;

    fn solver(scheduler: Scheduler, more: &Value) -> Result<Solver, Error> {
        let mut config = json!({
            "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
            "timestep_spacing": "leading", "steps_offset": 1,
        });
        let fields = config.as_object_mut().unwrap();
        fields.extend(more.as_object().unwrap().clone());
        let config = SchedulerConfig::parse(config, Path::new("scheduler")).unwrap();
        Solver::new(scheduler, 7, &config)
    }

    /// diffusers' levels: `from_config(…).sigmas` after `set_timesteps(7)`.
    #[test]
    fn noise_levels_may_end_above_zero_and_within_bounds() {
        let last = |scheduler| {
            let solver = solver(scheduler, &json!({"final_sigmas_type": "sigma_min"})).unwrap();
            solver.sigmas()[7]
        };
        assert!((last(Scheduler::Euler) - 0.029_167_53).abs() < 1e-7);
        assert!((last(Scheduler::Dpmpp2mKarras) - 0.029_167_53).abs() < 1e-7);
        assert_eq!(last(Scheduler::EulerAncestral), 0.0);
        let bounds = json!({"sigma_min": 0.05, "sigma_max": 10.0});
        for scheduler in [Scheduler::EulerKarras, Scheduler::Dpmpp2mKarras] {
            let solver = solver(scheduler, &bounds).unwrap();
            let sigmas = solver.sigmas();
            let ends = [(sigmas[0], 10.0), (sigmas[6], 0.05), (sigmas[7], 0.0)];
            assert!(ends.iter().all(|(a, b)| (a - b).abs() < 1e-6), "{sigmas:?}");
        }
    }

    #[test]
    fn what_a_solver_cannot_do_is_refused_by_name() {
        let refused = |scheduler, more: &Value| match solver(scheduler, more) {
            Ok(_) => panic!("taken"),
            Err(error) => error.to_string(),
        };
        let said = refused(Scheduler::Ddim, &json!({"thresholding": true}));
        assert!(
            said.contains("ddim") && said.contains("thresholding"),
            "{said}"
        );
        let said = refused(
            Scheduler::Euler,
            &json!({"interpolation_type": "log_linear"}),
        );
        assert!(said.contains("interpolation_type"), "{said}");
        let said = refused(Scheduler::Dpmpp2m, &json!({"lambda_min_clipped": -2.0}));
        assert!(said.contains("lambda_min_clipped"), "{said}");
        solver(Scheduler::Dpmpp2m, &json!({"lambda_min_clipped": -5.1})).unwrap();
        solver(Scheduler::Euler, &json!({"thresholding": true})).unwrap();
    }
}
