//! Handlers of renders that exist.

use likeness_domain::{Error, RenderState, TenantId, labels, page::Page};
use likeness_registry::{
    acquire, bundles,
    renders::{self, RenderFilter},
};
use likeness_wire::{render as wire, v1};

use super::convert;
use crate::{app::App, auth, events};

/// Returns one render.
pub async fn get(
    app: &App,
    tenant: TenantId,
    request: &v1::GetRenderRequest,
) -> Result<v1::GetRenderResponse, Error> {
    let name = convert::own_render(tenant, &request.name)?;
    let mut conn = acquire(&app.pool).await?;
    let row = renders::get(&mut conn, tenant, name.render).await?;
    Ok(v1::GetRenderResponse {
        render: Some(convert::render(app, &row).await?),
    })
}

/// Lists a page of renders.
pub async fn list(
    app: &App,
    tenant: TenantId,
    request: &v1::ListRendersRequest,
) -> Result<v1::ListRendersResponse, Error> {
    auth::check_parent(tenant, &request.parent)?;
    let page = Page::from_request(request.page_size, &request.page_token)?;
    let filter = filter(tenant, request)?;
    let mut conn = acquire(&app.pool).await?;
    let rows = renders::list(&mut conn, tenant, &filter, &page).await?;
    drop(conn);
    let mut messages = Vec::with_capacity(rows.len());
    for row in &rows {
        messages.push(convert::render(app, row).await?);
    }
    Ok(v1::ListRendersResponse {
        renders: messages,
        next_page_token: page.next_token(&rows, |row| row.id.0),
    })
}

fn filter(tenant: TenantId, request: &v1::ListRendersRequest) -> Result<RenderFilter, Error> {
    let states: Result<Vec<RenderState>, Error> = request
        .states
        .iter()
        .map(|state| wire::state_from(*state))
        .collect();
    let identity = match request.identity.as_str() {
        "" => None,
        name => Some(crate::identity::own_identity(tenant, "identity", name)?.identity),
    };
    let mut violations = Vec::new();
    labels::check("labels", &request.labels, &mut violations);
    if !violations.is_empty() {
        return Err(Error::invalid(violations));
    }
    Ok(RenderFilter {
        states: states?,
        identity,
        labels: request.labels.clone(),
    })
}

/// Cancels a render: at once while it waits, else by telling its worker.
pub async fn cancel(
    app: &App,
    tenant: TenantId,
    request: &v1::CancelRenderRequest,
) -> Result<v1::CancelRenderResponse, Error> {
    let name = convert::own_render(tenant, &request.name)?;
    let mut tx = app.begin().await?;
    let row = renders::cancel(&mut tx, tenant, name.render, app.clock.now()).await?;
    app.commit(tx).await?;
    if row.state == RenderState::Running {
        events::cancel_requested(app, row.id).await;
    }
    events::render_changed(app, row.id, row.state).await;
    Ok(v1::CancelRenderResponse {
        render: Some(convert::render(app, &row).await?),
    })
}

/// Lists the models that renders may name, those of the latest bundle first; a name that several bundles offer stands
/// for the latest one's.
pub async fn models(app: &App) -> Result<v1::ListModelsResponse, Error> {
    let mut conn = acquire(&app.pool).await?;
    let mut models: Vec<v1::Model> = Vec::new();
    for bundle in bundles::list(&mut conn).await? {
        for name in &bundle.models {
            if models.iter().all(|model| model.name != *name) {
                models.push(v1::Model {
                    name: name.clone(),
                    bundle: bundle.digest.clone(),
                    bundle_display_name: format!("{} {}", bundle.name, bundle.version),
                    defaults: Some(wire::defaults(&bundle.defaults)),
                });
            }
        }
    }
    Ok(v1::ListModelsResponse { models })
}
