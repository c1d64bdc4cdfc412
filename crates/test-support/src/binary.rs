//! The `likeness` program, for tests that run and kill real processes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};

use crate::env;

/// The `likeness` program of this build. Unless the test run has named one, cargo brings it up to
/// date first, once per test process: a program older than the tests would prove nothing.
///
/// # Panics
/// When it cannot be built.
#[allow(
    clippy::expect_used,
    reason = "only tests call it, and they cannot go on"
)]
pub fn likeness_binary() -> PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY
        .get_or_init(|| {
            env::binary().unwrap_or_else(|| build().expect("the likeness program must build"))
        })
        .clone()
}

fn build() -> Result<PathBuf> {
    let profile = profile_dir()?;
    let mut cargo = Command::new("cargo");
    cargo
        .args([
            "build",
            "--quiet",
            "--package",
            "likeness-cli",
            "--bin",
            "likeness",
        ])
        .arg("--target-dir")
        .arg(profile.parent().context("no target folder")?)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."));
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    if !cargo.status().context("cannot run cargo")?.success() {
        bail!("cargo build failed");
    }
    Ok(profile.join("likeness"))
}

/// The folder of this build's programs: `target/debug` or `target/release`.
pub(crate) fn profile_dir() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let folder = program.parent().context("a program is in a folder")?;
    let nested = ["deps", "examples"]
        .iter()
        .any(|name| folder.ends_with(name));
    let profile = if nested {
        folder.parent()
    } else {
        Some(folder)
    };
    Ok(profile.context("no build folder")?.to_path_buf())
}
