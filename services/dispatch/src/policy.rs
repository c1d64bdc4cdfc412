//! The queue's numbers, in one place.

use chrono::TimeDelta;
use likeness_registry::{
    erasures::UPLOAD_LINK_LIFETIME,
    photos::queue::{BACKOFF, MAX_ATTEMPTS},
    renders::{RetryPolicy, Window},
};

/// How long things may take before they count as lost, and how much is handed out ahead.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// How long a claim holds without renewal.
    pub lease: TimeDelta,
    /// How long the leader leads without renewal.
    pub leadership: TimeDelta,
    /// How long a worker may be silent before it does not count as live.
    pub silence: TimeDelta,
    /// A publication that JetStream has not confirmed by then is published again.
    pub unconfirmed: TimeDelta,
    /// A publication that nobody has claimed by then is published again.
    pub unclaimed: TimeDelta,
    /// How long upload links live: longer than any lease chain of one attempt is expected to last.
    pub upload_ttl: TimeDelta,
    /// Estimated seconds of work that may wait unclaimed in a pool, at least: enough for a worker that paints several
    /// renders together.
    pub ahead_seconds: f32,
    /// For which part of a pool's live workers a next render waits unclaimed, so that none waits for admission.
    pub ahead_workers: f32,
    /// Failures before a render is given up, and the waits between.
    pub retry: RetryPolicy,
    /// Attempts before a photo is given up.
    pub photo_attempts: i32,
    /// The wait before a photo's next attempt.
    pub photo_backoff: TimeDelta,
    /// Tries at a webhook before it is given up, and the waits between.
    pub webhook: WebhookPolicy,
}

/// When a webhook that did not answer as it should is called again.
#[derive(Clone, Copy, Debug)]
pub struct WebhookPolicy {
    /// The try with this number is the last.
    pub tries: i32,
    /// The wait after the first try; doubled by each further one.
    pub base: TimeDelta,
    /// The longest wait.
    pub max: TimeDelta,
}

impl WebhookPolicy {
    /// The wait after try number `tries`; none after the last.
    pub fn wait(&self, tries: i32) -> Option<TimeDelta> {
        let doublings = tries.clamp(1, 31) - 1;
        let wait = self.base.checked_mul(1 << doublings);
        let wait = wait.map_or(self.max, |wait| wait.min(self.max));
        (tries < self.tries).then_some(wait)
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            lease: TimeDelta::seconds(30),
            leadership: TimeDelta::milliseconds(1200),
            silence: TimeDelta::seconds(15),
            unconfirmed: TimeDelta::seconds(2),
            unclaimed: TimeDelta::seconds(30),
            upload_ttl: UPLOAD_LINK_LIFETIME,
            ahead_seconds: 20.0,
            ahead_workers: 0.25,
            retry: RetryPolicy {
                max_failures: 3,
                max_deaths_alone: 2,
                base: TimeDelta::seconds(1),
                max: TimeDelta::minutes(5),
            },
            photo_attempts: MAX_ATTEMPTS,
            photo_backoff: BACKOFF,
            webhook: WebhookPolicy {
                tries: 12,
                base: TimeDelta::seconds(5),
                max: TimeDelta::hours(1),
            },
        }
    }
}

impl Policy {
    /// Estimated seconds of work that may wait unclaimed in a pool of `live` workers. What they have claimed does not count:
    /// they claim no more than they can hold. A new tenant's first render waits behind what is unclaimed, so that is little.
    pub fn ahead(&self, live: i64, window: &Window) -> f32 {
        let live = live.max(0) as f32;
        let at_work = (window.dispatched + window.running).max(1) as f32;
        // Of short renders many are claimed in one round of admission.
        let render = (window.seconds / at_work).max(1.0);
        if live > 0.0 {
            self.ahead_seconds.max(live * self.ahead_workers * render)
        } else {
            0.0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_for_a_webhook_double_until_it_is_given_up() {
        let policy = Policy::default().webhook;
        assert_eq!(policy.wait(1), Some(TimeDelta::seconds(5)));
        assert_eq!(policy.wait(2), Some(TimeDelta::seconds(10)));
        assert_eq!(policy.wait(11), Some(TimeDelta::hours(1)));
        assert_eq!(policy.wait(12), None);
    }

    #[test]
    fn a_pool_without_workers_gets_nothing() {
        let policy = Policy::default();
        assert!(policy.ahead(0, &Window::default()) <= 0.0);
        assert!(policy.ahead(1, &Window::default()) > 0.0);
    }

    #[test]
    fn a_render_waits_for_every_fourth_worker() {
        let window = Window {
            running: 400,
            seconds: 2000.0,
            ..Window::default()
        };
        let ahead = Policy::default().ahead(400, &window);
        assert!((ahead - 500.0).abs() < 1.0, "{ahead}");
    }
}
