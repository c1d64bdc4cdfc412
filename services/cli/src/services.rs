//! The services as subcommands.

use clap::Args;
use likeness_api::{ApiArgs, Server};
use likeness_dispatch::{Dispatch, DispatchArgs};
use likeness_enroll::{Enroll, EnrollArgs};
use likeness_render::{Render, RenderArgs};
use likeness_runtime::RuntimeArgs;

use crate::{connect, fail::Failure};

macro_rules! service_args {
    ($($name:ident($args:ty)),+) => {$(
        /// The service's configuration.
        #[derive(Args)]
        pub struct $name {
            #[command(flatten)]
            runtime: RuntimeArgs,
            #[command(flatten)]
            service: $args,
        }
    )+};
}

service_args!(
    ApiService(ApiArgs),
    EnrollService(EnrollArgs),
    DispatchService(DispatchArgs),
    RenderService(RenderArgs)
);

/// Serves the gRPC front.
pub fn api(args: ApiService) -> Result<(), Failure> {
    Ok(likeness_runtime::main(
        &args.runtime,
        |lifecycle| async move {
            Server::from_args(args.service).await?.spawn(&lifecycle);
            Ok(())
        },
    )?)
}

/// Enrols photos.
pub fn enroll(args: EnrollService) -> Result<(), Failure> {
    Ok(likeness_runtime::main(
        &args.runtime,
        |lifecycle| async move {
            Enroll::from_args(args.service).await?.spawn(&lifecycle);
            Ok(())
        },
    )?)
}

/// Dispatches renders.
pub fn dispatch(args: DispatchService) -> Result<(), Failure> {
    Ok(likeness_runtime::main(
        &args.runtime,
        |lifecycle| async move {
            Dispatch::from_args(args.service).await?.spawn(&lifecycle);
            Ok(())
        },
    )?)
}

/// Renders.
pub fn render(args: RenderService) -> Result<(), Failure> {
    Ok(likeness_runtime::main(
        &args.runtime,
        |lifecycle| async move {
            Render::from_args(args.service).await?.spawn(&lifecycle);
            Ok(())
        },
    )?)
}

/// Where the schema is to be brought up to date.
#[derive(Args)]
pub struct MigrateArgs {
    /// Postgres: `postgres://user:password@host/database`.
    #[arg(long, env = "LIKENESS_DATABASE_URL", hide_env_values = true)]
    database_url: String,
}

/// Brings the schema up to date.
pub fn migrate(args: &MigrateArgs) -> Result<(), Failure> {
    connect::block_on(async {
        let pool = likeness_registry::connect(&args.database_url, 1)
            .await
            .map_err(failed)?;
        likeness_registry::migrate(&pool).await.map_err(failed)
    })
}

fn failed(error: likeness_domain::Error) -> Failure {
    Failure::new(error.message)
}
