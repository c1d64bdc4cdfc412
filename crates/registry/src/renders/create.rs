//! New renders.

use chrono::{DateTime, Utc};
use likeness_domain::{
    ApiKeyId, Error, Labels, RenderId, RenderState, TenantId,
    render::{Priority, RenderSpec},
};
use serde::Serialize;
use sqlx::{PgConnection, types::Json};
use uuid::Uuid;

use super::{Render, RenderIdentity, RenderSlider};
use crate::error::{breaks, database};

/// A render to be. Its parameters, its identities' consent and its tenant's quota have been checked.
#[derive(Clone, PartialEq)]
pub struct NewRender {
    /// Its id.
    pub id: RenderId,
    /// Whose it is.
    pub tenant_id: TenantId,
    /// Who goes first among the tenant's own.
    pub priority: Priority,
    /// The digest of the bundle that it is pinned to.
    pub bundle: String,
    /// Which pool renders it.
    pub pool: String,
    /// Its parameters with every default filled in.
    pub spec: RenderSpec,
    /// The tenant's own labels.
    pub labels: Labels,
    /// Estimated seconds of a worker's time, above 0.
    pub cost_seconds: f32,
    /// Do not start before.
    pub start_time: Option<DateTime<Utc>>,
    /// When it gives up.
    pub expire_time: DateTime<Utc>,
    /// Who it shows.
    pub identities: Vec<RenderIdentity>,
    /// What it moves along.
    pub sliders: Vec<RenderSlider>,
    /// The failed render that this one repeats.
    pub retry_of: Option<RenderId>,
    /// Where its last state is reported.
    pub webhook: Option<NewWebhook>,
}

/// Where to report a render's last state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewWebhook {
    /// Checked to be one that may be called.
    pub url: String,
    /// The key whose secret signs what is sent.
    pub key: ApiKeyId,
}

/// Stores a new render, QUEUED.
///
/// # Errors
/// `NotFound` if the tenant has been deleted; the database fails.
pub async fn create(
    conn: &mut PgConnection,
    new: &NewRender,
    now: DateTime<Utc>,
) -> Result<Render, Error> {
    let created = create_many(conn, std::slice::from_ref(new), now).await?;
    let created = created.into_iter().next();
    created.ok_or_else(|| Error::internal("one render was stored and none came back"))
}

/// Stores new renders, QUEUED, all or none, in one statement; returns them in their order.
///
/// # Errors
/// `NotFound` if the tenant has been deleted; the database fails.
pub async fn create_many(
    conn: &mut PgConnection,
    new: &[NewRender],
    now: DateTime<Utc>,
) -> Result<Vec<Render>, Error> {
    let rows: Vec<NewRow<'_>> = new.iter().map(NewRow::from).collect();
    sqlx::query!(
        "WITH new AS MATERIALIZED (
             SELECT * FROM jsonb_to_recordset($1) AS n (
                 id uuid, tenant_id uuid, priority smallint, bundle text, pool text, spec jsonb,
                 labels jsonb, cost_seconds real, start_time timestamptz, expire_time timestamptz,
                 retry_of uuid, webhook_url text, webhook_key uuid, identities jsonb,
                 sliders jsonb)),
         render AS (
             INSERT INTO renders (id, tenant_id, priority, bundle, pool, spec, labels, cost_seconds,
                                  start_time, run_after, expire_time, retry_of, webhook_url,
                                  webhook_key, created_at)
             SELECT id, tenant_id, priority, bundle, pool, spec, labels, cost_seconds, start_time,
                 CASE WHEN start_time > $2 THEN start_time END, expire_time, retry_of, webhook_url,
                 webhook_key, $2
             FROM new),
         moved AS (
             INSERT INTO render_sliders (render_id, position, slider_id, scale, before_identity,
                                         before_photos, after_identity, after_photos)
             SELECT new.id, s.position - 1, s.slider_id, s.scale, s.before_identity,
                 s.before_photos, s.after_identity, s.after_photos
             FROM new, ROWS FROM (jsonb_to_recordset(new.sliders)
                 AS (slider_id uuid, scale real, before_identity uuid, before_photos uuid[],
                     after_identity uuid, after_photos uuid[])) WITH ORDINALITY
                 AS s (slider_id, scale, before_identity, before_photos, after_identity,
                       after_photos, position))
         INSERT INTO render_identities (render_id, position, identity_id, weight, photo_ids)
         SELECT new.id, shown.position - 1, shown.identity_id, shown.weight, shown.photo_ids
         FROM new, ROWS FROM (jsonb_to_recordset(new.identities)
             AS (identity_id uuid, weight real, photo_ids uuid[])) WITH ORDINALITY
             AS shown (identity_id, weight, photo_ids, position)",
        Json(&rows) as _,
        now
    )
    .execute(conn)
    .await
    .map_err(|error| match new.first() {
        Some(first) if breaks(&error, "renders_tenant_id_fkey") => {
            Error::not_found("tenant", first.tenant_id)
        }
        _ => database(error),
    })?;
    Ok(new.iter().map(|new| as_created(new, now)).collect())
}

/// A new render as its row is sent to Postgres.
#[derive(Serialize)]
struct NewRow<'a> {
    id: Uuid,
    tenant_id: Uuid,
    priority: i16,
    bundle: &'a str,
    pool: &'a str,
    spec: &'a RenderSpec,
    labels: &'a Labels,
    cost_seconds: f32,
    start_time: Option<DateTime<Utc>>,
    expire_time: DateTime<Utc>,
    retry_of: Option<Uuid>,
    webhook_url: Option<&'a str>,
    webhook_key: Option<Uuid>,
    identities: &'a [RenderIdentity],
    sliders: &'a [RenderSlider],
}

impl<'a> From<&'a NewRender> for NewRow<'a> {
    fn from(new: &'a NewRender) -> Self {
        Self {
            id: new.id.0,
            tenant_id: new.tenant_id.0,
            priority: new.priority.rank(),
            bundle: &new.bundle,
            pool: &new.pool,
            spec: &new.spec,
            labels: &new.labels,
            cost_seconds: new.cost_seconds,
            start_time: new.start_time,
            expire_time: new.expire_time,
            retry_of: new.retry_of.map(|id| id.0),
            webhook_url: new.webhook.as_ref().map(|webhook| webhook.url.as_str()),
            webhook_key: new.webhook.as_ref().map(|webhook| webhook.key.0),
            identities: &new.identities,
            sliders: &new.sliders,
        }
    }
}

fn as_created(new: &NewRender, now: DateTime<Utc>) -> Render {
    Render {
        id: new.id,
        tenant_id: new.tenant_id,
        state: RenderState::Queued,
        priority: new.priority,
        bundle: new.bundle.clone(),
        pool: new.pool.clone(),
        spec: new.spec.clone(),
        labels: new.labels.clone(),
        publication: 0,
        attempt: 0,
        failures: 0,
        alone: false,
        start_time: new.start_time,
        run_after: new.start_time.filter(|start| *start > now),
        expire_time: new.expire_time,
        cancel_requested_at: None,
        error: None,
        timings: None,
        created_at: now,
        begun_at: None,
        finished_at: None,
        retry_of: new.retry_of,
        identities: new.identities.clone(),
        sliders: new.sliders.clone(),
        images: Vec::new(),
        webhook_url: new.webhook.as_ref().map(|webhook| webhook.url.clone()),
        deliveries: Vec::new(),
    }
}
