//! Workers announce themselves.

use chrono::{DateTime, Utc};
use likeness_domain::{WorkerKind, bundle::BundleSummary};
use serde::{Deserialize, Serialize};

use crate::{codec::json_messages, names::PoolName};

/// A worker is there; sent again and again while it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// The worker's name, unique among all.
    pub worker: String,
    /// What it does.
    pub kind: WorkerKind,
    /// Its pool; render workers have one.
    pub pool: Option<PoolName>,
    /// The device in words, as `NVIDIA H100 80GB`.
    pub device: String,
    /// The class of device that a pool is of, as `h100`.
    pub device_class: String,
    /// The software's version.
    pub version: String,
    /// When the worker started.
    pub started_at: DateTime<Utc>,
    /// Whether it takes no more work.
    pub draining: bool,
    /// What it serves.
    pub bundle: Option<BundleSummary>,
}

/// The answer to a worker's hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloReply {
    /// Whether the worker should take no more work and end.
    pub drain: bool,
}

json_messages!(Hello, HelloReply);
