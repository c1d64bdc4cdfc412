//! buf's STANDARD rules on the gRPC contract.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use super::Outcome;
use crate::run;
use crate::workspace::Workspace;

const BUF: &str = "1.75.0";
const CONFIG: &str = r#"{"version":"v2","lint":{"use":["STANDARD"]}}"#;

pub fn check(workspace: &Workspace) -> Result<Outcome> {
    if !run::exists("npm") {
        return Ok(Outcome::Skipped(
            "npm, which fetches buf, is not installed".to_owned(),
        ));
    }
    let mut lint = Command::new(buf(workspace)?);
    lint.current_dir(workspace.root.join("proto"))
        .args(["lint", "--config", CONFIG]);
    run::checked(lint)?;
    Ok(Outcome::Ok(format!("buf {BUF} STANDARD")))
}

/// The program, fetched on the first call.
fn buf(workspace: &Workspace) -> Result<PathBuf> {
    let home = workspace.tools_dir().join(format!("buf-{BUF}"));
    let program = home.join("node_modules/.bin/buf");
    if !program.exists() {
        std::fs::create_dir_all(&home)?;
        let mut npm = Command::new("npm");
        npm.args([
            "install",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--silent",
        ])
        .arg(format!("@bufbuild/buf@{BUF}"))
        .arg("--prefix")
        .arg(&home);
        run::output(npm)?;
    }
    Ok(program)
}
