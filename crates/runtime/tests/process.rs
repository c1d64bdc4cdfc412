//! A whole process under signals: this test program starts itself again as a small service.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper of a test fails the test"
)]

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, ExitStatus, Stdio},
};

use anyhow::bail;
use clap::Parser;
use likeness_runtime::RuntimeArgs;

#[derive(Parser)]
struct Service {
    #[command(flatten)]
    runtime: RuntimeArgs,
}

#[allow(clippy::disallowed_methods, reason = "how a test speaks to itself")]
fn service_kind() -> Option<String> {
    std::env::var("LIKENESS_TEST_SERVICE").ok()
}

/// The service: run by the tests below alone, since it needs `LIKENESS_TEST_SERVICE`.
#[test]
#[ignore = "the other tests start it"]
fn service() -> anyhow::Result<()> {
    let Some(kind) = service_kind() else {
        return Ok(());
    };
    let args = Service::parse_from(["service", "--drain-seconds", "60", "--log", "off"]);
    likeness_runtime::main(&args.runtime, |lifecycle| async move {
        let (soft, hard) = (lifecycle.soft().clone(), lifecycle.hard().clone());
        lifecycle.spawn("task", async move {
            eprintln!("ready");
            match kind.as_str() {
                "polite" => soft.cancelled().await,
                "slow" => {
                    soft.cancelled().await;
                    eprintln!("draining");
                    hard.cancelled().await;
                }
                _ => bail!("the cause"),
            }
            Ok(())
        });
        Ok(())
    })
}

struct Running {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStderr>>,
}

impl Running {
    fn start(kind: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "service", "--ignored", "--nocapture"])
            .env("LIKENESS_TEST_SERVICE", kind)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, lines }
    }

    fn wait_for(&mut self, line: &str) {
        assert!(
            self.lines.any(|found| found.unwrap() == line),
            "no {line:?}"
        );
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args(["-s", name, &self.child.id().to_string()])
            .status();
        assert!(status.unwrap().success());
    }

    fn end(mut self) -> (ExitStatus, String) {
        let rest: Vec<String> = self.lines.map_while(Result::ok).collect();
        (self.child.wait().unwrap(), rest.join("\n"))
    }
}

#[test]
fn one_signal_drains() {
    for signal in ["INT", "TERM"] {
        let mut service = Running::start("polite");
        service.wait_for("ready");
        service.signal(signal);
        assert!(service.end().0.success(), "{signal}");
    }
}

#[test]
fn a_second_signal_gives_up() {
    let mut service = Running::start("slow");
    service.wait_for("ready");
    service.signal("TERM");
    service.wait_for("draining");
    service.signal("INT");
    assert!(service.end().0.success());
}

#[test]
fn a_failed_task_ends_the_process_with_an_error() {
    let (status, log) = Running::start("failing").end();
    assert!(!status.success());
    assert!(log.contains("the cause"), "{log}");
}
