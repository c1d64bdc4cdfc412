//! The connection to NATS.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use async_nats::{Client, ConnectOptions, Event, connection::State, jetstream};
use clap::Args;
use tokio::sync::watch;
use tracing::{info, warn};
use uuid::Uuid;

use crate::{error::QueueError, names::Namespace, subjects::Subjects};

/// How long JetStream's own requests may take.
const JETSTREAM_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(2);

/// Where NATS is, for clap or by [`QueueArgs::new`]. `Debug` hides the URL, which may hold a password.
#[derive(Args, Clone)]
pub struct QueueArgs {
    /// The NATS server, or several separated by commas.
    #[arg(
        long,
        env = "LIKENESS_NATS_URL",
        hide_env_values = true,
        default_value = "nats://127.0.0.1:4222",
        value_name = "URL"
    )]
    pub nats_url: String,
    /// The prefix of all subjects and streams.
    #[arg(
        long,
        env = "LIKENESS_NATS_NAMESPACE",
        default_value_t,
        value_name = "NAME"
    )]
    pub nats_namespace: Namespace,
    /// A NATS credentials file (JWT and seed).
    #[arg(long, env = "LIKENESS_NATS_CREDENTIALS", value_name = "FILE")]
    pub nats_credentials: Option<PathBuf>,
    /// How many servers of a NATS cluster keep each stream.
    #[arg(
        long,
        env = "LIKENESS_NATS_REPLICAS",
        default_value_t = 1,
        value_name = "COUNT",
        value_parser = clap::value_parser!(u8).range(1..=5)
    )]
    pub nats_replicas: u8,
    /// The prefix of this connection's reply subjects, where the server's permissions give it one of its own; by
    /// default a random one that nobody else can guess.
    #[arg(long, env = "LIKENESS_NATS_INBOX_PREFIX", value_name = "SUBJECT")]
    pub nats_inbox_prefix: Option<String>,
}

impl QueueArgs {
    /// This server and namespace, all else as by default.
    pub fn new(url: impl Into<String>, namespace: Namespace) -> Self {
        Self {
            nats_url: url.into(),
            nats_namespace: namespace,
            nats_credentials: None,
            nats_replicas: 1,
            nats_inbox_prefix: None,
        }
    }
}

impl fmt::Debug for QueueArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueArgs")
            .field("nats_namespace", &self.nats_namespace)
            .field("nats_credentials", &self.nats_credentials)
            .finish_non_exhaustive()
    }
}

/// A connection to NATS; clones share it. It reconnects for ever by itself.
#[derive(Clone)]
pub struct Queue {
    pub(crate) client: Client,
    pub(crate) jetstream: jetstream::Context,
    pub(crate) namespace: Namespace,
    pub(crate) replicas: usize,
    pub(crate) connections: watch::Receiver<u64>,
    subjects: Arc<Subjects>,
}

impl Queue {
    /// Connects.
    ///
    /// # Errors
    /// When the server cannot be reached, refuses, or is older than 2.11.
    pub async fn connect(args: &QueueArgs) -> Result<Self, QueueError> {
        let (connected, connections) = watch::channel(0);
        let client = options(args, connected)
            .await?
            .connect(args.nats_url.as_str())
            .await
            .map_err(|error| QueueError::Connect(error.into()))?;
        if !client.is_server_compatible(2, 11, 0) {
            return Err(QueueError::OldServer {
                found: client.server_info().version,
            });
        }
        let jetstream = jetstream::ContextBuilder::new()
            .timeout(JETSTREAM_TIMEOUT)
            .ack_timeout(JETSTREAM_TIMEOUT)
            .build(client.clone());
        let namespace = args.nats_namespace.clone();
        let subjects = Arc::new(Subjects::new(namespace.clone()));
        Ok(Self {
            client,
            jetstream,
            namespace,
            replicas: args.nats_replicas.into(),
            connections,
            subjects,
        })
    }

    /// The subjects of this connection's namespace.
    pub fn subjects(&self) -> &Subjects {
        &self.subjects
    }

    /// Whether the server can be reached right now.
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Waits until everything sent so far has left this process.
    ///
    /// # Errors
    /// When the connection is away.
    pub async fn flush(&self) -> Result<(), QueueError> {
        self.client
            .flush()
            .await
            .map_err(|error| QueueError::nats("flush to NATS", error))
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("namespace", &self.namespace)
            .field("connected", &self.is_connected())
            .finish_non_exhaustive()
    }
}

/// `connected` counts the connections made, so that pulls that a server forgot are made again.
async fn options(
    args: &QueueArgs,
    connected: watch::Sender<u64>,
) -> Result<ConnectOptions, QueueError> {
    let inbox = args
        .nats_inbox_prefix
        .clone()
        .unwrap_or_else(|| format!("_INBOX.{}", Uuid::now_v7().simple()));
    let connected = Arc::new(connected);
    let options = ConnectOptions::new()
        .name("likeness")
        .custom_inbox_prefix(inbox)
        .connection_timeout(CONNECT_TIMEOUT)
        .max_reconnects(None)
        .reconnect_delay_callback(reconnect_delay)
        .event_callback(move |event| {
            let connected = Arc::clone(&connected);
            async move { on_event(&event, &connected) }
        });
    match &args.nats_credentials {
        None => Ok(options),
        Some(path) => {
            options
                .credentials_file(path)
                .await
                .map_err(|error| QueueError::Credentials {
                    path: path.display().to_string(),
                    source: error.into(),
                })
        }
    }
}

fn reconnect_delay(attempts: usize) -> Duration {
    let doubled = 1_u64 << attempts.min(10);
    Duration::from_millis(25 * doubled).min(MAX_RECONNECT_DELAY)
}

fn on_event(event: &Event, connected: &watch::Sender<u64>) {
    match event {
        Event::Connected => {
            info!("connected to NATS");
            connected.send_modify(|count| *count += 1);
        }
        // Only by our own doing: connections that break are made again.
        Event::Closed => info!("closed the connection to NATS"),
        other => warn!("NATS: {other}"),
    }
}
