//! Handlers of API keys.

use likeness_domain::{
    ApiKeyId, Error,
    key::PresentedKey,
    names::{ApiKeyName, TenantName},
    page::Page,
};
use likeness_registry::{
    acquire,
    keys::{self, NewApiKey},
    tenants,
};
use likeness_wire::{time, v1};

use super::convert;
use crate::app::App;

/// Creates a key; its secret is in this answer and nowhere else.
pub async fn create(
    app: &App,
    request: v1::CreateApiKeyRequest,
) -> Result<v1::CreateApiKeyResponse, Error> {
    let tenant: TenantName = convert::name_from("parent", &request.parent)?;
    let wanted = request.api_key.unwrap_or_default();
    let key = PresentedKey::generate(ApiKeyId::generate(app.clock.as_ref()))?;
    let expire_time = wanted
        .expire_time
        .map(|at| time::from_proto("api_key.expire_time", at))
        .transpose()
        .map_err(|violation| Error::invalid(vec![violation]))?;
    let new = NewApiKey {
        id: key.id,
        tenant_id: tenant.tenant,
        display_name: convert::display_name_from("api_key.display_name", &wanted.display_name, 0)?,
        secret_sha256: key.secret_digest(),
        expire_time,
    };
    let mut tx = app.begin().await?;
    tenants::get(&mut tx, tenant.tenant).await?;
    let row = keys::create(&mut tx, &new, app.clock.now()).await?;
    app.commit(tx).await?;
    Ok(v1::CreateApiKeyResponse {
        api_key: Some(convert::api_key(&row)),
        secret: key.reveal().to_string(),
    })
}

/// Lists a page of a tenant's keys.
pub async fn list(
    app: &App,
    request: &v1::ListApiKeysRequest,
) -> Result<v1::ListApiKeysResponse, Error> {
    let tenant: TenantName = convert::name_from("parent", &request.parent)?;
    let page = Page::from_request(request.page_size, &request.page_token)?;
    let mut conn = acquire(&app.pool).await?;
    tenants::get(&mut conn, tenant.tenant).await?;
    let rows = keys::list(&mut conn, tenant.tenant, &page).await?;
    Ok(v1::ListApiKeysResponse {
        api_keys: rows.iter().map(convert::api_key).collect(),
        next_page_token: page.next_token(&rows, |row| row.id.0),
    })
}

/// Makes a key useless.
pub async fn revoke(
    app: &App,
    request: &v1::RevokeApiKeyRequest,
) -> Result<v1::RevokeApiKeyResponse, Error> {
    let name: ApiKeyName = convert::name_from("name", &request.name)?;
    let mut tx = app.begin().await?;
    let row = keys::revoke(&mut tx, name.tenant, name.key, app.clock.now()).await?;
    app.commit(tx).await?;
    Ok(v1::RevokeApiKeyResponse {
        api_key: Some(convert::api_key(&row)),
    })
}
