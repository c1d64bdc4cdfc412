//! `cargo xtask test`: all tests, on one set of servers.

use std::ffi::OsString;

use anyhow::Result;

use crate::workspace::Workspace;
use crate::{python, run};

pub fn test(workspace: &Workspace, args: &[OsString]) -> Result<()> {
    workspace.tools()?;
    let python = python::environment(workspace);
    let [likeness, stack] = workspace.build(["likeness", "stack"])?;
    let mut tests = workspace.command("cargo");
    tests
        .args(["test", "--workspace", "--no-run"])
        .args(build_args(args));
    run::checked(tests)?;
    let mut tests = workspace.command(&stack.to_string_lossy());
    tests
        .args(["cargo", "test", "--workspace"])
        .args(args)
        .env("LIKENESS_TEST_BINARY", likeness);
    if let Some(python) = python {
        tests.env("LIKENESS_TEST_PYTHON", python);
    }
    run::checked(tests)
}

/// The arguments that say what to build, without those for the test programs.
fn build_args(args: &[OsString]) -> impl Iterator<Item = &OsString> {
    args.iter().take_while(|arg| *arg != "--")
}
