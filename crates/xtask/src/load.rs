//! `cargo xtask load`: what the queue takes, how soon it hands it on, and at what cost.

use std::ffi::OsString;

use anyhow::Result;

use crate::run;
use crate::workspace::Workspace;

pub fn load(workspace: &Workspace, args: &[OsString]) -> Result<()> {
    workspace.tools()?;
    let mut load = workspace.command("cargo");
    load.args(["run", "--quiet", "--profile", "load"])
        .args(["--package", "likeness-load", "--", "run"])
        .args(args);
    run::checked(load)
}
