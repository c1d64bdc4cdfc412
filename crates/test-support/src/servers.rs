//! The servers that all tests of a process share.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow};
use likeness_local_stack::slots::{Slot, claim_slot};
use likeness_local_stack::tools::Tools;
use likeness_local_stack::{Fsync, Stack};

use crate::binary::profile_dir;
use crate::database;
use crate::env;
use crate::objects::S3Access;

/// Running Postgres, NATS and S3.
#[derive(Debug)]
pub struct Servers {
    postgres_url: String,
    nats_url: String,
    s3: S3Access,
    own: Option<(Stack, Slot)>,
}

impl Servers {
    /// The servers that the environment names (see [`mod@env`]), else ones that this process starts
    /// on the first call. The kernel ends those with the process. Blocks; from async code call
    /// [`crate::TestContext::new`].
    ///
    /// # Errors
    /// When they do not start; every later call fails alike.
    pub fn shared() -> Result<&'static Self> {
        static SHARED: OnceLock<Result<Servers>> = OnceLock::new();
        SHARED
            .get_or_init(|| match env::running() {
                Some(running) => Ok(Self::of(running)),
                None => Self::start(),
            })
            .as_ref()
            .map_err(|error| anyhow!("{error:#}"))
    }

    /// Starts servers of this value's own, for a test that kills or restarts them. Blocks.
    ///
    /// # Errors
    /// When they do not start.
    pub fn start() -> Result<Self> {
        Self::start_with(Fsync::Off)
    }

    /// The same, with commits that wait for the disk, for measuring. Blocks.
    ///
    /// # Errors
    /// When they do not start.
    pub fn start_durable() -> Result<Self> {
        Self::start_with(Fsync::On)
    }

    fn start_with(fsync: Fsync) -> Result<Self> {
        let target = target_dir()?;
        let slot = claim_slot(&target.join("test-servers"))?;
        let tools = Tools::find_or_fetch(&target.join("tools"))?;
        let stack = reuse(slot.dir(), &tools, fsync).or_else(|_| {
            Stack::wipe(slot.dir())?;
            Stack::start(slot.dir(), &tools, fsync)
        })?;
        Ok(Self {
            postgres_url: stack.postgres.url(),
            nats_url: stack.nats.url(),
            s3: S3Access {
                endpoint: stack.s3.endpoint(),
                access_key: stack.s3.credentials().access_key.clone(),
                secret_key: stack.s3.credentials().secret_key.clone(),
            },
            own: Some((stack, slot)),
        })
    }

    fn of(running: env::Running) -> Self {
        Self {
            postgres_url: running.postgres_url,
            nats_url: running.nats_url,
            s3: running.s3,
            own: None,
        }
    }

    /// URL of a database from which others are created; a test's own is
    /// [`crate::TestContext::database_url`].
    pub fn postgres_url(&self) -> &str {
        &self.postgres_url
    }

    /// URL of the nats-server.
    pub fn nats_url(&self) -> &str {
        &self.nats_url
    }

    /// How to reach the S3 server.
    pub fn s3(&self) -> &S3Access {
        &self.s3
    }

    /// The processes, to kill and restart; `None` where the environment named the servers.
    pub fn stack(&self) -> Option<&Stack> {
        self.own.as_ref().map(|(stack, _)| stack)
    }

    /// The environment that gives another process these servers.
    pub fn environment(&self) -> [(&'static str, &str); 5] {
        [
            (env::POSTGRES_URL, &self.postgres_url),
            (env::NATS_URL, &self.nats_url),
            (env::S3_ENDPOINT, &self.s3.endpoint),
            (env::S3_ACCESS_KEY, &self.s3.access_key),
            (env::S3_SECRET_KEY, &self.s3.secret_key),
        ]
    }
}

/// Starts on what an earlier process left (statics are never dropped), which saves initdb, and
/// removes everything in it.
fn reuse(dir: &Path, tools: &Tools, fsync: Fsync) -> Result<Stack> {
    for part in ["nats", "s3"].map(|part| dir.join(part)) {
        let _ = std::fs::remove_dir_all(part);
    }
    let stack = Stack::start(dir, tools, fsync)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(database::remove_leftovers(&stack.postgres.url()))?;
    Ok(stack)
}

fn target_dir() -> Result<PathBuf> {
    let profile = profile_dir()?;
    Ok(profile.parent().context("no target folder")?.to_path_buf())
}
