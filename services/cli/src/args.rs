//! The command line.

use std::io;

use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};

use crate::{
    bench::BenchCommand,
    bundle::BundleCommand,
    client::{IdentitiesCommand, ModelsArgs, PhotosCommand, RendersCommand, SlidersCommand},
    dev::DevArgs,
    eval::EvalArgs,
    model::ModelCommand,
    operator::{KeysCommand, QueueCommand, TenantsCommand, WorkersCommand},
    services::{ApiService, DispatchService, EnrollService, MigrateArgs, RenderService},
    train::TrainCommand,
};

/// Enrol a face once, render it anywhere.
#[derive(Parser)]
#[command(
    name = "likeness",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
pub struct Cli {
    /// Tables for people, or JSON for scripts.
    #[arg(long, global = true, value_enum, default_value_t)]
    pub output: Output,
    #[command(subcommand)]
    pub command: Command,
}

/// How results are printed.
#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Tables.
    #[default]
    Human,
    /// One JSON document.
    Json,
}

/// Everything that the binary does.
#[derive(Subcommand)]
pub enum Command {
    /// Service: the gRPC front.
    Api(ApiService),
    /// Service: the enrolment worker.
    Enroll(EnrollService),
    /// Service: the dispatcher.
    Dispatch(DispatchService),
    /// Service: the render worker.
    Render(RenderService),
    /// Bring the database's schema up to this version.
    Migrate(MigrateArgs),
    /// All services in one process, with a private Postgres, NATS and S3.
    Dev(DevArgs),

    /// Client: enrolled people.
    #[command(subcommand)]
    Identities(IdentitiesCommand),
    /// Client: the photos of an identity.
    #[command(subcommand)]
    Photos(PhotosCommand),
    /// Client: requests to make pictures.
    #[command(subcommand)]
    Renders(RendersCommand),
    /// Client: directions that a render can move along.
    #[command(subcommand)]
    Sliders(SlidersCommand),
    /// Client: the models that renders may name.
    Models(ModelsArgs),

    /// Operator: photo apps.
    #[command(subcommand)]
    Tenants(TenantsCommand),
    /// Operator: API keys.
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Operator: the queue.
    #[command(subcommand)]
    Queue(QueueCommand),
    /// Operator: the workers.
    #[command(subcommand)]
    Workers(WorkersCommand),

    /// Bundles on disk.
    #[command(subcommand)]
    Bundle(BundleCommand),
    /// Models without any server: one step each, from files to files.
    #[command(subcommand)]
    Model(ModelCommand),
    /// How fast this machine does the main steps, on random weights.
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Models from a recipe.
    #[command(subcommand)]
    Train(TrainCommand),
    /// What a bundle's identities are worth, in numbers.
    Eval(Box<EvalArgs>),
    /// Print a completion script for a shell.
    Completions {
        /// Which shell.
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

/// Prints a completion script.
pub fn completions(shell: clap_complete::Shell) {
    clap_complete::generate(shell, &mut Cli::command(), "likeness", &mut io::stdout());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_service_and_a_client_command_parse() {
        assert!(Cli::try_parse_from(["likeness", "bundle", "inspect", "dir"]).is_ok());
        let list = [
            "likeness",
            "--output",
            "json",
            "renders",
            "list",
            "--api-key",
            "k",
        ];
        assert!(Cli::try_parse_from(list).is_ok());
        assert!(Cli::try_parse_from(["likeness", "nonsense"]).is_err());
    }
}
