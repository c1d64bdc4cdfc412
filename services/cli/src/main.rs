//! The one binary `likeness`: every service, `likeness dev`, and the commands of clients, operators and bundles.

mod args;
mod bench;
mod bundle;
mod client;
mod connect;
mod dev;
mod eval;
mod fail;
mod model;
mod operator;
mod output;
mod services;
mod train;

use std::process::ExitCode;

use clap::Parser as _;

use args::{Cli, Command};
use fail::Failure;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if computes(&cli.command) {
        likeness_runtime::keep_large_buffers();
    }
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Whether this process runs models.
fn computes(command: &Command) -> bool {
    matches!(
        command,
        Command::Enroll(_)
            | Command::Render(_)
            | Command::Dev(_)
            | Command::Model(_)
            | Command::Bench(_)
            | Command::Train(_)
            | Command::Eval(_)
    )
}

fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Command::Api(args) => services::api(args),
        Command::Enroll(args) => services::enroll(args),
        Command::Dispatch(args) => services::dispatch(args),
        Command::Render(args) => services::render(args),
        Command::Migrate(args) => services::migrate(&args),
        Command::Dev(args) => dev::dev(&args),
        Command::Bundle(command) => bundle::run(command, cli.output),
        Command::Model(command) => model::run(&command, cli.output),
        Command::Bench(command) => bench::run(&command, cli.output),
        Command::Train(command) => train::run(&command),
        Command::Eval(args) => eval::eval(&args, cli.output),
        Command::Completions { shell } => {
            args::completions(shell);
            Ok(())
        }
        Command::Identities(command) => connect::block_on(client::identities(command, cli.output)),
        Command::Photos(command) => connect::block_on(client::photos(command, cli.output)),
        Command::Renders(command) => connect::block_on(client::renders(command, cli.output)),
        Command::Sliders(command) => connect::block_on(client::sliders(command, cli.output)),
        Command::Models(args) => connect::block_on(client::models(args, cli.output)),
        Command::Tenants(command) => connect::block_on(operator::tenants(command, cli.output)),
        Command::Keys(command) => connect::block_on(operator::keys(command, cli.output)),
        Command::Queue(command) => connect::block_on(operator::queue(command, cli.output)),
        Command::Workers(command) => connect::block_on(operator::workers(command, cli.output)),
    }
}
