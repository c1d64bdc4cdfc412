//! Enrolled people.

use clap::Subcommand;
use futures::StreamExt as _;
use likeness_wire::{json::to_json, v1};

use super::{label, present};
use crate::{
    args::Output,
    connect::ClientArgs,
    fail::Failure,
    output::{print, print_fields, print_json, short},
};

/// What to do with identities.
#[derive(Subcommand)]
pub enum IdentitiesCommand {
    /// Create an identity; add photos to it next.
    Create {
        #[command(flatten)]
        client: ClientArgs,
        /// A name for people to read.
        display_name: String,
        /// Your reference to the person's agreement; renders need it.
        #[arg(long, value_name = "REFERENCE")]
        consent: Option<String>,
        /// Your own id of the person.
        #[arg(long, default_value = "", hide_default_value = true)]
        external_id: String,
        /// Your own labels.
        #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
        labels: Vec<(String, String)>,
    },
    /// List identities.
    List {
        #[command(flatten)]
        client: ClientArgs,
        /// Only the one with this external id.
        #[arg(long, default_value = "", hide_default_value = true)]
        external_id: String,
        /// Only those that carry all these labels.
        #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
        labels: Vec<(String, String)>,
    },
    /// Show an identity.
    Get {
        #[command(flatten)]
        client: ClientArgs,
        /// `tenants/…/identities/…`
        name: String,
    },
    /// Wait until an identity is READY, or no photo is left that could make it so.
    Wait {
        #[command(flatten)]
        client: ClientArgs,
        /// `tenants/…/identities/…`
        name: String,
    },
    /// Record that the person has withdrawn the agreement: renders are refused from now on.
    RevokeConsent {
        #[command(flatten)]
        client: ClientArgs,
        /// `tenants/…/identities/…`
        name: String,
    },
    /// Delete an identity with its photos and coefficients.
    Delete {
        #[command(flatten)]
        client: ClientArgs,
        /// `tenants/…/identities/…`
        name: String,
    },
    /// Write an identity's LoRA as a file.
    ExportLora {
        #[command(flatten)]
        client: ClientArgs,
        /// `tenants/…/identities/…`
        name: String,
    },
}

/// Runs a command.
pub async fn identities(command: IdentitiesCommand, output: Output) -> Result<(), Failure> {
    match command {
        IdentitiesCommand::Create {
            client,
            display_name,
            consent,
            external_id,
            labels,
        } => {
            let identity = v1::Identity {
                display_name,
                external_id,
                labels: labels.into_iter().collect(),
                consent: consent.map(|reference| v1::Consent {
                    reference,
                    ..v1::Consent::default()
                }),
                ..v1::Identity::default()
            };
            let request = v1::CreateIdentityRequest {
                identity: Some(identity),
                ..Default::default()
            };
            let answer = client
                .identities()
                .await?
                .create_identity(request)
                .await?
                .into_inner();
            show(&present(answer.identity)?, output)
        }
        IdentitiesCommand::List {
            client,
            external_id,
            labels,
        } => list(&client, external_id, labels, output).await,
        IdentitiesCommand::Get { client, name } => show(&get(&client, name).await?, output),
        IdentitiesCommand::Wait { client, name } => wait(&client, name, output).await,
        IdentitiesCommand::RevokeConsent { client, name } => {
            revoke_consent(&client, name, output).await
        }
        IdentitiesCommand::Delete { client, name } => {
            let request = v1::DeleteIdentityRequest {
                name,
                etag: String::new(),
            };
            client.identities().await?.delete_identity(request).await?;
            Ok(())
        }
        IdentitiesCommand::ExportLora { client, name } => {
            let request = v1::ExportLoraRequest {
                name,
                ..Default::default()
            };
            let answer = client
                .identities()
                .await?
                .export_lora(request)
                .await?
                .into_inner();
            print_json(&to_json(&present(answer.export)?))
        }
    }
}

async fn get(client: &ClientArgs, name: String) -> Result<v1::Identity, Failure> {
    let request = v1::GetIdentityRequest { name };
    let answer = client
        .identities()
        .await?
        .get_identity(request)
        .await?
        .into_inner();
    present(answer.identity)
}

async fn list(
    client: &ClientArgs,
    external_id: String,
    labels: Vec<(String, String)>,
    output: Output,
) -> Result<(), Failure> {
    let mut client = client.identities().await?;
    let mut request = v1::ListIdentitiesRequest {
        external_id,
        labels: labels.into_iter().collect(),
        ..Default::default()
    };
    let mut identities = Vec::new();
    loop {
        let page = client.list_identities(request.clone()).await?.into_inner();
        identities.extend(page.identities);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    let rows = identities.iter().map(|identity| {
        let accepted = identity.photo_counts.unwrap_or_default().accepted;
        vec![
            identity.name.clone(),
            identity.display_name.clone(),
            identity.external_id.clone(),
            state(identity),
            accepted.to_string(),
        ]
    });
    let json = identities.iter().map(to_json).collect();
    let header = ["NAME", "DISPLAY NAME", "EXTERNAL ID", "STATE", "PHOTOS"];
    print(output, &header, rows.collect(), &json)
}

async fn wait(client: &ClientArgs, name: String, output: Output) -> Result<(), Failure> {
    let request = v1::WatchIdentityRequest { name };
    let mut news = client
        .identities()
        .await?
        .watch_identity(request)
        .await?
        .into_inner();
    while let Some(message) = news.next().await.transpose()? {
        let identity = present(message.identity)?;
        match identity.state() {
            v1::IdentityState::Ready => return show(&identity, output),
            v1::IdentityState::Empty => {
                show(&identity, output)?;
                return Err(Failure::new(
                    "no photo is accepted; `likeness photos list` tells why, add another",
                ));
            }
            _ => {}
        }
    }
    Err(Failure::new("the api ended the watch; repeat the command"))
}

async fn revoke_consent(client: &ClientArgs, name: String, output: Output) -> Result<(), Failure> {
    let mut identity = get(client, name).await?;
    let Some(consent) = identity.consent.as_mut() else {
        return Err(Failure::new(
            "the identity has no consent that could be withdrawn",
        ));
    };
    let now = likeness_domain::Clock::now(&likeness_domain::SystemClock);
    consent.revoke_time = Some(likeness_wire::time::to_proto(now));
    let mask = prost_types::FieldMask {
        paths: vec!["consent".to_owned()],
    };
    let request = v1::UpdateIdentityRequest {
        identity: Some(identity),
        update_mask: Some(mask),
    };
    let answer = client
        .identities()
        .await?
        .update_identity(request)
        .await?
        .into_inner();
    show(&present(answer.identity)?, output)
}

fn show(identity: &v1::Identity, output: Output) -> Result<(), Failure> {
    let counts = identity.photo_counts.unwrap_or_default();
    let consent = match &identity.consent {
        None => "none: renders will be refused".to_owned(),
        Some(consent) if consent.revoke_time.is_some() => "withdrawn".to_owned(),
        Some(consent) => consent.reference.clone(),
    };
    let fields = [
        ("name", identity.name.clone()),
        ("display name", identity.display_name.clone()),
        ("external id", identity.external_id.clone()),
        ("state", state(identity)),
        ("consent", consent),
        (
            "photos",
            format!(
                "{} accepted, {} pending, {} rejected, {} failed",
                counts.accepted, counts.pending, counts.rejected, counts.failed
            ),
        ),
        ("etag", identity.etag.clone()),
    ];
    print_fields(output, &fields, &to_json(identity))
}

fn state(identity: &v1::Identity) -> String {
    short(identity.state().as_str_name(), "IDENTITY_STATE")
}
