//! What the queue takes, how soon it hands it on, and at what cost: real servers and processes, simulated workers.
//!
//! `run` measures and prints one table; `api` and `dispatch` are the processes of a run, which are this program again.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::large_enum_variant,
    reason = "a program that measures says what it found"
)]

mod client;
mod journal;
mod measure;
mod peers;
mod plan;
mod process;
mod report;
mod services;
mod stage;
mod stats;
mod worker;

use std::{process::ExitCode, sync::Arc};

use anyhow::Result;
use clap::Parser;
use likeness_test_support::Servers;

use crate::{
    plan::{Plan, RunArgs},
    report::Report,
    services::Service,
};

/// Measures the queue.
#[derive(Parser)]
#[command(name = "load")]
enum Command {
    /// Measure, and print one table
    Run(RunArgs),
    #[command(flatten)]
    Service(Service),
}

fn main() -> ExitCode {
    let done = match Command::parse() {
        Command::Run(args) => run(&args),
        Command::Service(service) => service.main(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &RunArgs) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let report = runtime.block_on(measured(args))?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{report}");
    }
    Ok(())
}

async fn measured(args: &RunArgs) -> Result<Report> {
    let plan = Plan::of(args);
    let servers = Arc::new(tokio::task::block_in_place(Servers::start_durable)?);
    let mut report = Report::begin(&plan);
    for part in args.parts() {
        eprintln!("load: {}", part.name());
        // One that fails is told, and the others are measured all the same.
        if let Err(error) = part.measure(&plan, &servers, &mut report).await {
            report.failed(part.name(), &error);
        }
    }
    if args.peers {
        eprintln!("load: peers");
        peers::measure(&plan, &servers, &mut report).await;
    }
    report.end();
    Ok(report)
}
