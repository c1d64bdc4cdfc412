//! The learning rate over a run.

use serde::{Deserialize, Serialize};

/// Rises in a straight line, stays, falls in a straight line to 0 at the end.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// The rate between rise and fall.
    pub peak: f64,
    /// Steps of the rise.
    pub warm_up: u64,
    /// The step from which on it falls.
    pub decay_from: u64,
    /// Steps of the run.
    pub steps: u64,
}

impl Rate {
    /// At a step, counted from 0.
    pub fn at(&self, step: u64) -> f64 {
        let rise = (step + 1) as f64 / (self.warm_up + 1) as f64;
        let rest = self.steps.saturating_sub(step) as f64;
        let fall = rest / self.steps.saturating_sub(self.decay_from).max(1) as f64;
        self.peak * rise.min(fall).clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rises_stays_and_falls() {
        let rate = Rate {
            peak: 2.0,
            warm_up: 3,
            decay_from: 10,
            steps: 20,
        };
        let at: Vec<f64> = [0, 1, 3, 9, 10, 15, 19, 20, 99]
            .map(|s| rate.at(s))
            .to_vec();
        assert_eq!(at, [0.5, 1.0, 2.0, 2.0, 2.0, 1.0, 0.2, 0.0, 0.0]);
    }

    #[test]
    fn a_run_of_no_steps_has_no_rate() {
        let rate = Rate {
            peak: 1.0,
            warm_up: 0,
            decay_from: 0,
            steps: 0,
        };
        assert!(rate.at(0).abs() < 1e-12);
    }
}
