//! `cargo xtask demo`: the main job, from portraits and a photo to one sheet of rendered pictures.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use likeness_local_stack::process::{self, Signal, spawn_bound};
use likeness_local_stack::slots::claim_slot;

use crate::workspace::Workspace;

mod client;
mod orders;
mod people;
mod sheet;
mod stages;
mod story;

use stages::Stages;

const READY_LIMIT: Duration = Duration::from_mins(1);
const STOP: [(Signal, Duration); 1] = [(Signal::TERM, Duration::from_secs(20))];

/// Everything that runs while the demo does. Dropping it ends it.
struct Running {
    /// The `likeness` program.
    likeness: PathBuf,
    /// What `likeness dev` wrote when it was ready: `endpoint` and `operator_key`, as JSON.
    ready_file: PathBuf,
    /// The demo's own folder, for the pictures.
    dir: PathBuf,
    dev: Child,
}

impl Drop for Running {
    fn drop(&mut self) {
        process::end(&mut self.dev, &STOP);
    }
}

pub fn demo(workspace: &Workspace, photos: &[PathBuf], bundle: Option<&Path>) -> Result<()> {
    let photos = absolute(workspace, photos)?;
    // Before minutes of building.
    for photo in &photos {
        sheet::picture(photo)?;
    }
    workspace.tools()?;
    let [likeness] = workspace.build(["likeness"])?;
    let bundle = bundle.map(std::path::absolute).transpose()?;
    let mut stages = Stages::begin();
    let slot = claim_slot(&workspace.target.join("demo"))?;
    let running = start(workspace, &likeness, bundle.as_deref(), slot.dir())?;
    stages.done("servers and services start");
    story::tell(&running, photos, &mut stages)
}

/// Starts `likeness dev`, on the pocket bundle unless another is named, and waits until it has written its ready file. The kernel kills it with us, at
/// once: the next start recovers, and must not find it still draining.
fn start(
    workspace: &Workspace,
    likeness: &Path,
    bundle: Option<&Path>,
    dir: &Path,
) -> Result<Running> {
    let ready_file = dir.join("ready.json");
    let _ = fs::remove_file(&ready_file);
    let mut command = workspace.command(&likeness.to_string_lossy());
    command
        .env("LIKENESS_LOG", "warn")
        .env("LIKENESS_DRAIN_SECONDS", "3")
        .env_remove("LIKENESS_BUNDLE")
        .arg("dev")
        .arg("--dir")
        .arg(dir);
    if let Some(bundle) = bundle {
        command.arg("--bundle").arg(bundle);
    }
    command.arg("--tools-dir").arg(workspace.tools_dir());
    command.arg("--ready-file").arg(&ready_file);
    // Any free port: several demos run side by side.
    command.args(["--listen", "127.0.0.1:0"]);
    let mut running = Running {
        likeness: likeness.to_path_buf(),
        dir: dir.to_path_buf(),
        dev: spawn_bound(command, Signal::KILL)?,
        ready_file,
    };
    running.wait_ready()?;
    Ok(running)
}

impl Running {
    fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_LIMIT;
        let mut ended = None;
        process::wait_until(READY_LIMIT, || {
            ended = self.dev.try_wait().ok().flatten();
            ended.is_some() || self.ready_file.is_file()
        });
        match ended {
            Some(status) => bail!("likeness dev ended while starting ({status})"),
            None if Instant::now() >= deadline => bail!("likeness dev was not ready in time"),
            None => Ok(()),
        }
    }
}

/// The photos with their whole paths; the fixture's where none are named.
fn absolute(workspace: &Workspace, photos: &[PathBuf]) -> Result<Vec<PathBuf>> {
    if photos.is_empty() {
        return Ok(vec![workspace.root.join("tests/fixtures/astronaut.png")]);
    }
    let absolute = photos.iter().map(std::path::absolute);
    Ok(absolute.collect::<std::io::Result<_>>()?)
}
