//! The gRPC front as a program of its own.

use clap::Parser;
use likeness_api::{ApiArgs, Server};
use likeness_runtime::RuntimeArgs;

/// Likeness: the gRPC front.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    runtime: RuntimeArgs,
    #[command(flatten)]
    api: ApiArgs,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    likeness_runtime::main(&args.runtime, |lifecycle| async move {
        Server::from_args(args.api).await?.spawn(&lifecycle);
        Ok(())
    })
}
