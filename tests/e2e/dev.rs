//! `likeness dev` ended by signals while a render runs: nothing is left behind and nothing is lost.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use likeness_test_support::likeness_binary;
use likeness_wire::v1;
use tempfile::TempDir;

use crate::{
    crashes::under_way,
    stage::{App, eventually, pocket, small, tenant_with},
};

/// A running `likeness dev`.
struct Dev {
    child: Child,
    endpoint: String,
    operator_key: String,
}

impl Dev {
    async fn start(dir: &Path) -> Result<Self> {
        let ready_file = dir.join("ready.json");
        let _ = fs::remove_file(&ready_file);
        let tools = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../tools");
        let child = Command::new(likeness_binary())
            .args(["dev", "--listen", "127.0.0.1:0", "--dir"])
            .arg(dir)
            .arg("--bundle")
            .arg(pocket())
            .arg("--tools-dir")
            .arg(tools)
            .arg("--ready-file")
            .arg(&ready_file)
            .env("LIKENESS_LOG", "warn")
            .stdin(Stdio::null())
            .spawn()?;
        let ready = eventually(async || Ok(fs::read(&ready_file).ok())).await?;
        let ready: serde_json::Value = serde_json::from_slice(&ready)?;
        let text = |field: &str| ready[field].as_str().map(str::to_owned).context("ready");
        Ok(Self {
            child,
            endpoint: text("endpoint")?,
            operator_key: text("operator_key")?,
        })
    }

    fn signal(&self, signal: libc::c_int) {
        // SAFETY: a plain system call on our own child, which has not been waited for.
        #[allow(unsafe_code)]
        let sent = unsafe { libc::kill(self.child.id().cast_signed(), signal) };
        assert_eq!(sent, 0);
    }

    /// Waits until it has ended by itself, well.
    async fn ended(mut self) -> Result<()> {
        let status = eventually(async || Ok(self.child.try_wait()?)).await?;
        ensure!(status.success(), "{status}");
        Ok(())
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Processes whose command line names this folder.
fn processes_of(dir: &Path) -> Result<Vec<String>> {
    let wanted = dir.to_string_lossy();
    let command_lines = fs::read_dir("/proc")?
        .filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    Ok(command_lines
        .filter(|line| line.contains(&*wanted))
        .collect())
}

/// A render of a few seconds that has begun.
async fn begin(dev: &Dev) -> Result<(App, v1::Render)> {
    let mut app = tenant_with(&dev.endpoint, &dev.operator_key, "photo app").await?;
    let identity = app.astronaut().await?;
    let wanted = v1::Render {
        steps: Some(100),
        width: Some(256),
        height: Some(256),
        ..small(&identity)
    };
    let render = eventually(async || Ok(app.create(wanted.clone()).await.ok())).await?;
    under_way(&mut app, &render.name).await?;
    Ok((app, render))
}

/// The same tenant's view after a new start.
async fn again(dev: &Dev, app: App) -> Result<App> {
    App::new(&dev.endpoint, app.tenant, app.key).await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_signal_ends_it_after_the_render() -> Result<()> {
    let dir = TempDir::new()?;
    let dev = Dev::start(dir.path()).await?;
    let (app, render) = begin(&dev).await?;
    dev.signal(libc::SIGINT);
    dev.ended().await?;
    assert_eq!(processes_of(dir.path())?, Vec::<String>::new());
    let dev = Dev::start(dir.path()).await?;
    let render = again(&dev, app).await?.get(&render.name).await?;
    assert_eq!(render.state(), v1::RenderState::Succeeded);
    assert_eq!((render.attempt, render.images.len()), (1, 1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_hands_the_render_back() -> Result<()> {
    let dir = TempDir::new()?;
    let dev = Dev::start(dir.path()).await?;
    let (app, render) = begin(&dev).await?;
    dev.signal(libc::SIGTERM);
    // Signals of one kind that are pending melt into one; this one is of another kind.
    dev.signal(libc::SIGINT);
    dev.ended().await?;
    assert_eq!(processes_of(dir.path())?, Vec::<String>::new());
    let dev = Dev::start(dir.path()).await?;
    let mut app = again(&dev, app).await?;
    let last = app.watch(&render.name).await?.last.unwrap();
    assert_eq!(last.state(), v1::RenderState::Succeeded, "{:?}", last.error);
    assert_eq!(last.attempt, 2, "handed back, then rendered anew");
    Ok(())
}
