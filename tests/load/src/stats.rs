//! Numbers of many measurements.

use std::time::Duration;

/// Durations, sorted.
#[derive(Clone, Debug, Default)]
pub struct Durations(Vec<Duration>);

impl Durations {
    /// The value that a part of all, such as 0.99, is not above; nothing where nothing was measured.
    pub fn percentile(&self, part: f64) -> Option<Duration> {
        let last = self.0.len().checked_sub(1)?;
        let place = (last as f64 * part).ceil() as usize;
        self.0.get(place).copied()
    }

    /// In milliseconds.
    pub fn milliseconds(&self, part: f64) -> Option<f64> {
        self.percentile(part).map(|one| one.as_secs_f64() * 1e3)
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }
}

impl FromIterator<Duration> for Durations {
    fn from_iter<I: IntoIterator<Item = Duration>>(all: I) -> Self {
        let mut all: Vec<Duration> = all.into_iter().collect();
        all.sort_unstable();
        Self(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let all: Durations = (1..=100).rev().map(Duration::from_millis).collect();
        assert_eq!(all.percentile(0.0), Some(Duration::from_millis(1)));
        assert_eq!(all.percentile(0.99), Some(Duration::from_millis(100)));
        assert_eq!(all.percentile(0.5), Some(Duration::from_millis(51)));
        assert_eq!(Durations::default().percentile(0.5), None);
    }
}
