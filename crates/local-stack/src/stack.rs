//! The three servers of one folder.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow};

use crate::nats::Nats;
use crate::postgres::{self, Fsync, Postgres};
use crate::s3::{Credentials, S3};
use crate::tools::Tools;

/// Running Postgres, NATS and S3; dropping it ends them.
#[derive(Debug)]
pub struct Stack {
    /// Postgres.
    pub postgres: Postgres,
    /// nats-server with JetStream.
    pub nats: Nats,
    /// The S3 server, in this process.
    pub s3: S3,
}

impl Stack {
    /// Starts all three at once, with their data in `dir/postgres`, `dir/nats` and `dir/s3`. What
    /// an earlier run left there is recovered.
    ///
    /// # Errors
    /// When one of them does not start; the others are ended again.
    pub fn start(dir: &Path, tools: &Tools, fsync: Fsync) -> Result<Self> {
        let (postgres, nats, s3) = std::thread::scope(|scope| {
            let postgres =
                scope.spawn(|| Postgres::start(&dir.join("postgres"), &tools.postgres, fsync));
            let nats = scope.spawn(|| Nats::start(&dir.join("nats"), &tools.nats));
            let s3 = Credentials::random().and_then(|own| S3::start(&dir.join("s3"), own));
            (postgres.join(), nats.join(), s3)
        });
        Ok(Self {
            postgres: postgres.map_err(|_| anyhow!("starting Postgres panicked"))??,
            nats: nats.map_err(|_| anyhow!("starting nats-server panicked"))??,
            s3: s3?,
        })
    }

    /// Removes what a stack that no longer runs left of `dir`.
    ///
    /// # Errors
    /// When a folder cannot be removed.
    pub fn wipe(dir: &Path) -> Result<()> {
        postgres::wipe(&dir.join("postgres"))?;
        for part in ["nats", "s3"].map(|part| dir.join(part)) {
            if part.exists() {
                fs::remove_dir_all(&part)
                    .with_context(|| format!("cannot remove {}", part.display()))?;
            }
        }
        Ok(())
    }
}
