//! The dispatcher: its configuration, its stores, its tasks.

use std::{num::NonZeroUsize, sync::Arc};

use chrono::TimeDelta;
use clap::Args;
use likeness_blob::{Blob, BlobArgs};
use likeness_domain::{Error, SharedClock, SystemClock, webhook::Reach};
use likeness_queue::{FinishReply, FinishRequest, Queue, QueueArgs, ServiceError};
use likeness_registry::{KeyRing, PgPool, Postgres, Transaction};
use likeness_runtime::Lifecycle;
use tokio::sync::Notify;

use crate::{
    answer, lead,
    policy::Policy,
    webhooks::{self, Caller},
};

/// All instances share the requests under this name.
const GROUP: &str = "dispatch";
/// Requests worked on at once for each endpoint: about as many as there are connections to Postgres.
const CONCURRENCY: NonZeroUsize = NonZeroUsize::new(16).unwrap();

/// The dispatcher's configuration.
#[derive(Args, Clone)]
pub struct DispatchArgs {
    /// Postgres: `postgres://user:password@host/database`.
    #[arg(long, env = "LIKENESS_DATABASE_URL", hide_env_values = true)]
    pub database_url: String,
    /// The most connections to Postgres.
    #[arg(
        long,
        env = "LIKENESS_DISPATCH_DATABASE_CONNECTIONS",
        default_value_t = 16
    )]
    pub database_connections: u32,
    /// The keys that coefficients are sealed with, `id:base64` each; the first one seals.
    #[arg(long, env = "LIKENESS_SEALING_KEYS", hide_env_values = true)]
    pub sealing_keys: String,
    /// Seconds that a claim holds without renewal: how long a lost worker keeps its render.
    #[arg(
        long,
        env = "LIKENESS_LEASE_SECONDS",
        default_value_t = 30,
        value_parser = clap::value_parser!(u32).range(3..=3600),
        value_name = "SECONDS"
    )]
    pub lease_seconds: u32,
    /// Let webhooks reach private addresses, also over http: only where every tenant is trusted.
    #[arg(long, env = "LIKENESS_WEBHOOK_ANY_ADDRESS")]
    pub webhook_any_address: bool,
    /// The queue.
    #[command(flatten)]
    pub queue: QueueArgs,
    /// Where images go.
    #[command(flatten)]
    pub blob: BlobArgs,
}

/// One instance of the dispatcher.
#[derive(Clone)]
pub struct Dispatch {
    /// The registry.
    pub pool: PgPool,
    /// The queue's messages.
    pub queue: Queue,
    /// Where images go.
    pub blob: Blob,
    /// The time.
    pub clock: SharedClock,
    /// Opens coefficients.
    pub keys: Arc<KeyRing>,
    /// The queue's numbers.
    pub policy: Policy,
    /// Calls webhooks.
    pub caller: Caller,
    /// This instance among the others.
    pub instance: String,
    work: Arc<Notify>,
}

impl Dispatch {
    /// Connects to everything the configuration names.
    ///
    /// # Errors
    /// What cannot be reached, or sealing keys that cannot be read.
    pub async fn from_args(args: DispatchArgs) -> anyhow::Result<Self> {
        let pool =
            likeness_registry::connect(&args.database_url, args.database_connections).await?;
        likeness_registry::check_migrated(&pool).await?;
        let queue = Queue::connect(&args.queue).await?;
        let blob = Blob::connect(&args.blob)?;
        let keys = KeyRing::parse(&args.sealing_keys)?;
        let policy = Policy {
            lease: TimeDelta::seconds(args.lease_seconds.into()),
            ..Policy::default()
        };
        let reach = if args.webhook_any_address {
            Reach::Any
        } else {
            Reach::Public
        };
        Ok(Self {
            pool,
            queue,
            blob,
            clock: Arc::new(SystemClock),
            keys: Arc::new(keys),
            policy,
            caller: Caller::new(reach)?,
            instance: uuid::Uuid::now_v7().to_string(),
            work: Arc::new(Notify::new()),
        })
    }

    /// Answers requests and, while it leads, admits; until the lifecycle's soft stop.
    pub fn spawn(self, lifecycle: &Lifecycle) {
        self.lead(lifecycle);
        webhooks::spawn(&self, lifecycle);
        self.answer(lifecycle, answer::finish);
    }

    /// Admits, settles and erases while this instance leads.
    pub fn lead(&self, lifecycle: &Lifecycle) {
        lead::spawn(self, lifecycle);
    }

    /// Answers workers' requests, reports of finished attempts by `finish`: what a test puts in its place, it can watch
    /// or break.
    pub fn answer<H, Fut>(&self, lifecycle: &Lifecycle, finish: H)
    where
        H: Fn(Dispatch, FinishRequest) -> Fut + Copy + Send + Sync + 'static,
        Fut: Future<Output = Result<FinishReply, Error>> + Send + 'static,
    {
        let subjects = self.queue.subjects();
        self.serve(lifecycle, "claims", subjects.claim(), answer::claim);
        self.serve(
            lifecycle,
            "coefficients",
            subjects.coefficients(),
            answer::coefficients,
        );
        self.serve(lifecycle, "renewals", subjects.renew(), answer::renew);
        self.serve(lifecycle, "finishes", subjects.finish(), finish);
        self.serve(lifecycle, "hellos", subjects.hello(), answer::hello);
    }

    fn serve<Req, Rep, H, Fut>(
        &self,
        lifecycle: &Lifecycle,
        name: &'static str,
        endpoint: likeness_queue::Endpoint<Req, Rep>,
        handler: H,
    ) where
        Req: likeness_queue::Message + 'static,
        Rep: likeness_queue::Message + Sync + 'static,
        H: Fn(Dispatch, Req) -> Fut + Copy + Send + Sync + 'static,
        Fut: Future<Output = Result<Rep, Error>> + Send + 'static,
    {
        let (dispatch, shutdown) = (self.clone(), lifecycle.soft().clone());
        lifecycle.spawn(name, async move {
            let queue = dispatch.queue.clone();
            let handler = move |request| {
                let answer = handler(dispatch.clone(), request);
                async move { answer.await.map_err(refuse) }
            };
            Ok(queue
                .serve(&endpoint, GROUP, CONCURRENCY, shutdown, handler)
                .await?)
        });
    }

    /// Something happened that the leader may act on.
    pub(crate) fn work(&self) -> &Notify {
        &self.work
    }

    /// Begins a transaction.
    pub(crate) async fn begin(&self) -> Result<Transaction<'static, Postgres>, Error> {
        likeness_registry::begin(&self.pool).await
    }

    /// Commits a transaction.
    pub(crate) async fn commit(&self, tx: Transaction<'static, Postgres>) -> Result<(), Error> {
        likeness_registry::commit(tx).await
    }
}

fn refuse(error: Error) -> ServiceError {
    tracing::warn!(?error, "a worker's request failed");
    error.into()
}
