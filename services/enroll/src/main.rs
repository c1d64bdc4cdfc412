//! The enrolment worker as a program of its own.

use clap::Parser;
use likeness_enroll::{Enroll, EnrollArgs};
use likeness_runtime::RuntimeArgs;

/// Likeness: the enrolment worker.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    runtime: RuntimeArgs,
    #[command(flatten)]
    enroll: EnrollArgs,
}

fn main() -> anyhow::Result<()> {
    likeness_runtime::keep_large_buffers();
    let args = Args::parse();
    likeness_runtime::main(&args.runtime, |lifecycle| async move {
        Enroll::from_args(args.enroll).await?.spawn(&lifecycle);
        Ok(())
    })
}
