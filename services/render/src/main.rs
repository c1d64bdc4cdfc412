//! The render worker as a program of its own.

use clap::Parser;
use likeness_render::{Render, RenderArgs};
use likeness_runtime::RuntimeArgs;

/// Likeness: the render worker.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    runtime: RuntimeArgs,
    #[command(flatten)]
    render: RenderArgs,
}

fn main() -> anyhow::Result<()> {
    likeness_runtime::keep_large_buffers();
    let args = Args::parse();
    likeness_runtime::main(&args.runtime, |lifecycle| async move {
        Render::from_args(args.render).await?.spawn(&lifecycle);
        Ok(())
    })
}
