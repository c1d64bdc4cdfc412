//! What every process of Likeness shares: telemetry, one lifecycle for all its tasks, and a `main` that is
//! configuration → build → spawn → drain.

use std::{future::Future, time::Duration};

use anyhow::Context as _;
use clap::Args;

pub mod lifecycle;
pub mod memory;
pub mod telemetry;

pub use lifecycle::Lifecycle;
pub use memory::keep_large_buffers;
pub use telemetry::{LogFormat, TelemetryArgs};

/// How long the runtime waits for blocking threads once every task has ended or was given up.
const BLOCKING_LIMIT: Duration = Duration::from_secs(2);

/// What every service takes on its command line.
#[derive(Args, Clone, Debug)]
pub struct RuntimeArgs {
    /// What is logged, and how.
    #[command(flatten)]
    pub telemetry: TelemetryArgs,
    /// Seconds that running work gets to end after the first SIGINT or SIGTERM.
    #[arg(
        long,
        env = "LIKENESS_DRAIN_SECONDS",
        default_value_t = 30,
        value_name = "SECONDS"
    )]
    pub drain_seconds: u32,
}

impl RuntimeArgs {
    /// How long running work gets to end.
    pub fn drain_limit(&self) -> Duration {
        Duration::from_secs(self.drain_seconds.into())
    }
}

/// A service's `main`: starts telemetry and the async runtime, lets `build` connect and spawn its tasks on the
/// lifecycle, then waits until a signal or a failure ends them. Call it once in a process; several services may
/// be built on the one lifecycle.
///
/// # Errors
/// What `build` or the first failed task returned, or the names of tasks that did not end in time.
pub fn main<F, Fut>(args: &RuntimeArgs, build: F) -> anyhow::Result<()>
where
    F: FnOnce(Lifecycle) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    telemetry::init(&args.telemetry)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    let result = runtime.block_on(build_and_run(args.drain_limit(), build));
    runtime.shutdown_timeout(BLOCKING_LIMIT);
    result
}

async fn build_and_run<F, Fut>(drain_limit: Duration, build: F) -> anyhow::Result<()>
where
    F: FnOnce(Lifecycle) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    let lifecycle = Lifecycle::new();
    lifecycle.on_signals()?;
    let build = build(lifecycle.clone());
    // A signal ends a build that still waits for a server.
    let built = tokio::select! {
        built = build => built,
        () = lifecycle.soft().cancelled() => Ok(()),
    };
    if let Err(error) = built {
        lifecycle.fail(error);
    }
    lifecycle.run(drain_limit).await
}
