//! Other queues on the same machine in the same run: graphile-worker on the same Postgres, BullMQ on a Redis that syncs
//! each write.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use likeness_local_stack::process::{Signal, spawn_bound, wait_until};
use likeness_test_support::{Servers, TestContext};
use serde::Deserialize;

use crate::{plan::Plan, report::Report};

/// The scripts, and what they need of npm.
const FILES: [(&str, &str); 3] = [
    ("package.json", include_str!("../peers/package.json")),
    ("graphile.mjs", include_str!("../peers/graphile.mjs")),
    ("bullmq.mjs", include_str!("../peers/bullmq.mjs")),
];

/// What a script prints.
#[derive(Deserialize)]
struct Figures {
    /// From asking for a job to its beginning in an idle system, in milliseconds.
    p50: f64,
    p99: f64,
    /// Jobs that do nothing, a second.
    drained: f64,
}

/// Notes what each peer takes; one that cannot be had is skipped with a line that says why.
pub async fn measure(plan: &Plan, servers: &Arc<Servers>, report: &mut Report) {
    let found = match install() {
        Ok(dir) => dir,
        Err(error) => return report.note(format!("peers: skipped: {error:#}")),
    };
    match graphile(&found, plan, servers).await {
        Ok(figures) => tell(report, "graphile-worker", &figures),
        Err(error) => report.note(format!("graphile-worker: skipped: {error:#}")),
    }
    match bullmq(&found, plan) {
        Ok(figures) => tell(report, "BullMQ", &figures),
        Err(error) => report.note(format!("BullMQ: skipped: {error:#}")),
    }
}

fn tell(report: &mut Report, peer: &'static str, figures: &Figures) {
    report.row(peer, "enqueue → start, p50", figures.p50, "ms", None);
    report.row(peer, "enqueue → start, p99", figures.p99, "ms", None);
    report.row(peer, "jobs that do nothing", figures.drained, "1/s", None);
    let own = |what: &str| {
        let row = report
            .rows
            .iter()
            .find(|row| row.part == "idle" && row.what.starts_with(what));
        row.map(|row| row.value)
    };
    let ratios = [
        ("p50", own("submit → claim, p50"), figures.p50),
        ("p99", own("submit → claim, p99"), figures.p99),
    ];
    for (name, own, theirs) in ratios {
        if let Some(own) = own {
            let what = format!("our submit → claim to its start, {name}");
            report.row(peer, what, own / theirs, "×", None);
        }
    }
}

/// Brings the packages into the target folder, once.
fn install() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let target = program.parent().and_then(Path::parent);
    let dir = target.context("no target folder")?.join("tools/peers");
    std::fs::create_dir_all(&dir)?;
    for (name, text) in FILES {
        std::fs::write(dir.join(name), text)?;
    }
    if !dir.join("node_modules/bullmq").exists()
        || !dir.join("node_modules/ioredis").exists()
        || !dir.join("node_modules/graphile-worker").exists()
    {
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-audit", "--no-fund", "--silent"])
            .current_dir(&dir);
        let installed = npm
            .stdout(Stdio::null())
            .status()
            .context("npm is not installed")?;
        if !installed.success() {
            bail!("npm install failed ({installed})");
        }
    }
    Ok(dir)
}

async fn graphile(dir: &Path, plan: &Plan, servers: &Arc<Servers>) -> Result<Figures> {
    let context = TestContext::on(servers.clone()).await?;
    // Node's client takes `prefer` for a demand; the server speaks no TLS.
    let url = context
        .database_url()
        .replace("sslmode=prefer", "sslmode=disable");
    script(dir, "graphile.mjs", &url, plan)
}

fn bullmq(dir: &Path, plan: &Plan) -> Result<Figures> {
    let data = tempfile::Builder::new().prefix("redis-").tempdir()?;
    let port = std::net::TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .port();
    let _redis = redis(data.path(), port)?;
    let ready = wait_until(Duration::from_secs(10), || {
        std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    if !ready {
        bail!("redis-server did not get ready");
    }
    script(
        dir,
        "bullmq.mjs",
        &format!("redis://127.0.0.1:{port}"),
        plan,
    )
}

/// A server that is ended with this value.
struct Redis(Child);

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn redis(dir: &Path, port: u16) -> Result<Redis> {
    let mut command = Command::new("redis-server");
    command
        .args([
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
        ])
        .args(["--appendonly", "yes", "--appendfsync", "always", "--dir"])
        .arg(dir)
        .stdout(Stdio::null());
    let child = spawn_bound(command, Signal::KILL);
    Ok(Redis(child.context(
        "redis-server is not installed (Debian's package redis-server has it)",
    )?))
}

fn script(dir: &Path, name: &str, url: &str, plan: &Plan) -> Result<Figures> {
    let mut node = Command::new("node");
    node.arg(name)
        .arg(url)
        .args([plan.singles.to_string(), plan.peer_jobs.to_string()])
        .current_dir(dir)
        .stderr(Stdio::inherit());
    let output = node.output().context("node is not installed")?;
    if !output.status.success() {
        bail!("{name} failed ({})", output.status);
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}
