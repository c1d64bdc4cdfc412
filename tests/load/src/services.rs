//! The processes of a run: the services as their own programs start them.

use anyhow::Result;
use clap::Subcommand;
use likeness_api::{ApiArgs, Server};
use likeness_dispatch::{Dispatch, DispatchArgs};
use likeness_runtime::RuntimeArgs;

#[derive(Subcommand)]
pub enum Service {
    /// The gRPC front
    Api {
        #[command(flatten)]
        runtime: RuntimeArgs,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// The dispatcher
    Dispatch {
        #[command(flatten)]
        runtime: RuntimeArgs,
        #[command(flatten)]
        dispatch: Box<DispatchArgs>,
    },
}

impl Service {
    pub fn main(self) -> Result<()> {
        match self {
            Self::Api { runtime, api } => {
                likeness_runtime::main(&runtime, |lifecycle| async move {
                    Server::from_args(api).await?.spawn(&lifecycle);
                    Ok(())
                })
            }
            Self::Dispatch { runtime, dispatch } => {
                likeness_runtime::main(&runtime, |lifecycle| async move {
                    Dispatch::from_args(*dispatch).await?.spawn(&lifecycle);
                    Ok(())
                })
            }
        }
    }
}
