//! How much is measured.

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;

/// What `run` takes.
#[derive(Args)]
pub struct RunArgs {
    /// Little of everything, in less than a minute: to see that it works, not to know figures
    #[arg(long)]
    pub quick: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Beside graphile-worker and BullMQ, on the same machine in the same run
    #[arg(long)]
    pub peers: bool,
    /// Renders that wait while workers are kept busy, and the most over which the cost of admission is compared
    #[arg(long)]
    pub queued: Option<i64>,
    /// Simulated workers
    #[arg(long)]
    pub workers: Option<usize>,
    /// Tenants over which the cost of admission is compared
    #[arg(long)]
    pub tenants: Option<i32>,
    /// Seconds that workers are watched
    #[arg(long)]
    pub seconds: Option<u64>,
    /// Measure these only
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<Part>,
}

impl RunArgs {
    /// What to measure, in order.
    pub fn parts(&self) -> Vec<Part> {
        let asked = |part: &Part| self.only.is_empty() || self.only.contains(part);
        let parts = Part::value_variants().iter().copied();
        parts.filter(asked).collect()
    }
}

/// One measurement, on an empty database of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Durable submits beside plain inserts
    Submit,
    /// Batches
    Batch,
    /// An idle system: claims, images, watchers
    Idle,
    /// Busy workers, a long queue and new tenants
    Busy,
    /// Tenants of different weights
    Fair,
    /// Admission over the length of the queue and the number of tenants
    Cost,
}

/// Sizes.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    pub quick: bool,
    /// Clients that submit at once.
    pub clients: usize,
    /// How long one turn of submitting lasts.
    pub turn: Duration,
    /// Turns of each side.
    pub turns: usize,
    /// Requests of a thousand renders.
    pub batches: usize,
    /// Renders one after the other in an idle system.
    pub singles: usize,
    /// Watchers that read nothing.
    pub slow_watchers: usize,
    pub workers: usize,
    /// What a busy worker's render takes.
    pub render: Duration,
    pub queued: i64,
    /// How long busy workers are watched, and how long before that they get to begin.
    pub busy: Duration,
    pub warm: Duration,
    /// Lengths of the queue over which the cost is compared.
    pub lengths: Vec<i64>,
    /// Numbers of tenants over which it is.
    pub tenants: Vec<i32>,
    /// Renders drained at each.
    pub drained: usize,
    /// Jobs that peers drain.
    pub peer_jobs: usize,
}

impl Plan {
    pub fn of(args: &RunArgs) -> Self {
        let mut plan = if args.quick {
            Self::quick()
        } else {
            Self::full()
        };
        if let Some(queued) = args.queued {
            plan.queued = queued;
            plan.lengths.retain(|length| *length < queued);
            let mut length = plan.lengths.last().copied().unwrap_or(100) * 10;
            while length < queued {
                plan.lengths.push(length);
                length *= 10;
            }
            plan.lengths.push(queued);
        }
        plan.workers = args.workers.unwrap_or(plan.workers);
        if let Some(tenants) = args.tenants {
            plan.tenants = vec![1, tenants];
        }
        plan.busy = args.seconds.map_or(plan.busy, Duration::from_secs);
        plan
    }

    fn full() -> Self {
        Self {
            quick: false,
            clients: 32,
            turn: Duration::from_secs(5),
            turns: 3,
            batches: 30,
            singles: 300,
            slow_watchers: 50,
            workers: 100,
            render: Duration::from_secs(1),
            queued: 100_000,
            busy: Duration::from_secs(40),
            warm: Duration::from_secs(5),
            lengths: vec![1_000, 10_000, 100_000],
            tenants: vec![1, 2_000],
            drained: 2_000,
            peer_jobs: 20_000,
        }
    }

    fn quick() -> Self {
        Self {
            quick: true,
            turn: Duration::from_millis(700),
            turns: 1,
            batches: 3,
            singles: 30,
            slow_watchers: 5,
            workers: 10,
            render: Duration::from_millis(300),
            queued: 2_000,
            busy: Duration::from_secs(3),
            warm: Duration::from_secs(1),
            lengths: vec![500, 2_000],
            tenants: vec![1, 50],
            drained: 100,
            peer_jobs: 500,
            ..Self::full()
        }
    }
}
