//! Photo apps.

use clap::Subcommand;
use likeness_wire::{json::to_json, v1};

use crate::{
    args::Output,
    connect::OperatorArgs,
    fail::Failure,
    output::{print, print_fields, short},
};

/// What to do with tenants.
#[derive(Subcommand)]
pub enum TenantsCommand {
    /// Create a tenant.
    Create {
        #[command(flatten)]
        operator: OperatorArgs,
        /// A name for people to read.
        display_name: String,
        /// Its share of the GPUs beside others' when all are busy.
        #[arg(long)]
        weight: Option<f32>,
    },
    /// List tenants.
    List {
        #[command(flatten)]
        operator: OperatorArgs,
    },
    /// Show a tenant.
    Get {
        #[command(flatten)]
        operator: OperatorArgs,
        /// `tenants/…`
        name: String,
    },
    /// Refuse a tenant's keys, or accept them again.
    Suspend {
        #[command(flatten)]
        operator: OperatorArgs,
        /// `tenants/…`
        name: String,
        /// Accept them again.
        #[arg(long)]
        resume: bool,
    },
    /// Delete a tenant with everything it owns.
    Delete {
        #[command(flatten)]
        operator: OperatorArgs,
        /// `tenants/…`
        name: String,
    },
}

/// Runs a command.
pub async fn tenants(command: TenantsCommand, output: Output) -> Result<(), Failure> {
    match command {
        TenantsCommand::Create {
            operator,
            display_name,
            weight,
        } => {
            let limits = weight.map(|weight| v1::TenantLimits {
                weight: Some(weight),
                ..v1::TenantLimits::default()
            });
            let tenant = v1::Tenant {
                display_name,
                limits,
                ..v1::Tenant::default()
            };
            let request = v1::CreateTenantRequest {
                tenant: Some(tenant),
                request_id: String::new(),
            };
            let answer = operator
                .admin()
                .await?
                .create_tenant(request)
                .await?
                .into_inner();
            show(&answer.tenant.unwrap_or_default(), output)
        }
        TenantsCommand::Get { operator, name } => {
            let request = v1::GetTenantRequest { name };
            let answer = operator
                .admin()
                .await?
                .get_tenant(request)
                .await?
                .into_inner();
            show(&answer.tenant.unwrap_or_default(), output)
        }
        TenantsCommand::List { operator } => list(&operator, output).await,
        TenantsCommand::Suspend {
            operator,
            name,
            resume,
        } => {
            let state = if resume {
                v1::TenantState::Active
            } else {
                v1::TenantState::Suspended
            };
            let tenant = v1::Tenant {
                name,
                state: state.into(),
                ..v1::Tenant::default()
            };
            let mask = prost_types::FieldMask {
                paths: vec!["state".to_owned()],
            };
            let request = v1::UpdateTenantRequest {
                tenant: Some(tenant),
                update_mask: Some(mask),
            };
            let answer = operator
                .admin()
                .await?
                .update_tenant(request)
                .await?
                .into_inner();
            show(&answer.tenant.unwrap_or_default(), output)
        }
        TenantsCommand::Delete { operator, name } => {
            let request = v1::DeleteTenantRequest {
                name,
                etag: String::new(),
            };
            operator.admin().await?.delete_tenant(request).await?;
            Ok(())
        }
    }
}

async fn list(operator: &OperatorArgs, output: Output) -> Result<(), Failure> {
    let mut client = operator.admin().await?;
    let mut tenants = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListTenantsRequest {
            page_size: 0,
            page_token,
        };
        let page = client.list_tenants(request).await?.into_inner();
        tenants.extend(page.tenants);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let rows = tenants
        .iter()
        .map(|tenant| {
            vec![
                tenant.name.clone(),
                tenant.display_name.clone(),
                state(tenant),
            ]
        })
        .collect();
    let json = tenants.iter().map(to_json).collect();
    print(output, &["NAME", "DISPLAY NAME", "STATE"], rows, &json)
}

fn show(tenant: &v1::Tenant, output: Output) -> Result<(), Failure> {
    let fields = [
        ("name", tenant.name.clone()),
        ("display name", tenant.display_name.clone()),
        ("state", state(tenant)),
        ("etag", tenant.etag.clone()),
    ];
    print_fields(output, &fields, &to_json(tenant))
}

fn state(tenant: &v1::Tenant) -> String {
    short(tenant.state().as_str_name(), "TENANT_STATE")
}
