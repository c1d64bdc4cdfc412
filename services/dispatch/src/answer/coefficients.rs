//! A worker asks for one set of coefficients of the render it holds.

use likeness_domain::{Error, TenantId, coefficients as algebra, coefficients::Coefficients};
use likeness_queue::{CoefficientsReply, CoefficientsRequest, Refusal};
use likeness_registry::{
    PgConnection, acquire, bundles, coefficients,
    renders::{self, RenderIdentity},
};

use super::signed;
use crate::server::Dispatch;

/// Unseals the pinned photos of one identity, and answers with their mean, normalised per token.
pub async fn coefficients(
    dispatch: Dispatch,
    request: CoefficientsRequest,
) -> Result<CoefficientsReply, Error> {
    let attempt = signed("attempt", request.attempt)?;
    let mut conn = acquire(&dispatch.pool).await?;
    let now = dispatch.clock.now();
    let Some(render) = renders::holds(&mut conn, request.render, attempt, now).await? else {
        return Ok(CoefficientsReply::Refused {
            reason: Refusal::StaleAttempt,
        });
    };
    let Some(part) = render.identities.get(request.set as usize) else {
        return Ok(CoefficientsReply::Refused {
            reason: Refusal::NoSuchSet,
        });
    };
    let set = identity(&dispatch, &mut conn, render.tenant_id, &render.bundle, part).await?;
    Ok(CoefficientsReply::Set(set))
}

async fn identity(
    dispatch: &Dispatch,
    conn: &mut PgConnection,
    tenant: TenantId,
    bundle: &str,
    part: &RenderIdentity,
) -> Result<Coefficients, Error> {
    let bundle = bundles::get(conn, bundle)
        .await?
        .ok_or_else(|| Error::internal("a render's bundle is not registered"))?;
    let photos = coefficients::load(
        conn,
        &dispatch.keys,
        tenant,
        part.identity_id,
        &part.photo_ids,
        &bundle.encoder,
    )
    .await?;
    algebra::identity(&photos).map_err(Error::internal)
}
