//! The models that renders may name.

use clap::Args;
use likeness_wire::{json::to_json, v1};

use crate::{args::Output, connect::ClientArgs, fail::Failure, output::print};

/// Lists the models that renders may name.
#[derive(Args)]
pub struct ModelsArgs {
    #[command(flatten)]
    client: ClientArgs,
}

/// Runs the command.
pub async fn models(args: ModelsArgs, output: Output) -> Result<(), Failure> {
    let mut client = args.client.renders().await?;
    let answer = client
        .list_models(v1::ListModelsRequest {})
        .await?
        .into_inner();
    let rows = answer.models.iter().map(|model| {
        let defaults = model.defaults.unwrap_or_default();
        vec![
            model.name.clone(),
            model.bundle_display_name.clone(),
            format!("{}×{}", defaults.width, defaults.height),
            defaults.steps.to_string(),
        ]
    });
    let json = answer.models.iter().map(to_json).collect();
    print(
        output,
        &["MODEL", "BUNDLE", "SIZE", "STEPS"],
        rows.collect(),
        &json,
    )
}
