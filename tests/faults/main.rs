//! Real processes under a seeded schedule of faults, and a check of everything that they did.
//!
//! Without arguments: a small run, and one for each broken rule, which the check must find. `run --seed N --renders N` is
//! one run. The processes of a run are this program again.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::large_enum_variant,
    reason = "a test program says how it went"
)]

mod broken;
mod checker;
mod client;
mod fleet;
mod photos;
mod proxy;
mod run;
mod schedule;
mod services;
mod suite;
mod takeover;

use std::{process::ExitCode, time::Duration};

use clap::{Args, Parser};

use crate::{broken::Rule, fleet::Setup, run::Plan, schedule::Mix, services::Service};

/// Real processes under faults.
#[derive(Parser)]
enum Command {
    /// Run one seed after the other and print a line for each
    Run(RunArgs),
    /// Kill and stop the leading dispatcher of two, and print how long the other took
    Takeover {
        /// How often, each way
        #[arg(long, default_value_t = 5)]
        times: usize,
    },
    #[command(flatten)]
    Service(Service),
}

#[derive(Args)]
struct RunArgs {
    /// What decides the faults
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds, from this one on
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// How many renders are submitted
    #[arg(long, default_value_t = 10_000)]
    renders: usize,
    /// How many photos are uploaded beside them
    #[arg(long, default_value_t = 300)]
    photos: usize,
    /// Break a rule: the check must find it
    #[arg(long = "break")]
    rule: Option<Rule>,
    /// Seconds until what nobody claimed is published again, if not the dispatcher's own
    #[arg(long)]
    unclaimed: Option<u32>,
    /// Seconds over which the renders are submitted, at least
    #[arg(long, default_value_t = 0)]
    lasting: u32,
    /// Seconds that everything gets to end after the last fault
    #[arg(long, default_value_t = 120)]
    patience: u32,
    /// Print every fault as it comes
    #[arg(long)]
    verbose: bool,
    /// Keep the processes' logs
    #[arg(long)]
    keep_logs: bool,
}

const COMMANDS: [&str; 6] = ["run", "takeover", "api", "dispatch", "enroll", "worker"];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let named = args.get(1).map_or("", String::as_str);
    let done = if COMMANDS.contains(&named) {
        match Command::parse() {
            Command::Run(args) => runs(&args),
            Command::Takeover { times } => takeover::print(times),
            Command::Service(service) => service.main(),
        }
    } else {
        suite::suite(&args[1..])
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("faults: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn runs(args: &RunArgs) -> anyhow::Result<()> {
    if args.verbose {
        likeness_runtime::telemetry::init(&likeness_runtime::TelemetryArgs {
            log_format: likeness_runtime::LogFormat::Text,
            log: "off,faults=info".to_owned(),
        })?;
    }
    let mut kept = true;
    for seed in args.seed..args.seed + args.seeds {
        let plan = Plan {
            seed,
            renders: args.renders,
            setup: Setup {
                rule: args.rule,
                unclaimed: args.unclaimed,
            },
            photos: if args.rule.is_none() { args.photos } else { 0 },
            faults: args.rule.map_or(Mix::ALL, Rule::provocation),
            lasting: Duration::from_secs(args.lasting.into()),
            patience: Duration::from_secs(args.patience.into()),
        };
        let report = block_on(run::run(plan))?;
        println!("{report}");
        for finding in report.findings.iter().take(20) {
            println!("  {finding}");
        }
        if args.verbose {
            println!(
                "  faults {:?}; failures {:?}",
                report.faults, report.reasons
            );
        }
        kept &= report.findings.is_empty();
    }
    anyhow::ensure!(kept, "a promise was broken");
    Ok(())
}

fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(future)
}
