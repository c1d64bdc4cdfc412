//! Dead letters: renders that FAILED, and making new renders of them.

use chrono::{DateTime, Utc};
use likeness_domain::{Error, ErrorKind, RenderId, TenantId, page::Page};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{AttemptRow, Render, attempts, read::load};
use crate::error::database;

/// Which dead renders are meant; an empty filter means all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadFilter {
    /// Only this tenant's.
    pub tenant: Option<TenantId>,
    /// Only those that failed with this reason.
    pub reason: Option<String>,
}

/// A render that FAILED, and why.
#[derive(Debug, PartialEq)]
pub struct DeadRender {
    /// As it stands.
    pub render: Render,
    /// Every attempt, the first one first.
    pub attempts: Vec<AttemptRow>,
}

/// A page of the renders that FAILED, the newest first, with their histories.
///
/// # Errors
/// The database fails or holds what cannot be read.
pub async fn dead(
    conn: &mut PgConnection,
    filter: &DeadFilter,
    page: &Page,
) -> Result<Vec<DeadRender>, Error> {
    let ids = sqlx::query_scalar!(
        "SELECT id FROM renders
         WHERE state = 'FAILED' AND ($1::uuid IS NULL OR tenant_id = $1)
             AND ($2::text IS NULL OR error_reason = $2) AND ($3::uuid IS NULL OR id < $3)
         ORDER BY id DESC LIMIT $4",
        filter.tenant.map(|tenant| tenant.0),
        filter.reason,
        page.after,
        i64::from(page.size)
    )
    .fetch_all(&mut *conn)
    .await
    .map_err(database)?;
    let mut found = Vec::with_capacity(ids.len());
    for render in load(conn, &ids).await? {
        let attempts = attempts(conn, render.id).await?;
        found.push(DeadRender { render, attempts });
    }
    Ok(found)
}

/// The oldest dead renders that can be made anew and have not been, at most `limit`. One that started from a picture
/// cannot: the picture has been erased.
///
/// # Errors
/// The database fails.
pub async fn requeueable(
    conn: &mut PgConnection,
    filter: &DeadFilter,
    limit: i64,
) -> Result<Vec<RenderId>, Error> {
    let ids = sqlx::query_scalar!(
        "SELECT r.id FROM renders r
         WHERE r.state = 'FAILED' AND ($1::uuid IS NULL OR r.tenant_id = $1)
             AND ($2::text IS NULL OR r.error_reason = $2) AND NOT r.spec ? 'init_strength'
             AND NOT EXISTS (SELECT FROM renders again WHERE again.retry_of = r.id)
         ORDER BY r.id LIMIT $3",
        filter.tenant.map(|tenant| tenant.0),
        filter.reason,
        limit
    )
    .fetch_all(conn)
    .await
    .map_err(database)?;
    Ok(ids.into_iter().map(RenderId).collect())
}

/// Makes a new render of each of these, in the caller's transaction: the same in all but its life, with `retry_of` set
/// and as much time as the first one had. One that was made anew before is not made again. Returns what the dead have
/// been made into, in their order.
///
/// # Errors
/// `NotFound` if there is none of a name, `FailedPrecondition` if one has not FAILED or started from a picture; nothing
/// is made then. The database fails or holds what cannot be read.
pub async fn requeue(
    conn: &mut PgConnection,
    dead: &[RenderId],
    fresh_id: impl Fn() -> RenderId,
    now: DateTime<Utc>,
) -> Result<Vec<Render>, Error> {
    let old: Vec<Uuid> = dead.iter().map(|id| id.0).collect();
    let new: Vec<Uuid> = dead.iter().map(|_| fresh_id().0).collect();
    check(conn, dead, &old).await?;
    sqlx::query!(
        "WITH made AS (
             INSERT INTO renders (id, tenant_id, priority, bundle, pool, spec, labels, cost_seconds,
                                  expire_time, retry_of, webhook_url, webhook_key, created_at)
             SELECT chosen.new, r.tenant_id, r.priority, r.bundle, r.pool, r.spec, r.labels,
                 r.cost_seconds, $3::timestamptz + (r.expire_time - r.created_at), r.id, r.webhook_url,
                 r.webhook_key, $3
             FROM unnest($1::uuid[], $2::uuid[]) AS chosen (old, new)
             JOIN renders r ON r.id = chosen.old
             ON CONFLICT (retry_of) WHERE retry_of IS NOT NULL DO NOTHING
             RETURNING id, retry_of),
         moved AS (
             INSERT INTO render_sliders (render_id, position, slider_id, scale, before_identity,
                                         before_photos, after_identity, after_photos)
             SELECT made.id, s.position, s.slider_id, s.scale, s.before_identity, s.before_photos,
                 s.after_identity, s.after_photos
             FROM made JOIN render_sliders s ON s.render_id = made.retry_of)
         INSERT INTO render_identities (render_id, position, identity_id, weight, photo_ids)
         SELECT made.id, i.position, i.identity_id, i.weight, i.photo_ids
         FROM made JOIN render_identities i ON i.render_id = made.retry_of",
        &old,
        &new,
        now
    )
    .execute(&mut *conn)
    .await
    .map_err(database)?;
    made_of(conn, &old).await
}

async fn check(conn: &mut PgConnection, dead: &[RenderId], ids: &[Uuid]) -> Result<(), Error> {
    let rows = sqlx::query!(
        r#"SELECT id, state = 'FAILED' AS "failed!", spec ? 'init_strength' AS "from_picture!"
           FROM renders WHERE id = ANY ($1) ORDER BY id FOR SHARE"#,
        ids
    )
    .fetch_all(conn)
    .await
    .map_err(database)?;
    let refuse =
        |reason, message: String| Err(Error::new(ErrorKind::FailedPrecondition, reason, message));
    for id in dead {
        let Some(row) = rows.iter().find(|row| row.id == id.0) else {
            return Err(Error::not_found("render", id));
        };
        if !row.failed {
            return refuse("NOT_FAILED", format!("the render {id} has not failed"));
        }
        if row.from_picture {
            let message = format!(
                "the picture that the render {id} started from has been erased; create it anew"
            );
            return refuse("START_PICTURE_GONE", message);
        }
    }
    Ok(())
}

/// What the dead have been made into, in their order.
async fn made_of(conn: &mut PgConnection, dead: &[Uuid]) -> Result<Vec<Render>, Error> {
    let ids = sqlx::query_scalar!("SELECT id FROM renders WHERE retry_of = ANY ($1)", dead)
        .fetch_all(&mut *conn)
        .await
        .map_err(database)?;
    let mut made = load(conn, &ids).await?;
    made.sort_by_key(|render| {
        let of = render.retry_of.map(|id| id.0);
        dead.iter().position(|id| Some(*id) == of)
    });
    Ok(made)
}
