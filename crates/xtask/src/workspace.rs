//! Where things are.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use likeness_local_stack::tools::Tools;
use serde_json::Value;

use crate::run;

/// The checkout and its build folder.
pub struct Workspace {
    /// The repository's root.
    pub root: PathBuf,
    /// Cargo's target folder.
    pub target: PathBuf,
}

impl Workspace {
    /// Asks cargo.
    pub fn locate() -> Result<Self> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.toml");
        let mut command = Command::new("cargo");
        command
            .args([
                "metadata",
                "--format-version=1",
                "--no-deps",
                "--manifest-path",
            ])
            .arg(manifest);
        let metadata: Value = serde_json::from_slice(&run::output(command)?)?;
        let folder = |key: &str| metadata[key].as_str().map(PathBuf::from);
        Ok(Self {
            root: folder("workspace_root").context("cargo metadata names no root")?,
            target: folder("target_directory").context("cargo metadata names no target")?,
        })
    }

    /// A command that runs in the root.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root);
        command
    }

    /// Where fetched programs go.
    pub fn tools_dir(&self) -> PathBuf {
        self.target.join("tools")
    }

    /// Postgres and nats-server, fetched where they are not installed.
    pub fn tools(&self) -> Result<Tools> {
        Tools::find_or_fetch(&self.tools_dir())
    }

    /// Builds programs and returns their files. With the whole workspace's features, so that the demo,
    /// the tests and clippy share one build of every dependency.
    pub fn build<const N: usize>(&self, programs: [&str; N]) -> Result<[PathBuf; N]> {
        let mut cargo = self.command("cargo");
        cargo.args(["build", "--workspace"]);
        for program in programs {
            cargo.args(["--bin", program]);
        }
        run::checked(cargo)?;
        Ok(programs.map(|program| self.target.join("debug").join(program)))
    }
}
