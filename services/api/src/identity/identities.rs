//! Handlers of identities.

use likeness_domain::{Error, IdentityId, TenantId, page::Page};
use likeness_registry::{
    PgConnection, acquire,
    identities::{self, Identity, IdentityChange, IdentityFilter, NewIdentity},
    renders,
};
use likeness_wire::v1;
use prost::Message as _;

use super::convert;
use crate::{app::App, auth, events, replay};

/// Creates an identity, or returns the one that the same request made before.
pub async fn create(
    app: &App,
    tenant: TenantId,
    request: v1::CreateIdentityRequest,
) -> Result<v1::CreateIdentityResponse, Error> {
    auth::check_parent(tenant, &request.parent)?;
    let identity = request.identity.unwrap_or_default();
    let new = new_identity(app, &identity)?;
    let payload = identity.encode_to_vec();
    let replay = replay::Request::new(
        Some(tenant),
        "CreateIdentity",
        request.request_id.clone(),
        &[&payload],
    )?;
    let mut tx = app.begin().await?;
    let row = match replay.begin(&mut tx, app).await? {
        Some(ids) => first(&mut tx, tenant, &ids).await?,
        None => {
            let row = identities::create(&mut tx, tenant, &new, app.clock.now()).await?;
            replay.record(&mut tx, &[row.id.0]).await?;
            row
        }
    };
    app.commit(tx).await?;
    Ok(v1::CreateIdentityResponse {
        identity: Some(convert::identity(&row)),
    })
}

async fn first(
    conn: &mut PgConnection,
    tenant: TenantId,
    ids: &[uuid::Uuid],
) -> Result<Identity, Error> {
    let id = ids
        .first()
        .copied()
        .ok_or_else(|| Error::internal("a request id without identity"))?;
    identities::get(conn, tenant, id.into()).await
}

fn new_identity(app: &App, identity: &v1::Identity) -> Result<NewIdentity, Error> {
    let consent = match &identity.consent {
        Some(consent) => Some(convert::consent_from(app, consent)?),
        None => None,
    };
    Ok(NewIdentity {
        id: IdentityId::generate(app.clock.as_ref()),
        external_id: convert::external_id_from(&identity.external_id)?,
        display_name: convert::display_name_from(&identity.display_name)?,
        labels: convert::labels_from("identity.labels", &identity.labels)?,
        consent,
    })
}

/// Returns one identity.
pub async fn get(
    app: &App,
    tenant: TenantId,
    request: &v1::GetIdentityRequest,
) -> Result<v1::GetIdentityResponse, Error> {
    let name = convert::own_identity(tenant, "name", &request.name)?;
    let mut conn = acquire(&app.pool).await?;
    let row = identities::get(&mut conn, tenant, name.identity).await?;
    Ok(v1::GetIdentityResponse {
        identity: Some(convert::identity(&row)),
    })
}

/// Lists a page of identities.
pub async fn list(
    app: &App,
    tenant: TenantId,
    request: &v1::ListIdentitiesRequest,
) -> Result<v1::ListIdentitiesResponse, Error> {
    auth::check_parent(tenant, &request.parent)?;
    let page = Page::from_request(request.page_size, &request.page_token)?;
    let filter = IdentityFilter {
        external_id: convert::external_id_from(&request.external_id)?,
        labels: convert::labels_from("labels", &request.labels)?,
    };
    let mut conn = acquire(&app.pool).await?;
    let rows = identities::list(&mut conn, tenant, &filter, &page).await?;
    Ok(v1::ListIdentitiesResponse {
        identities: rows.iter().map(convert::identity).collect(),
        next_page_token: page.next_token(&rows, |row| row.id.0),
    })
}

/// Changes the fields that the mask names.
pub async fn update(
    app: &App,
    tenant: TenantId,
    request: &v1::UpdateIdentityRequest,
) -> Result<v1::UpdateIdentityResponse, Error> {
    let identity = request
        .identity
        .as_ref()
        .ok_or_else(|| Error::invalid_field("identity", "expected the identity to change"))?;
    let name = convert::own_identity(tenant, "identity.name", &identity.name)?;
    let change = change(app, identity, request.update_mask.as_ref())?;
    let version = convert::version_from(&identity.etag, "identity")?;
    let mut tx = app.begin().await?;
    let now = app.clock.now();
    let row = identities::update(&mut tx, tenant, name.identity, &change, version, now).await?;
    app.commit(tx).await?;
    events::identity_changed(app, row.id).await;
    Ok(v1::UpdateIdentityResponse {
        identity: Some(convert::identity(&row)),
    })
}

fn change(
    app: &App,
    identity: &v1::Identity,
    mask: Option<&prost_types::FieldMask>,
) -> Result<IdentityChange, Error> {
    const FIELDS: [&str; 4] = ["external_id", "display_name", "labels", "consent"];
    let named: Vec<&str> = match mask {
        Some(mask) if !mask.paths.is_empty() => mask.paths.iter().map(String::as_str).collect(),
        _ => FIELDS.to_vec(),
    };
    if let Some(unknown) = named.iter().find(|path| !FIELDS.contains(path)) {
        let expected = format!("expected some of {}, found {unknown}", FIELDS.join(", "));
        return Err(Error::invalid_field("update_mask", expected));
    }
    let mut change = IdentityChange::default();
    for field in named {
        match field {
            "external_id" => {
                change.external_id = Some(convert::external_id_from(&identity.external_id)?);
            }
            "display_name" => {
                change.display_name = Some(convert::display_name_from(&identity.display_name)?);
            }
            "labels" => {
                change.labels = Some(convert::labels_from("identity.labels", &identity.labels)?);
            }
            _ => {
                let consent = identity.consent.as_ref();
                change.consent = Some(
                    consent
                        .map(|given| convert::consent_from(app, given))
                        .transpose()?,
                );
            }
        }
    }
    Ok(change)
}

/// Deletes an identity; its waiting renders fail, its running ones are told to stop.
pub async fn delete(
    app: &App,
    tenant: TenantId,
    request: &v1::DeleteIdentityRequest,
) -> Result<v1::DeleteIdentityResponse, Error> {
    let name = convert::own_identity(tenant, "name", &request.name)?;
    let version = convert::version_from(&request.etag, "identity")?;
    let now = app.clock.now();
    let mut tx = app.begin().await?;
    identities::delete(&mut tx, tenant, name.identity, version, now).await?;
    let settled = renders::fail_of_identity(&mut tx, tenant, name.identity, now).await?;
    app.commit(tx).await?;
    events::identity_changed(app, name.identity).await;
    for settled in settled {
        if settled.state.is_terminal() {
            events::render_changed(app, settled.render.render, settled.state).await;
        } else {
            events::cancel_requested(app, settled.render.render).await;
        }
    }
    Ok(v1::DeleteIdentityResponse {})
}
