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
