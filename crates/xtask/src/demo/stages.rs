//! How long each stage took.

use std::time::{Duration, Instant};

/// A stopwatch with a name for each lap.
pub struct Stages {
    begun: Instant,
    lap: Instant,
    done: Vec<(&'static str, Duration)>,
}

impl Stages {
    /// Starts the clock.
    pub fn begin() -> Self {
        let now = Instant::now();
        Self {
            begun: now,
            lap: now,
            done: Vec::new(),
        }
    }

    /// Ends a lap.
    pub fn done(&mut self, name: &'static str) {
        self.done.push((name, self.lap.elapsed()));
        self.lap = Instant::now();
    }

    /// One line for each lap, and one for the whole.
    pub fn lines(&self) -> Vec<String> {
        let line =
            |(name, time): (&str, Duration)| format!("  {name:28} {:7.2} s", time.as_secs_f64());
        let whole = ("in all", self.begun.elapsed());
        self.done.iter().copied().chain([whole]).map(line).collect()
    }
}
