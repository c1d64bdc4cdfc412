//! A clock that stands still until a test moves it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, SubsecRound, Utc};
use likeness_domain::Clock;

/// Share it as `Arc<MockClock>`: what holds it as a [`likeness_domain::SharedClock`] sees every
/// move.
#[derive(Debug)]
pub struct MockClock(Mutex<DateTime<Utc>>);

impl MockClock {
    /// Stands at `now`, in whole microseconds.
    pub fn at(now: DateTime<Utc>) -> Self {
        Self(Mutex::new(now.trunc_subsecs(6)))
    }

    /// Stands at `now` from here on.
    pub fn set(&self, now: DateTime<Utc>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = now.trunc_subsecs(6);
    }

    /// Moves on by `by`.
    pub fn advance(&self, by: Duration) {
        let now = self.now();
        self.set(now + by);
    }
}

impl Default for MockClock {
    /// Stands at the start of 2026.
    fn default() -> Self {
        Self::at(DateTime::from_timestamp(1_767_225_600, 0).unwrap_or_default())
    }
}

impl Clock for MockClock {
    fn now(&self) -> DateTime<Utc> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use likeness_domain::SharedClock;
    use std::sync::Arc;

    #[test]
    fn it_moves_only_when_told() {
        let clock = Arc::new(MockClock::default());
        let shared: SharedClock = clock.clone();
        assert_eq!(shared.now().to_rfc3339(), "2026-01-01T00:00:00+00:00");
        clock.advance(Duration::from_nanos(1_500));
        assert_eq!(shared.now().timestamp_subsec_nanos(), 1_000);
    }
}
