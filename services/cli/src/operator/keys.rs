//! API keys.

use clap::Subcommand;
use likeness_wire::{json::to_json, v1};
use serde_json::json;

use crate::{
    args::Output,
    connect::OperatorArgs,
    fail::Failure,
    output::{print, print_fields},
};

/// What to do with API keys.
#[derive(Subcommand)]
pub enum KeysCommand {
    /// Create a key of a tenant; its secret is shown this once.
    Create {
        #[command(flatten)]
        operator: OperatorArgs,
        /// `tenants/…`
        tenant: String,
        /// A name for people to read.
        #[arg(long, default_value = "")]
        display_name: String,
    },
    /// List a tenant's keys.
    List {
        #[command(flatten)]
        operator: OperatorArgs,
        /// `tenants/…`
        tenant: String,
    },
    /// Make a key useless at once.
    Revoke {
        #[command(flatten)]
        operator: OperatorArgs,
        /// `tenants/…/keys/…`
        name: String,
    },
}

/// Runs a command.
pub async fn keys(command: KeysCommand, output: Output) -> Result<(), Failure> {
    match command {
        KeysCommand::Create {
            operator,
            tenant,
            display_name,
        } => {
            let api_key = Some(v1::ApiKey {
                display_name,
                ..v1::ApiKey::default()
            });
            let request = v1::CreateApiKeyRequest {
                parent: tenant,
                api_key,
            };
            let answer = operator
                .admin()
                .await?
                .create_api_key(request)
                .await?
                .into_inner();
            let name = answer.api_key.unwrap_or_default().name;
            let fields = [("name", name.clone()), ("secret", answer.secret.clone())];
            print_fields(
                output,
                &fields,
                &json!({ "name": name, "secret": answer.secret }),
            )
        }
        KeysCommand::List { operator, tenant } => {
            let request = v1::ListApiKeysRequest {
                parent: tenant,
                page_size: 1000,
                ..Default::default()
            };
            let answer = operator
                .admin()
                .await?
                .list_api_keys(request)
                .await?
                .into_inner();
            let rows = answer.api_keys.iter().map(|key| {
                let state = if key.revoke_time.is_some() {
                    "REVOKED"
                } else {
                    "VALID"
                };
                vec![key.name.clone(), key.display_name.clone(), state.to_owned()]
            });
            let json = answer.api_keys.iter().map(to_json).collect();
            print(
                output,
                &["NAME", "DISPLAY NAME", "STATE"],
                rows.collect(),
                &json,
            )
        }
        KeysCommand::Revoke { operator, name } => {
            let request = v1::RevokeApiKeyRequest { name };
            operator.admin().await?.revoke_api_key(request).await?;
            Ok(())
        }
    }
}
