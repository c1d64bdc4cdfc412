//! Taking a render in: everything is checked and pinned, then one row is inserted. OK means durable.

use likeness_domain::{
    Error, ErrorKind, FieldViolation, IdentityId, RenderId, TenantId,
    bundle::RenderDefaults,
    labels,
    render::{RenderDraft, RenderSpec, resolve_expire_time, resolve_weights},
};
use likeness_registry::{
    PgConnection,
    bundles::{self, Placement},
    coefficients, identities,
    renders::{self, NewRender, Render, RenderIdentity},
    tenants,
};
use likeness_wire::{render as wire, time, v1};
use prost::Message as _;
use ring::rand::{SecureRandom, SystemRandom};

use super::{
    convert,
    start::{StartPicture, Stored},
};
use crate::{app::App, auth, events, replay};

/// Seconds that a denoising step of one megapixel is guessed to take, until workers report better.
const SECONDS_PER_MEGAPIXEL_STEP: f32 = 0.15;
/// When a tenant with a full backlog may try again.
const BACKLOG_WAIT: std::time::Duration = std::time::Duration::from_secs(5);
/// When a tenant that asks too often may try again.
const RATE_WAIT: std::time::Duration = std::time::Duration::from_secs(15);
/// Seconds around the steps: claim, synthesis, merge, decoding, upload.
const SECONDS_PER_RENDER: f32 = 0.5;

/// What a request asks for, its start picture apart.
struct Wanted {
    render: v1::Render,
    /// The picture to start from.
    start: Option<StartPicture>,
}

/// Takes a render in, or returns the one that the same request made before.
pub async fn create(
    app: &App,
    tenant: TenantId,
    request: v1::CreateRenderRequest,
) -> Result<v1::CreateRenderResponse, Error> {
    auth::check_parent(tenant, &request.parent)?;
    let mut render = request.render.unwrap_or_default();
    wire::refuse_unbuilt(&render)?;
    let start = StartPicture::take(app, &mut render);
    let wanted = Wanted { render, start };
    if request.validate_only {
        return validate(app, tenant, &wanted).await;
    }
    let payload = wanted.render.encode_to_vec();
    let mut parts = vec![payload.as_slice()];
    parts.extend(wanted.start.as_ref().map(|start| start.file.as_ref()));
    let replay = replay::Request::new(Some(tenant), "CreateRender", &request.request_id, &parts)?;
    let row = take_in(app, tenant, &wanted, &replay).await?;
    events::wake_dispatch(app).await;
    Ok(v1::CreateRenderResponse {
        render: Some(convert::render(app, &row).await?),
        estimate: None,
    })
}

/// Inserts a render, or returns the one that the same request made before. Its start picture goes to storage first: a
/// render without its picture would be lost, a picture without its render is swept.
async fn take_in(
    app: &App,
    tenant: TenantId,
    wanted: &Wanted,
    replay: &replay::Request<'_>,
) -> Result<Render, Error> {
    let id = RenderId::generate(app.clock.as_ref());
    let stored = match &wanted.start {
        None => None,
        Some(picture) => {
            if let Some(row) = made_before(app, tenant, wanted, replay).await? {
                return Ok(row);
            }
            Some(Stored::put(app, tenant, id, picture).await?)
        }
    };
    let mut tx = app.begin().await?;
    let row = match replay.begin(&mut tx, app).await? {
        // Where a concurrent twin was first, its picture counts, and this one is swept.
        Some(ids) => first(&mut tx, tenant, &ids).await?,
        None => {
            let new = check(app, &mut tx, tenant, wanted, id).await?;
            let row = renders::create(&mut tx, &new, app.clock.now()).await?;
            replay.record(&mut tx, &[row.id.0]).await?;
            if let Some(stored) = stored {
                stored.keep(&mut tx).await?;
            }
            row
        }
    };
    app.commit(tx).await?;
    Ok(row)
}

/// The render that the same request made before. One that may not be made is refused here, before its picture is moved.
async fn made_before(
    app: &App,
    tenant: TenantId,
    wanted: &Wanted,
    replay: &replay::Request<'_>,
) -> Result<Option<Render>, Error> {
    // Never committed: only a look.
    let mut tx = app.begin().await?;
    if let Some(ids) = replay.begin(&mut tx, app).await? {
        return first(&mut tx, tenant, &ids).await.map(Some);
    }
    let id = RenderId::generate(app.clock.as_ref());
    check(app, &mut tx, tenant, wanted, id).await?;
    Ok(None)
}

async fn first(
    conn: &mut PgConnection,
    tenant: TenantId,
    ids: &[uuid::Uuid],
) -> Result<Render, Error> {
    let id = ids
        .first()
        .copied()
        .ok_or_else(|| Error::internal("a request id without render"))?;
    renders::get(conn, tenant, id.into()).await
}

