//! `stack [--database] COMMAND…`: runs COMMAND with Postgres, NATS and S3 that live as long as it
//! does, named by the environment of `likeness_test_support::env`. With `--database`, DATABASE_URL
//! names a database that holds the migrations.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use likeness_local_stack::process::{Signal, spawn_bound};
use likeness_test_support::{Servers, TestContext};

fn main() -> Result<ExitCode> {
    let mut args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let with_database = args.first().is_some_and(|first| first == "--database");
    if with_database {
        args.remove(0);
    }
    let [program, rest @ ..] = args.as_slice() else {
        bail!("usage: stack [--database] COMMAND…");
    };
    let mut command = Command::new(program);
    command.args(rest);
    if with_database {
        run_with_database(command)
    } else {
        let servers = Servers::start()?;
        run(command, &servers)
    }
}

fn run_with_database(mut command: Command) -> Result<ExitCode> {
    let runtime = tokio::runtime::Runtime::new()?;
    let context = runtime.block_on(TestContext::new())?;
    command.env("DATABASE_URL", context.database_url());
    run(command, Servers::shared()?)
}

fn run(mut command: Command, servers: &Servers) -> Result<ExitCode> {
    command.envs(servers.environment());
    let program = command.get_program().to_owned();
    let mut child = spawn_bound(command, Signal::TERM)
        .with_context(|| format!("cannot run {}", program.display()))?;
    let code = child.wait()?.code().unwrap_or(1);
    Ok(u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from))
}
