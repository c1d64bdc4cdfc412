//! One lifecycle for all tasks of a process: stop softly, then hard, and never go on with a task missing.

use std::{
    fmt,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::Notify,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};

/// How long tasks get to notice the hard stop before they are left behind.
const HARD_GRACE: Duration = Duration::from_secs(2);

/// A handle on the process's life; clones share it.
///
/// A task that ends with an error or panics stops the whole process: the others are asked to stop, and
/// [`Lifecycle::run`] returns that first error.
#[derive(Clone)]
pub struct Lifecycle {
    soft: CancellationToken,
    hard: CancellationToken,
    /// The whole process's soft stop, also in a child.
    root: CancellationToken,
    tracker: TaskTracker,
    shared: Arc<Mutex<Shared>>,
    /// Told whenever a task has ended.
    ended: Arc<Notify>,
}

#[derive(Default)]
struct Shared {
    running: Vec<&'static str>,
    failure: Option<anyhow::Error>,
}

impl Lifecycle {
    /// A new life without tasks.
    pub fn new() -> Self {
        let soft = CancellationToken::new();
        Self {
            root: soft.clone(),
            soft,
            hard: CancellationToken::new(),
            tracker: TaskTracker::new(),
            shared: Arc::default(),
            ended: Arc::default(),
        }
    }

    /// Cancelled when tasks must take no more work and end what they have.
    pub fn soft(&self) -> &CancellationToken {
        &self.soft
    }

    /// Cancelled when tasks must give up what they have. It always follows [`Lifecycle::soft`].
    pub fn hard(&self) -> &CancellationToken {
        &self.hard
    }

    /// A handle for a part whose stop must not stop the rest: its tokens follow this one's, not the reverse. A
    /// task that fails in it still stops the whole process.
    #[must_use]
    pub fn child(&self) -> Self {
        Self {
            soft: self.soft.child_token(),
            hard: self.hard.child_token(),
            ..self.clone()
        }
    }

    /// A handle for a part that the tasks called `clients` need until their end, in the same process: its tokens follow
    /// this one's only when none of these tasks runs any more.
    #[must_use]
    pub fn outliving(&self, clients: &'static [&'static str]) -> Self {
        let part = Self {
            soft: CancellationToken::new(),
            hard: CancellationToken::new(),
            ..self.clone()
        };
        let (lifecycle, stopped) = (self.clone(), part.clone());
        tokio::spawn(async move {
            lifecycle.soft.cancelled().await;
            lifecycle.until_ended(clients).await;
            stopped.soft.cancel();
            lifecycle.hard.cancelled().await;
            stopped.hard.cancel();
        });
        part
    }

    async fn until_ended(&self, names: &[&str]) {
        loop {
            // Made before the look, so that an end in between is not missed.
            let ended = self.ended.notified();
            if !self.running().iter().any(|task| names.contains(task)) {
                return;
            }
            ended.await;
        }
    }

    /// Asks every task to stop softly.
    pub fn stop(&self) {
        self.soft.cancel();
    }

    /// Runs a task. It should end soon after [`Lifecycle::soft`] and at once after [`Lifecycle::hard`].
    pub fn spawn<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let lifecycle = self.clone();
        lifecycle.shared().running.push(name);
        // Spawned by itself, so that a panic ends in a JoinError here.
        let task = tokio::spawn(task);
        self.tracker.spawn(async move {
            let result = match task.await {
                Ok(result) => result.with_context(|| format!("the task {name} failed")),
                Err(_) => Err(anyhow!("the task {name} panicked")),
            };
            lifecycle.ended(name);
            if let Err(error) = result {
                lifecycle.fail(error);
            }
        });
    }

    /// Stops the process with an error. The first one is what [`Lifecycle::run`] returns; later ones are logged.
    pub fn fail(&self, failure: anyhow::Error) {
        error!("stopping: {failure:#}");
        self.shared().failure.get_or_insert(failure);
        self.root.cancel();
    }

    /// Stops softly at the first SIGINT or SIGTERM and hard at the second.
    ///
    /// # Errors
    /// When the process cannot listen to signals.
    pub fn on_signals(&self) -> anyhow::Result<()> {
        let mut signals = Signals::listen()?;
        let lifecycle = self.clone();
        tokio::spawn(async move {
            let name = signals.next().await;
            info!("{name}: ending what runs; once more to give it up");
            lifecycle.soft.cancel();
            let name = signals.next().await;
            warn!("{name}: giving up what runs");
            lifecycle.hard.cancel();
        });
        Ok(())
    }

    /// Waits for the soft stop, or for all tasks to end by themselves; then for tasks to end, up to
    /// `drain_limit`; then stops them hard.
    ///
    /// # Errors
    /// The first task's failure, or the names of tasks that did not even end after the hard stop.
    pub async fn run(self, drain_limit: Duration) -> anyhow::Result<()> {
        self.tracker.close();
        tokio::select! {
            () = self.soft.cancelled() => {}
            () = self.hard.cancelled() => {}
            () = self.tracker.wait() => {}
        }
        self.soft.cancel();
        let drained = self.drain(drain_limit).await;
        match self.shared().failure.take() {
            Some(failure) => Err(failure),
            None => drained,
        }
    }

    async fn drain(&self, limit: Duration) -> anyhow::Result<()> {
        tokio::select! {
            () = self.tracker.wait() => return Ok(()),
            () = self.hard.cancelled() => {}
            () = tokio::time::sleep(limit) => {
                warn!("not drained in {limit:?}: giving up {:?}", self.running());
            }
        }
        self.hard.cancel();
        let ended = tokio::time::timeout(HARD_GRACE, self.tracker.wait()).await;
        ended.map_err(|_| anyhow!("these tasks did not end: {}", self.running().join(", ")))
    }

    /// The names of tasks that have not ended.
    pub fn running(&self) -> Vec<&'static str> {
        self.shared().running.clone()
    }

    fn ended(&self, name: &'static str) {
        let running = &mut self.shared().running;
        if let Some(at) = running.iter().position(|other| *other == name) {
            running.swap_remove(at);
        }
        self.ended.notify_waiters();
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Lifecycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lifecycle")
            .field("soft", &self.soft.is_cancelled())
            .field("hard", &self.hard.is_cancelled())
            .field("running", &self.running())
            .finish_non_exhaustive()
    }
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen to signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}