/// Checks a render as if to take it in, and says what it would cost.
async fn validate(
    app: &App,
    tenant: TenantId,
    wanted: &Wanted,
) -> Result<v1::CreateRenderResponse, Error> {
    // Never committed.
    let mut tx = app.begin().await?;
    let id = RenderId::generate(app.clock.as_ref());
    let new = check(app, &mut tx, tenant, wanted, id).await?;
    let place = renders::window(&mut tx, &new.pool).await?;
    let row = renders::create(&mut tx, &new, app.clock.now()).await?;
    let mut render = convert::render(app, &row).await?;
    render.name = String::new();
    let estimate = v1::RenderEstimate {
        cost: Some(time::duration(f64::from(new.cost_seconds))),
        place: place.dispatched + place.running,
        begin_time: None,
    };
    Ok(v1::CreateRenderResponse {
        render: Some(render),
        estimate: Some(estimate),
    })
}

/// Everything that is checked before a render is taken in: parameters, bundle, consent, coefficients, quota.
async fn check(
    app: &App,
    conn: &mut PgConnection,
    tenant: TenantId,
    wanted: &Wanted,
    id: RenderId,
) -> Result<NewRender, Error> {
    let Wanted { render, start } = wanted;
    let placement = place(conn, &render.model).await?;
    let wrong_start = start.as_ref().and_then(StartPicture::violation);
    let spec = parameters(render, &placement, wrong_start)?;
    let now = app.clock.now();
    check_quota(conn, tenant, now).await?;
    let requested = read_time("render.expire_time", render.expire_time)?;
    Ok(NewRender {
        id,
        tenant_id: tenant,
        priority: wire::priority_from(render.priority).map_err(one)?,
        cost_seconds: estimate(&spec, &placement.bundle.defaults),
        identities: pin(conn, tenant, render, &placement.bundle.encoder).await?,
        bundle: placement.bundle.digest,
        pool: placement.pool,
        spec,
        labels: checked_labels(render)?,
        run_after: read_time("render.start_time", render.start_time)?,
        expire_time: resolve_expire_time(requested, now).map_err(one)?,
        retry_of: None,
    })
}

async fn place(conn: &mut PgConnection, model: &str) -> Result<Placement, Error> {
    bundles::resolve(conn, model).await?.ok_or_else(|| {
        let message = if model.is_empty() {
            "no render worker has announced a bundle yet; start one and try again".to_owned()
        } else {
            "no bundle offers this model; ListModels names those on offer".to_owned()
        };
        Error::new(ErrorKind::FailedPrecondition, "MODEL_NOT_SERVED", message)
    })
}

/// The parameters with every default filled in; all that is wrong is told at once, the start picture included.
fn parameters(
    wanted: &v1::Render,
    placement: &Placement,
    wrong_start: Option<FieldViolation>,
) -> Result<RenderSpec, Error> {
    let draft: RenderDraft = wire::draft(wanted).map_err(Error::invalid)?;
    let seed = match draft.seed {
        Some(_) => 0,
        None => random_seed()?,
    };
    let spec = draft.resolve(&placement.model, &placement.bundle.defaults, seed);
    match (spec, wrong_start) {
        (Ok(spec), None) => Ok(spec),
        (Ok(_), Some(wrong)) => Err(one(wrong)),
        (Err(mut violations), wrong) => {
            violations.extend(wrong);
            Err(Error::invalid(violations))
        }
    }
}

fn random_seed() -> Result<u32, Error> {
    let mut bytes = [0; 4];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Error::internal("the system gave no random numbers"))?;
    Ok(u32::from_le_bytes(bytes))
}

/// A guess at the seconds of a worker's time; two UNet passes a step where there is guidance.
/// A second pass over faces counts as one face of the model's own size in each image.
fn estimate(spec: &RenderSpec, defaults: &RenderDefaults) -> f32 {
    let megapixels = |width: u32, height: u32| (width * height) as f32 / 1e6;
    let passes = if spec.guidance > 1.0 { 1.0 } else { 0.5 };
    let face_steps = spec
        .face_strength
        .map_or(0, |strength| strength.steps_of(spec.steps));
    let work = megapixels(spec.width, spec.height) * spec.steps_taken() as f32
        + megapixels(defaults.width, defaults.height) * face_steps as f32;
    SECONDS_PER_RENDER + SECONDS_PER_MEGAPIXEL_STEP * passes * work * spec.image_count as f32
}

