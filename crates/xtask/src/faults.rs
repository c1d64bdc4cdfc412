//! `cargo xtask faults`: one run of the processes under faults, `docs/faults.md`.

use std::ffi::OsString;

use anyhow::Result;

use crate::run;
use crate::workspace::Workspace;

pub fn faults(workspace: &Workspace, args: &[OsString]) -> Result<()> {
    workspace.tools()?;
    let mut faults = workspace.command("cargo");
    faults
        .args([
            "test",
            "--quiet",
            "--workspace",
            "--test",
            "faults",
            "--",
            "run",
        ])
        .args(args);
    run::checked(faults)
}
