//! Reading renders.

use chrono::{DateTime, Utc};
use likeness_domain::{
    Error, IdentityId, Labels, RenderId, RenderState, TenantId,
    page::Page,
    render::{Priority, RenderSpec, RenderTimings},
};
use sqlx::{PgConnection, types::Json};
use uuid::Uuid;

use super::{Render, RenderError, RenderIdentity, RenderSlider, StoredImage, WebhookDelivery};
use crate::error::{corrupt, database};

/// Which renders to list; an empty filter lists all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RenderFilter {
    /// Only those in one of these states; empty: in any.
    pub states: Vec<RenderState>,
    /// Only those that show this identity.
    pub identity: Option<IdentityId>,
    /// Only those that carry all these labels.
    pub labels: Labels,
}

/// A tenant's render.
///
/// # Errors
/// `NotFound` if there is none, or it is another tenant's; the database fails or holds what cannot be read.
pub async fn get(conn: &mut PgConnection, tenant: TenantId, id: RenderId) -> Result<Render, Error> {
    let render = get_any(conn, id).await?;
    if render.tenant_id == tenant {
        Ok(render)
    } else {
        Err(Error::not_found("render", id))
    }
}

/// A render of whatever tenant.
///
/// # Errors
/// `NotFound` if there is none; the database fails or holds what cannot be read.
pub async fn get_any(conn: &mut PgConnection, id: RenderId) -> Result<Render, Error> {
    let found = load(conn, &[id.0]).await?;
    found
        .into_iter()
        .next()
        .ok_or_else(|| Error::not_found("render", id))
}

/// A page of a tenant's renders, the newest first.
///
/// # Errors
/// The database fails or holds what cannot be read.
pub async fn list(
    conn: &mut PgConnection,
    tenant: TenantId,
    filter: &RenderFilter,
    page: &Page,
) -> Result<Vec<Render>, Error> {
    let states: Vec<String> = filter.states.iter().map(ToString::to_string).collect();
    let ids = sqlx::query_scalar!(
        "SELECT r.id FROM renders r
         WHERE r.tenant_id = $1 AND ($2::uuid IS NULL OR r.id < $2)
             AND (cardinality($3::text[]) = 0 OR r.state = ANY ($3))
             AND ($4::uuid IS NULL OR EXISTS (
                 SELECT FROM render_identities i WHERE i.render_id = r.id AND i.identity_id = $4))
             AND r.labels @> $5
         ORDER BY r.id DESC LIMIT $6",
        tenant.0,
        page.after,
        &states,
        filter.identity.map(|id| id.0),
        Json(&filter.labels) as _,
        i64::from(page.size)
    )
    .fetch_all(&mut *conn)
    .await
    .map_err(database)?;
    load(conn, &ids).await
}

/// How many of a tenant's renders are QUEUED.
///
/// # Errors
/// The database fails.
pub async fn queued_count(conn: &mut PgConnection, tenant: TenantId) -> Result<i64, Error> {
    // By pool, since that is what the index of queued renders begins with.
    sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM pools p
           JOIN renders r ON r.pool = p.name AND r.state = 'QUEUED' AND r.tenant_id = $1"#,
        tenant.0
    )
    .fetch_one(conn)
    .await
    .map_err(database)
}

/// How many renders a tenant has created at `since` or later.
///
/// # Errors
/// The database fails.
pub async fn created_count(
    conn: &mut PgConnection,
    tenant: TenantId,
    since: DateTime<Utc>,
) -> Result<i64, Error> {
    // Ids carry the millisecond of their creation, and the tenant's index is sorted by them.
    sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM renders
           WHERE tenant_id = $1 AND id >= $2 AND created_at >= $3"#,
        tenant.0,
        first_id_of(since),
        since
    )
    .fetch_one(conn)
    .await
    .map_err(database)
}

/// When the render was created that is number `place` of a tenant's, the newest first, among those of `since` or later.
///
/// # Errors
/// The database fails.
pub async fn created_at(
    conn: &mut PgConnection,
    tenant: TenantId,
    since: DateTime<Utc>,
    place: i64,
) -> Result<Option<DateTime<Utc>>, Error> {
    sqlx::query_scalar!(
        "SELECT created_at FROM renders WHERE tenant_id = $1 AND id >= $2 AND created_at >= $3
         ORDER BY id DESC OFFSET $4 LIMIT 1",
        tenant.0,
        first_id_of(since),
        since,
        (place - 1).max(0)
    )
    .fetch_optional(conn)
    .await
    .map_err(database)
}

/// The smallest UUIDv7 of a time's millisecond.
fn first_id_of(time: DateTime<Utc>) -> Uuid {
    let millis = u128::try_from(time.timestamp_millis()).unwrap_or(0);
    Uuid::from_u128(millis << 80)
}