/// Refuses what is over the tenant's limits on waiting renders and on renders a minute.
async fn check_quota(
    conn: &mut PgConnection,
    tenant: TenantId,
    now: chrono::DateTime<chrono::Utc>,
) -> Result<(), Error> {
    let limits = tenants::get(conn, tenant).await?.limits;
    if let Some(most) = limits.max_queued
        && renders::queued_count(conn, tenant).await? >= i64::from(most)
    {
        let message = format!("{most} renders wait already; try again when some have begun");
        return Err(exhausted("BACKLOG_FULL", message, BACKLOG_WAIT));
    }
    if let Some(most) = limits.max_renders_per_minute
        && renders::created_count(conn, tenant, now - chrono::TimeDelta::minutes(1)).await?
            >= i64::from(most)
    {
        let message = format!("expected at most {most} renders a minute; try again later");
        return Err(exhausted("RATE_EXCEEDED", message, RATE_WAIT));
    }
    Ok(())
}

fn exhausted(reason: &'static str, message: String, wait: std::time::Duration) -> Error {
    Error::new(ErrorKind::ResourceExhausted, reason, message).retry_after(wait)
}

/// Who the render shows: identities with consent, pinned to the photos that make their coefficients now.
async fn pin(
    conn: &mut PgConnection,
    tenant: TenantId,
    wanted: &v1::Render,
    encoder: &str,
) -> Result<Vec<RenderIdentity>, Error> {
    let weights: Vec<Option<f32>> = wanted.identities.iter().map(|part| part.weight).collect();
    let weights = resolve_weights(&weights).map_err(one)?;
    let mut pinned = Vec::with_capacity(weights.len());
    for (part, weight) in wanted.identities.iter().zip(weights) {
        let name = crate::identity::own_identity(tenant, "render.identities", &part.identity)?;
        let photo_ids = ready(conn, tenant, name.identity, encoder).await?;
        pinned.push(RenderIdentity {
            identity_id: name.identity,
            weight,
            photo_ids,
        });
    }
    Ok(pinned)
}

async fn ready(
    conn: &mut PgConnection,
    tenant: TenantId,
    identity: IdentityId,
    encoder: &str,
) -> Result<Vec<likeness_domain::PhotoId>, Error> {
    let row = identities::get(conn, tenant, identity).await?;
    let refuse = |reason, message: &str| {
        Err(Error::new(
            ErrorKind::FailedPrecondition,
            reason,
            message.to_owned(),
        ))
    };
    match &row.consent {
        None => {
            return refuse(
                "CONSENT_MISSING",
                "the identity has no consent; record it with UpdateIdentity",
            );
        }
        Some(consent) if consent.revoked_at.is_some() => {
            return refuse(
                "CONSENT_REVOKED",
                "the identity's consent has been withdrawn",
            );
        }
        Some(_) => {}
    }
    let photos = coefficients::ready_photos(conn, identity, encoder).await?;
    if photos.is_empty() {
        return refuse(
            "IDENTITY_NOT_READY",
            "the identity has no accepted photo for this bundle; add photos and wait until it is READY",
        );
    }
    Ok(photos)
}

fn checked_labels(wanted: &v1::Render) -> Result<labels::Labels, Error> {
    let mut violations = Vec::new();
    labels::check("render.labels", &wanted.labels, &mut violations);
    if violations.is_empty() {
        Ok(wanted.labels.clone())
    } else {
        Err(Error::invalid(violations))
    }
}

fn read_time(
    field: &str,
    time: Option<prost_types::Timestamp>,
) -> Result<Option<chrono::DateTime<chrono::Utc>>, Error> {
    time.map(|time| time::from_proto(field, time))
        .transpose()
        .map_err(one)
}

fn one(violation: FieldViolation) -> Error {
    Error::invalid(vec![violation])
}

#[cfg(test)]
mod tests {
    use likeness_domain::render::{RenderDraft, Scheduler};

    use super::*;

    #[test]
    fn an_estimate_grows_with_the_work() {
        let defaults = RenderDefaults {
            scheduler: Scheduler::Euler,
            steps: 20,
            guidance: 3.5,
            id_scale: 0.8,
            width: 1024,
            height: 1024,
        };
        let cost = |draft: RenderDraft| {
            let spec = draft.resolve("m", &defaults, 0).unwrap();
            estimate(&spec, &defaults)
        };
        let plain = cost(RenderDraft::default());
        let dearer = [
            RenderDraft {
                image_count: Some(2),
                ..RenderDraft::default()
            },
            RenderDraft {
                face_strength: Some(0.4),
                ..RenderDraft::default()
            },
        ];
        let cheaper = [
            RenderDraft {
                guidance: Some(1.0),
                ..RenderDraft::default()
            },
            RenderDraft {
                init_strength: Some(0.5),
                ..RenderDraft::default()
            },
        ];
        assert!(dearer.into_iter().all(|draft| cost(draft) > plain));
        assert!(cheaper.into_iter().all(|draft| cost(draft) < plain));
    }
}
