//! `cargo xtask lint`: what must hold before anything is merged.

mod dependencies;
mod licences;
mod metadata;
mod proto;
mod queries;

use anyhow::{Result, bail};

use crate::run;
use crate::workspace::Workspace;

/// What a step found: nothing wrong, or why it could not look.
pub enum Outcome {
    /// All is well; with a word about how much was looked at.
    Ok(String),
    /// Not looked at, and why.
    Skipped(String),
}

type Step = (&'static str, fn(&Workspace) -> Result<Outcome>);

const STEPS: [Step; 6] = [
    ("format", format),
    ("dependencies", dependencies::check),
    ("licences", licences::check),
    ("proto", proto::check),
    ("queries", queries::check),
    ("clippy", clippy),
];

/// The steps' names.
pub fn step_names() -> Vec<&'static str> {
    STEPS.iter().map(|(name, _)| *name).collect()
}

/// Runs the named steps, or all of them, also after one has failed, and sums up.
#[allow(clippy::print_stdout, reason = "the command's result")]
pub fn lint(workspace: &Workspace, only: &[String]) -> Result<()> {
    let mut lines = Vec::new();
    let mut failed = Vec::new();
    let asked = |name: &str| only.is_empty() || only.iter().any(|one| one == name);
    for (name, step) in STEPS.into_iter().filter(|(name, _)| asked(name)) {
        run::note(&format!("{name} …"));
        lines.push(match step(workspace) {
            Ok(Outcome::Ok(what)) => format!("ok       {name}  {what}"),
            Ok(Outcome::Skipped(why)) => format!("skipped  {name}  {why}"),
            Err(error) => {
                failed.push(name);
                format!("FAILED   {name}  {error:#}")
            }
        });
    }
    println!("{}", lines.join("\n"));
    if !failed.is_empty() {
        bail!("lint failed: {}", failed.join(", "));
    }
    Ok(())
}

fn format(workspace: &Workspace) -> Result<Outcome> {
    let mut cargo = workspace.command("cargo");
    // The files alone: `cargo fmt --all` mends them.
    cargo.args(["fmt", "--all", "--check", "--", "--files-with-diff"]);
    run::checked(cargo)?;
    Ok(Outcome::Ok("cargo fmt".to_owned()))
}

fn clippy(workspace: &Workspace) -> Result<Outcome> {
    let mut cargo = workspace.command("cargo");
    cargo.args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]);
    run::checked(cargo)?;
    Ok(Outcome::Ok("no warnings".to_owned()))
}
