//! A worker claims a render: publication, state, deadline and consent are checked, and RUNNING is committed.

use std::time::Duration;

use likeness_blob::ObjectKey;
use likeness_domain::{Error, RenderState, embedding::FaceEmbedding, names::IdentityName};
use likeness_queue::{ClaimReply, ClaimRequest, Grant, Refusal, Upload};
use likeness_registry::{
    PgConnection, embeddings,
    renders::{self, Claimed, Render},
};

use super::{coefficients::encoder_of, signed, unsigned};
use crate::{events, server::Dispatch};

/// Grants the render with a new attempt and a lease, or says why not.
pub async fn claim(dispatch: Dispatch, request: ClaimRequest) -> Result<ClaimReply, Error> {
    let publication = signed("publication", request.publication)?;
    let mut tx = dispatch.begin().await?;
    let claimed = renders::claim(
        &mut tx,
        request.render,
        publication,
        &request.worker,
        dispatch.policy.lease,
        dispatch.clock.now(),
    )
    .await?;
    match claimed {
        // Not committed: the render waits for a worker that can do all that it asks for.
        Claimed::Granted(grant) if grant.render.stacks() && !request.stacks => {
            tracing::info!(render = %request.render, "claim of an older worker refused");
            Ok(ClaimReply::Refused {
                reason: Refusal::Other,
            })
        }
        Claimed::Granted(grant) => {
            // Made first: a claim that was committed and not answered would cost the render a lease.
            let grant = reply(&dispatch, &mut tx, &grant).await?;
            dispatch.commit(tx).await?;
            events::render_changed(&dispatch, request.render, RenderState::Running).await;
            // Less waits unclaimed: the next may come.
            events::wake(&dispatch).await;
            Ok(ClaimReply::Granted(Box::new(grant)))
        }
        Claimed::Refused(refusal) => {
            dispatch.commit(tx).await?;
            tracing::info!(render = %request.render, refusal = refusal.as_str(), "claim refused");
            // A claim may itself have settled the render: expired, or its person gone.
            events::wake(&dispatch).await;
            notify_settled(&dispatch, &request, refusal).await;
            Ok(ClaimReply::Refused {
                reason: reason(refusal),
            })
        }
    }
}

async fn notify_settled(dispatch: &Dispatch, request: &ClaimRequest, refusal: renders::Refusal) {
    match refusal {
        renders::Refusal::Expired => {
            events::render_changed(dispatch, request.render, RenderState::Expired).await;
        }
        renders::Refusal::NoConsent | renders::Refusal::CoefficientsGone => {
            events::render_changed(dispatch, request.render, RenderState::Failed).await;
        }
        _ => {}
    }
}

async fn reply(
    dispatch: &Dispatch,
    conn: &mut PgConnection,
    grant: &renders::Grant,
) -> Result<Grant, Error> {
    let policy = &dispatch.policy;
    Ok(Grant {
        attempt: unsigned(grant.attempt),
        lease_seconds: u32::try_from(policy.lease.num_seconds()).unwrap_or(0),
        spec: grant.render.spec.clone(),
        expire_time: grant.render.expire_time,
        coefficient_sets: grant
            .render
            .identities
            .iter()
            .map(|part| part.weight)
            .collect(),
        uploads: uploads(dispatch, grant).await?,
        upload_expire: dispatch.clock.now() + policy.upload_ttl,
        start_url: start_url(dispatch, &grant.render).await?,
        alone: grant.render.alone,
        sliders: grant
            .render
            .sliders
            .iter()
            .map(|slider| slider.scale)
            .collect(),
        reference: reference(dispatch, conn, &grant.render).await?,
    })
}

/// The face that the images are compared with: the mean of the pinned photos of the one identity that the render shows.
/// A blend is nobody, so that nothing could be said of its likeness.
async fn reference(
    dispatch: &Dispatch,
    conn: &mut PgConnection,
    render: &Render,
) -> Result<Option<FaceEmbedding>, Error> {
    let [shown] = render.identities.as_slice() else {
        return Ok(None);
    };
    let encoder = encoder_of(conn, &render.bundle).await?;
    let identity = IdentityName {
        tenant: render.tenant_id,
        identity: shown.identity_id,
    };
    let photos = &shown.photo_ids;
    let opened = embeddings::of_photos(conn, &dispatch.keys, identity, photos, &encoder).await?;
    Ok(FaceEmbedding::mean(&opened))
}

/// A link to the picture that the render starts from, if it has one.
async fn start_url(dispatch: &Dispatch, render: &Render) -> Result<Option<String>, Error> {
    if render.spec.init_strength.is_none() {
        return Ok(None);
    }
    let key = ObjectKey::RenderStart {
        tenant: render.tenant_id,
        render: render.id,
    };
    let link = dispatch.blob.presign_get(&key, link_ttl(dispatch)).await?;
    Ok(Some(link.into()))
}

fn link_ttl(dispatch: &Dispatch) -> Duration {
    dispatch
        .policy
        .upload_ttl
        .to_std()
        .unwrap_or(Duration::ZERO)
}

/// One upload link for each image; their keys hold the attempt, so that a stale one can replace nothing.
async fn uploads(dispatch: &Dispatch, grant: &renders::Grant) -> Result<Vec<Upload>, Error> {
    let spec = &grant.render.spec;
    let ttl = link_ttl(dispatch);
    let mut uploads = Vec::with_capacity(spec.image_count as usize);
    for position in 0..spec.image_count {
        let key = ObjectKey::RenderImage {
            tenant: grant.render.tenant_id,
            render: grant.render.id,
            attempt: unsigned(grant.attempt),
            position,
            format: spec.output_format,
        };
        let content_type = spec.output_format.content_type();
        uploads.push(Upload {
            url: dispatch
                .blob
                .presign_put(&key, ttl, content_type)
                .await?
                .into(),
            content_type: content_type.to_owned(),
        });
    }
    Ok(uploads)
}

fn reason(refusal: renders::Refusal) -> Refusal {
    match refusal {
        renders::Refusal::StalePublication => Refusal::StalePublication,
        renders::Refusal::NotDispatched => Refusal::NotWaiting,
        renders::Refusal::Expired => Refusal::Expired,
        renders::Refusal::NoConsent => Refusal::ConsentRevoked,
        renders::Refusal::CoefficientsGone => Refusal::NoSuchSet,
        renders::Refusal::Gone => Refusal::Other,
    }
}
