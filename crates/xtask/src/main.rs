//! The developers' commands: `cargo xtask demo`, `test`, `faults`, `load`, `lint`, `sqlx`, `tools`, `cuda-build`.

mod cuda;
mod demo;
mod faults;
mod lint;
mod load;
mod python;
mod run;
mod sqlx;
mod test;
mod workspace;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::PossibleValuesParser;
use clap::{Parser, Subcommand};
use likeness_local_stack::tools::Tools;

use crate::workspace::Workspace;

/// The developers' commands of Likeness.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
enum Xtask {
    /// Enrol drawn people and a photo, render them, and show it on one sheet; everything is started for it and ended after it
    Demo {
        /// Photos of one person, beside two drawn people; the fixture photo where none is given
        photos: Vec<PathBuf>,
        /// Another bundle than the pocket bundle; it needs a base resampler
        #[arg(long, value_name = "DIR")]
        bundle: Option<PathBuf>,
    },
    /// Run all tests against servers of their own
    Test {
        /// Passed on to `cargo test`, after `--`: a filter, `--package …`
        #[arg(last = true)]
        args: Vec<OsString>,
    },
    /// Run real processes under a seeded schedule of faults and check what they did; one line for each seed
    Faults {
        /// Passed on to the run: `--seed N --seeds N --renders N`, `--break RULE`, `--verbose`, `--help`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Measure the queue on real servers and simulated workers, and print one table
    Load {
        /// Passed on: `--quick`, `--json`, `--peers`, `--queued N`, `--only PART,…`, `--help`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Check formatting, clippy, dependency directions, licences, the proto files and the query cache
    Lint {
        /// The steps to run; all where none is named
        #[arg(value_parser = PossibleValuesParser::new(lint::step_names()))]
        steps: Vec<String>,
    },
    /// Renew the cache of checked queries in `.sqlx`
    Sqlx {
        /// Change nothing; fail if the cache is not up to date
        #[arg(long)]
        check: bool,
    },
    /// Find Postgres and nats-server, and fetch what is missing
    Tools(ToolsCommand),
    /// Build the release binary for NVIDIA GPUs, on a machine that needs neither GPU nor CUDA, and pack it
    CudaBuild(cuda::CudaBuildArgs),
}

#[derive(clap::Args)]
struct ToolsCommand {
    #[command(subcommand)]
    what: Option<ToolsWhat>,
}

#[derive(Subcommand)]
enum ToolsWhat {
    /// Fetch the pinned copies whatever is installed
    Fetch,
}

#[allow(
    clippy::print_stderr,
    reason = "a command's error goes to stderr, in one line"
)]
fn main() -> ExitCode {
    match dispatch(Xtask::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Xtask) -> anyhow::Result<()> {
    let workspace = Workspace::locate()?;
    match command {
        Xtask::Demo { photos, bundle } => demo::demo(&workspace, &photos, bundle.as_deref()),
        Xtask::Test { args } => test::test(&workspace, &args),
        Xtask::Faults { args } => faults::faults(&workspace, &args),
        Xtask::Load { args } => load::load(&workspace, &args),
        Xtask::Lint { steps } => lint::lint(&workspace, &steps),
        Xtask::Sqlx { check } => sqlx::sqlx(&workspace, check),
        Xtask::Tools(ToolsCommand { what: None }) => print_tools(&workspace.tools()?),
        Xtask::CudaBuild(args) => cuda::cuda_build(&workspace, &args),
        Xtask::Tools(_) => print_tools(&Tools::fetch(&workspace.tools_dir())?),
    }
}

#[allow(
    clippy::print_stdout,
    clippy::unnecessary_wraps,
    reason = "the command's result"
)]
fn print_tools(tools: &Tools) -> anyhow::Result<()> {
    let Tools { postgres, nats } = tools;
    println!("Postgres {}: {}", postgres.version, postgres.bin.display());
    println!("nats-server {}: {}", nats.version, nats.program.display());
    Ok(())
}
