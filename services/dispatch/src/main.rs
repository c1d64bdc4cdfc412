//! The dispatcher as a program of its own.

use clap::Parser;
use likeness_dispatch::{Dispatch, DispatchArgs};
use likeness_runtime::RuntimeArgs;

/// Likeness: the dispatcher.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    runtime: RuntimeArgs,
    #[command(flatten)]
    dispatch: DispatchArgs,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    likeness_runtime::main(&args.runtime, |lifecycle| async move {
        Dispatch::from_args(args.dispatch).await?.spawn(&lifecycle);
        Ok(())
    })
}
