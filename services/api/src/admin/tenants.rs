//! Handlers of tenants.

use likeness_domain::{Error, TenantId, names::TenantName, page::Page};
use likeness_registry::{
    acquire,
    tenants::{self, NewTenant, TenantChange},
};
use likeness_wire::{tenant as wire, v1};
use prost::Message as _;

use super::convert;
use crate::{app::App, replay};

/// Creates a tenant, or returns the one that the same request made before.
pub async fn create(
    app: &App,
    request: v1::CreateTenantRequest,
) -> Result<v1::CreateTenantResponse, Error> {
    let tenant = request.tenant.unwrap_or_default();
    let new = NewTenant {
        id: TenantId::generate(app.clock.as_ref()),
        display_name: convert::display_name_from("tenant.display_name", &tenant.display_name, 1)?,
        limits: convert::limits_from(tenant.limits.as_ref())?,
    };
    let payload = tenant.encode_to_vec();
    let replay = replay::Request::new(
        None,
        "CreateTenant",
        request.request_id.clone(),
        &[&payload],
    )?;
    let mut tx = app.begin().await?;
    let row = match replay.begin(&mut tx, app).await? {
        Some(ids) => {
            let id = ids.first().copied();
            let id = id.ok_or_else(|| Error::internal("a request id without tenant"))?;
            tenants::get(&mut tx, id.into()).await?
        }
        None => {
            let row = tenants::create(&mut tx, &new, app.clock.now()).await?;
            replay.record(&mut tx, &[row.id.0]).await?;
            row
        }
    };
    app.commit(tx).await?;
    Ok(v1::CreateTenantResponse {
        tenant: Some(convert::tenant(&row)),
    })
}

/// Returns one tenant.
pub async fn get(
    app: &App,
    request: &v1::GetTenantRequest,
) -> Result<v1::GetTenantResponse, Error> {
    let name: TenantName = convert::name_from("name", &request.name)?;
    let mut conn = acquire(&app.pool).await?;
    let row = tenants::get(&mut conn, name.tenant).await?;
    Ok(v1::GetTenantResponse {
        tenant: Some(convert::tenant(&row)),
    })
}

/// Lists a page of tenants.
pub async fn list(
    app: &App,
    request: &v1::ListTenantsRequest,
) -> Result<v1::ListTenantsResponse, Error> {
    let page = Page::from_request(request.page_size, &request.page_token)?;
    let mut conn = acquire(&app.pool).await?;
    let rows = tenants::list(&mut conn, &page).await?;
    Ok(v1::ListTenantsResponse {
        tenants: rows.iter().map(convert::tenant).collect(),
        next_page_token: page.next_token(&rows, |row| row.id.0),
    })
}

/// Changes the fields that the mask names.
pub async fn update(
    app: &App,
    request: &v1::UpdateTenantRequest,
) -> Result<v1::UpdateTenantResponse, Error> {
    let tenant = request
        .tenant
        .as_ref()
        .ok_or_else(|| Error::invalid_field("tenant", "expected the tenant to change"))?;
    let name: TenantName = convert::name_from("tenant.name", &tenant.name)?;
    let change = change(tenant, request.update_mask.as_ref())?;
    let version = crate::identity::version_from(&tenant.etag, "tenant")?;
    let mut tx = app.begin().await?;
    let row = tenants::update(&mut tx, name.tenant, &change, version).await?;
    app.commit(tx).await?;
    Ok(v1::UpdateTenantResponse {
        tenant: Some(convert::tenant(&row)),
    })
}

fn change(
    tenant: &v1::Tenant,
    mask: Option<&prost_types::FieldMask>,
) -> Result<TenantChange, Error> {
    const FIELDS: [&str; 3] = ["display_name", "state", "limits"];
    let named: Vec<&str> = match mask {
        Some(mask) if !mask.paths.is_empty() => mask.paths.iter().map(String::as_str).collect(),
        _ => FIELDS.to_vec(),
    };
    if let Some(unknown) = named.iter().find(|path| !FIELDS.contains(path)) {
        let expected = format!("expected some of {}, found {unknown}", FIELDS.join(", "));
        return Err(Error::invalid_field("update_mask", expected));
    }
    let mut change = TenantChange::default();
    for field in named {
        match field {
            "display_name" => {
                let name =
                    convert::display_name_from("tenant.display_name", &tenant.display_name, 1)?;
                change.display_name = Some(name);
            }
            "state" => change.state = wire::tenant_state_from(tenant.state)?,
            _ => change.limits = Some(convert::limits_from(tenant.limits.as_ref())?),
        }
    }
    Ok(change)
}

/// Deletes a tenant with everything it owns.
pub async fn delete(
    app: &App,
    request: &v1::DeleteTenantRequest,
) -> Result<v1::DeleteTenantResponse, Error> {
    let name: TenantName = convert::name_from("name", &request.name)?;
    let version = crate::identity::version_from(&request.etag, "tenant")?;
    let mut tx = app.begin().await?;
    tenants::delete(&mut tx, name.tenant, version, app.clock.now()).await?;
    app.commit(tx).await?;
    Ok(v1::DeleteTenantResponse {})
}
