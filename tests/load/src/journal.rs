//! What the simulated workers did, and when.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use likeness_domain::RenderId;
use tokio::sync::Notify;

/// One render's way through a worker.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The claim was granted.
    pub granted: Instant,
    /// The model was free again.
    pub painted: Option<Instant>,
    /// The report was answered.
    pub finished: Option<Instant>,
}

/// All workers' entries.
#[derive(Clone, Default)]
pub struct Journal(Arc<Inner>);

#[derive(Default)]
struct Inner {
    entries: Mutex<HashMap<RenderId, Entry>>,
    written: Notify,
}

impl Journal {
    pub fn granted(&self, render: RenderId, granted: Instant) {
        let entry = Entry {
            granted,
            painted: None,
            finished: None,
        };
        self.entries().insert(render, entry);
        self.0.written.notify_waiters();
    }

    pub fn painted(&self, render: RenderId) {
        self.note(render, |entry| entry.painted = Some(Instant::now()));
    }

    pub fn finished(&self, render: RenderId) {
        self.note(render, |entry| entry.finished = Some(Instant::now()));
    }

    fn note(&self, render: RenderId, note: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.entries().get_mut(&render) {
            note(entry);
        }
        self.0.written.notify_waiters();
    }

    /// When a render was granted; waits until it is.
    pub async fn grant_of(&self, render: RenderId) -> Instant {
        self.until(|entries| entries.get(&render).map(|entry| entry.granted))
            .await
    }

    /// Waits until so many renders have been finished.
    pub async fn finishes(&self, count: usize) {
        self.until(|entries| {
            let finished = entries.values().filter(|entry| entry.finished.is_some());
            (finished.count() >= count).then_some(())
        })
        .await;
    }

    async fn until<T>(&self, look: impl Fn(&HashMap<RenderId, Entry>) -> Option<T>) -> T {
        loop {
            let written = self.0.written.notified();
            tokio::pin!(written);
            // Registered before the look, so that nothing written after it is missed.
            written.as_mut().enable();
            if let Some(found) = look(&self.entries()) {
                return found;
            }
            written.await;
        }
    }

    /// The models' time within a span, of all workers together.
    pub fn busy(&self, from: Instant, until: Instant) -> Duration {
        let entries = self.entries();
        let spans = entries.values().map(|entry| {
            let (begun, ended) = (entry.granted, entry.painted.unwrap_or(until));
            ended.min(until).saturating_duration_since(begun.max(from))
        });
        spans.sum()
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<RenderId, Entry>> {
        let entries = self.0.entries.lock();
        entries.unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_part_within_the_span_counts() {
        let (journal, begun) = (Journal::default(), Instant::now());
        let second = Duration::from_secs(1);
        let render = uuid::Uuid::from_u128(1).into();
        journal.granted(render, begun);
        // Still at it.
        assert_eq!(journal.busy(begun + second, begun + 3 * second), 2 * second);
        journal.entries().get_mut(&render).unwrap().painted = Some(begun + 2 * second);
        assert_eq!(journal.busy(begun + second, begun + 3 * second), second);
        assert_eq!(
            journal.busy(begun + 2 * second, begun + 3 * second),
            Duration::ZERO
        );
    }
}
