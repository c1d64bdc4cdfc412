//! A worker asks for one set of coefficients of the render it holds.

use likeness_domain::{
    Error, IdentityId, PhotoId, coefficients as algebra, coefficients::Coefficients,
};
use likeness_queue::{CoefficientsReply, CoefficientsRequest, Refusal, Set};
use likeness_registry::{
    PgConnection, acquire, bundles, coefficients,
    renders::{self, Render},
};

use super::signed;
use crate::server::Dispatch;

/// Unseals the pinned photos of one identity or of a slider's end, and answers with their mean, normalised per token.
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
    let Some(wanted) = wanted(&render, request.set) else {
        return Ok(CoefficientsReply::Refused {
            reason: Refusal::NoSuchSet,
        });
    };
    let set = mean(&dispatch, &mut conn, &render, wanted).await?;
    Ok(CoefficientsReply::Set(set))
}

/// Whose coefficients make a set.
struct Wanted<'a> {
    identity: IdentityId,
    photos: &'a [PhotoId],
    base: bool,
}

fn wanted(render: &Render, number: u32) -> Option<Wanted<'_>> {
    let (identities, sliders) = (&render.identities, &render.sliders);
    let of = |identity, photos, base| Wanted {
        identity,
        photos,
        base,
    };
    Some(
        match Set::from_number(number, identities.len(), sliders.len())? {
            Set::Identity(at) => {
                let part = identities.get(at)?;
                of(part.identity_id, &part.photo_ids, false)
            }
            Set::Before(at) => {
                let slider = sliders.get(at)?;
                of(slider.before_identity, &slider.before_photos, false)
            }
            Set::After(at) => {
                let slider = sliders.get(at)?;
                of(slider.after_identity, &slider.after_photos, false)
            }
            Set::Base(at) => {
                let part = identities
                    .get(at)
                    .filter(|_| render.spec.base_scale > 0.0)?;
                of(part.identity_id, &part.photo_ids, true)
            }
        },
    )
}

async fn mean(
    dispatch: &Dispatch,
    conn: &mut PgConnection,
    render: &Render,
    wanted: Wanted<'_>,
) -> Result<Coefficients, Error> {
    let Wanted {
        identity,
        photos,
        base,
    } = wanted;
    let encoder = encoder_of(conn, &render.bundle).await?;
    let (keys, tenant) = (&dispatch.keys, render.tenant_id);
    let photos = if base {
        coefficients::load_base(conn, keys, tenant, identity, photos, &encoder).await?
    } else {
        coefficients::load(conn, keys, tenant, identity, photos, &encoder).await?
    };
    algebra::identity(&photos).map_err(Error::internal)
}

/// The encoder of a bundle.
pub async fn encoder_of(conn: &mut PgConnection, bundle: &str) -> Result<String, Error> {
    let bundle = bundles::get(conn, bundle)
        .await?
        .ok_or_else(|| Error::internal("a render's bundle is not registered"))?;
    Ok(bundle.encoder)
}