/// The renders with these ids, the newest first.
pub(super) async fn load(conn: &mut PgConnection, ids: &[Uuid]) -> Result<Vec<Render>, Error> {
    let rows = sqlx::query_as!(
        RenderRow,
        r#"SELECT r.id, r.tenant_id, r.state, r.priority, r.bundle, r.pool,
               r.spec AS "spec: Json<RenderSpec>", r.labels AS "labels: Json<Labels>",
               r.publication, r.attempt, r.failures, r.alone, r.start_time, r.run_after,
               r.expire_time, r.webhook_url,
               r.cancel_requested_at, r.error_reason, r.error_message,
               r.timings AS "timings: Json<RenderTimings>",
               r.created_at, r.begun_at, r.finished_at, r.retry_of,
               coalesce((SELECT jsonb_agg(to_jsonb(i) - '{render_id,position}'::text[]
                                          ORDER BY i.position)
                         FROM render_identities i WHERE i.render_id = r.id), '[]')
                   AS "identities!: Json<Vec<RenderIdentity>>",
               coalesce((SELECT jsonb_agg(to_jsonb(s) - '{render_id,position}'::text[]
                                          ORDER BY s.position)
                         FROM render_sliders s WHERE s.render_id = r.id), '[]')
                   AS "sliders!: Json<Vec<RenderSlider>>",
               coalesce((SELECT jsonb_agg(jsonb_build_object('attempt', m.attempt, 'image',
                                              to_jsonb(m) - '{render_id,position,attempt}'::text[])
                                          ORDER BY m.position)
                         FROM render_images m WHERE m.render_id = r.id), '[]')
                   AS "images!: Json<Vec<StoredImage>>",
               coalesce((SELECT jsonb_agg(jsonb_build_object('at', d.at, 'status', d.status)
                                          ORDER BY d.number)
                         FROM webhook_deliveries d WHERE d.render_id = r.id), '[]')
                   AS "deliveries!: Json<Vec<WebhookDelivery>>"
           FROM renders r WHERE r.id = ANY ($1) ORDER BY r.id DESC"#,
        ids
    )
    .fetch_all(conn)
    .await
    .map_err(database)?;
    rows.into_iter().map(Render::try_from).collect()
}

struct RenderRow {
    id: Uuid,
    tenant_id: Uuid,
    state: String,
    priority: i16,
    bundle: String,
    pool: String,
    spec: Json<RenderSpec>,
    labels: Json<Labels>,
    publication: i32,
    attempt: i32,
    failures: i32,
    alone: bool,
    start_time: Option<DateTime<Utc>>,
    webhook_url: Option<String>,
    run_after: Option<DateTime<Utc>>,
    expire_time: DateTime<Utc>,
    cancel_requested_at: Option<DateTime<Utc>>,
    error_reason: Option<String>,
    error_message: Option<String>,
    timings: Option<Json<RenderTimings>>,
    created_at: DateTime<Utc>,
    begun_at: Option<DateTime<Utc>>,
    finished_at: Option<DateTime<Utc>>,
    retry_of: Option<Uuid>,
    identities: Json<Vec<RenderIdentity>>,
    sliders: Json<Vec<RenderSlider>>,
    images: Json<Vec<StoredImage>>,
    deliveries: Json<Vec<WebhookDelivery>>,
}

impl TryFrom<RenderRow> for Render {
    type Error = Error;

    fn try_from(row: RenderRow) -> Result<Self, Error> {
        Ok(Self {
            id: row.id.into(),
            tenant_id: row.tenant_id.into(),
            state: state_of(&row.state, row.id)?,
            priority: Priority::from_rank(row.priority)
                .ok_or_else(|| corrupt("renders", "priority", row.id))?,
            bundle: row.bundle,
            pool: row.pool,
            spec: row.spec.0,
            labels: row.labels.0,
            publication: row.publication,
            attempt: row.attempt,
            failures: row.failures,
            alone: row.alone,
            start_time: row.start_time,
            webhook_url: row.webhook_url,
            run_after: row.run_after,
            expire_time: row.expire_time,
            cancel_requested_at: row.cancel_requested_at,
            error: error_of(row.error_reason, row.error_message),
            timings: row.timings.map(|timings| timings.0),
            created_at: row.created_at,
            begun_at: row.begun_at,
            finished_at: row.finished_at,
            retry_of: row.retry_of.map(RenderId),
            identities: row.identities.0,
            sliders: row.sliders.0,
            images: row.images.0,
            deliveries: row.deliveries.0,
        })
    }
}

/// Reads the state of the render `row`.
pub(super) fn state_of(text: &str, row: Uuid) -> Result<RenderState, Error> {
    text.parse().map_err(|_| corrupt("renders", "state", row))
}

/// Both of an error's columns or none.
pub(super) fn error_of(reason: Option<String>, message: Option<String>) -> Option<RenderError> {
    reason
        .zip(message)
        .map(|(reason, message)| RenderError { reason, message })
}
