//! New renders.

use chrono::{DateTime, Utc};
use likeness_domain::{
    Error, Labels, RenderId, RenderState, TenantId,
    render::{Priority, RenderSpec},
};
use sqlx::{PgConnection, types::Json};

use super::{Render, RenderIdentity};
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
    pub run_after: Option<DateTime<Utc>>,
    /// When it gives up.
    pub expire_time: DateTime<Utc>,
    /// Who it shows.
    pub identities: Vec<RenderIdentity>,
    /// The failed render that this one repeats.
    pub retry_of: Option<RenderId>,
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
    sqlx::query!(
        "WITH render AS (
             INSERT INTO renders (id, tenant_id, priority, bundle, pool, spec, labels, cost_seconds,
                                  run_after, expire_time, retry_of, created_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
             RETURNING id)
         INSERT INTO render_identities (render_id, position, identity_id, weight, photo_ids)
         SELECT render.id, shown.position - 1, shown.identity_id, shown.weight, shown.photo_ids
         FROM render, ROWS FROM (jsonb_to_recordset($13)
             AS (identity_id uuid, weight real, photo_ids uuid[])) WITH ORDINALITY
             AS shown (identity_id, weight, photo_ids, position)",
        new.id.0,
        new.tenant_id.0,
        new.priority.rank(),
        new.bundle,
        new.pool,
        Json(&new.spec) as _,
        Json(&new.labels) as _,
        new.cost_seconds,
        new.run_after,
        new.expire_time,
        new.retry_of.map(|id| id.0),
        now,
        Json(&new.identities) as _
    )
    .execute(conn)
    .await
    .map_err(|error| {
        if breaks(&error, "renders_tenant_id_fkey") {
            Error::not_found("tenant", new.tenant_id)
        } else {
            database(error)
        }
    })?;
    Ok(as_created(new, now))
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
        run_after: new.run_after,
        expire_time: new.expire_time,
        cancel_requested_at: None,
        error: None,
        timings: None,
        created_at: now,
        begun_at: None,
        finished_at: None,
        retry_of: new.retry_of,
        identities: new.identities.clone(),
        images: Vec::new(),
    }
}
