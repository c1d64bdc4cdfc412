//! Claims and leases: who may work on a render.

use chrono::{DateTime, TimeDelta, Utc};
use likeness_domain::{Error, RenderId, RenderState};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    Render, get_any,
    read::{load, state_of},
};
use crate::error::database;

/// What came of a claim.
#[derive(Debug, PartialEq)]
pub enum Claimed {
    /// The worker has the render.
    Granted(Box<Grant>),
    /// It does not.
    Refused(Refusal),
}

/// A right to work on a render.
#[derive(Debug, PartialEq)]
pub struct Grant {
    /// What to do.
    pub render: Render,
    /// The fencing token.
    pub attempt: i32,
    /// Until when the right holds unless it is renewed.
    pub lease_until: DateTime<Utc>,
}

/// Why a claim is refused. None is worth repeating: what is still to be done will be published again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The render has been deleted.
    Gone,
    /// It has been published again since.
    StalePublication,
    /// It runs, waits in the queue, or its life is over.
    NotDispatched,
    /// Its `expire_time` has passed.
    Expired,
    /// Someone it shows, or a slider of it was made from, has no valid consent, or has been deleted.
    NoConsent,
    /// Coefficients that it is pinned to have been deleted.
    CoefficientsGone,
}

impl Refusal {
    /// As sent.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gone => "GONE",
            Self::StalePublication => "STALE_PUBLICATION",
            Self::NotDispatched => "NOT_DISPATCHED",
            Self::Expired => "EXPIRED",
            Self::NoConsent => "NO_CONSENT",
            Self::CoefficientsGone => "COEFFICIENTS_GONE",
        }
    }
}

/// What came of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// The attempt goes on.
    Held {
        /// Until when.
        lease_until: DateTime<Utc>,
        /// Someone asked to cancel it.
        cancel: bool,
    },
    /// The attempt is over; stop.
    Lost,
}

/// An error that makes a render FAILED.
pub(super) struct Fatal {
    pub reason: &'static str,
    pub message: &'static str,
}

pub(super) const IDENTITY_DELETED: Fatal = Fatal {
    reason: "IDENTITY_DELETED",
    message: "an identity that the render shows, or that a slider of it was made from, was deleted",
};
const CONSENT_REVOKED: Fatal = Fatal {
    reason: "CONSENT_REVOKED",
    message: "an identity that the render shows, or that a slider of it was made from, has no consent; \
              record it and create the render again",
};
const COEFFICIENTS_GONE: Fatal = Fatal {
    reason: "COEFFICIENTS_GONE",
    message: "a photo that the render is pinned to was deleted; create the render again",
};

/// Claims a DISPATCHED render for a worker, in the caller's transaction. A render that has expired, or may not be made
/// any more, reaches its last state by this and is refused.
///
/// # Errors
/// The database fails or holds what cannot be read.
pub async fn claim(
    conn: &mut PgConnection,
    render: RenderId,
    publication: i32,
    worker: &str,
    lease: TimeDelta,
    now: DateTime<Utc>,
) -> Result<Claimed, Error> {
    // First the identities, so that no consent can be revoked between this check and the commit.
    lock_identities(conn, render).await?;
    if let Some(refusal) = refusal(conn, render, publication, now).await? {
        return Ok(Claimed::Refused(refusal));
    }
    if let Some((refusal, fatal)) = unfit(conn, render).await? {
        fail(conn, render, &fatal, now).await?;
        return Ok(Claimed::Refused(refusal));
    }
    begin(conn, render, worker, now + lease, now).await?;
    let render = get_any(conn, render).await?;
    let attempt = render.attempt;
    Ok(Claimed::Granted(Box::new(Grant {
        render,
        attempt,
        lease_until: now + lease,
    })))
}

async fn lock_identities(conn: &mut PgConnection, render: RenderId) -> Result<(), Error> {
    sqlx::query!(
        "SELECT id FROM identities
         WHERE id IN (SELECT identity_id FROM render_sources WHERE render_id = $1)
         ORDER BY id FOR SHARE",
        render.0
    )
    .fetch_all(conn)
    .await
    .map_err(database)?;
    Ok(())
}

/// Locks the render and tells why this claim of it is refused, its identities aside.
async fn refusal(
    conn: &mut PgConnection,
    render: RenderId,
    publication: i32,
    now: DateTime<Utc>,
) -> Result<Option<Refusal>, Error> {
    let row = sqlx::query!(
        "SELECT state, publication, expire_time FROM renders WHERE id = $1 FOR UPDATE",
        render.0
    )
    .fetch_optional(&mut *conn)
    .await
    .map_err(database)?;
    let Some(row) = row else {
        return Ok(Some(Refusal::Gone));
    };
    if row.publication != publication {
        return Ok(Some(Refusal::StalePublication));
    }
    if state_of(&row.state, render.0)? != RenderState::Dispatched {
        return Ok(Some(Refusal::NotDispatched));
    }
    if row.expire_time <= now {
        expire(conn, render, now).await?;
        return Ok(Some(Refusal::Expired));
    }
    Ok(None)
}

/// Tells what forbids to use the render's identities, shown or at a slider's end: the gravest first.
async fn unfit(
    conn: &mut PgConnection,
    render: RenderId,
) -> Result<Option<(Refusal, Fatal)>, Error> {
    let row = sqlx::query!(
        r#"SELECT coalesce(bool_and(i.id IS NOT NULL), true) AS "there!",
               coalesce(bool_and(i.consent_granted_at IS NOT NULL
                                 AND i.consent_revoked_at IS NULL), true) AS "consent!",
               coalesce(bool_and(NOT EXISTS (
                   SELECT FROM unnest(s.photo_ids) AS pinned (id)
                   WHERE NOT EXISTS (
                       SELECT FROM photos p JOIN photo_coefficients c ON c.photo_id = p.id
                       WHERE p.id = pinned.id AND p.identity_id = s.identity_id
                           AND p.state = 'ACCEPTED' AND c.encoder = b.encoder))), true)
                   AS "coefficients!"
           FROM render_sources s
           JOIN renders r ON r.id = s.render_id
           JOIN bundles b ON b.digest = r.bundle
           LEFT JOIN identities i ON i.id = s.identity_id AND i.tenant_id = r.tenant_id
           WHERE s.render_id = $1"#,
        render.0
    )
    .fetch_one(conn)
    .await
    .map_err(database)?;
    Ok(match (row.there, row.consent, row.coefficients) {
        (false, _, _) => Some((Refusal::NoConsent, IDENTITY_DELETED)),
        (_, false, _) => Some((Refusal::NoConsent, CONSENT_REVOKED)),
        (_, _, false) => Some((Refusal::CoefficientsGone, COEFFICIENTS_GONE)),
        (true, true, true) => None,
    })
}

async fn expire(
    conn: &mut PgConnection,
    render: RenderId,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    sqlx::query!(
        "UPDATE renders SET state = 'EXPIRED', finished_at = $2 WHERE id = $1",
        render.0,
        now
    )
    .execute(conn)
    .await
    .map_err(database)?;
    Ok(())
}

async fn fail(
    conn: &mut PgConnection,
    render: RenderId,
    fatal: &Fatal,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    sqlx::query!(
        "UPDATE renders SET state = 'FAILED', error_reason = $2, error_message = $3,
             finished_at = $4
         WHERE id = $1",
        render.0,
        fatal.reason,
        fatal.message,
        now
    )
    .execute(conn)
    .await
    .map_err(database)?;
    Ok(())
}

async fn begin(
    conn: &mut PgConnection,
    render: RenderId,
    worker: &str,
    lease_until: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    sqlx::query!(
        "WITH begun AS (
             UPDATE renders SET state = 'RUNNING', attempt = attempt + 1, worker = $2,
                 lease_until = $3, begun_at = $4
             WHERE id = $1 RETURNING id, attempt, publication)
         INSERT INTO render_attempts (render_id, attempt, publication, worker, begun_at)
         SELECT id, attempt, publication, $2, $4 FROM begun",
        render.0,
        worker,
        lease_until,
        now
    )
    .execute(conn)
    .await
    .map_err(database)?;
    Ok(())
}

/// Lengthens an attempt's lease. One that has lapsed is lost, even if nobody has noticed yet.
///
/// # Errors
/// The database fails.
pub async fn renew(
    conn: &mut PgConnection,
    render: RenderId,
    attempt: i32,
    lease: TimeDelta,
    now: DateTime<Utc>,
) -> Result<Renewal, Error> {
    let held = sqlx::query!(
        r#"UPDATE renders SET lease_until = greatest(lease_until, $3)
           WHERE id = $1 AND attempt = $2 AND state = 'RUNNING' AND lease_until > $4
           RETURNING lease_until AS "lease_until!", cancel_requested_at IS NOT NULL AS "cancel!""#,
        render.0,
        attempt,
        now + lease,
        now
    )
    .fetch_optional(conn)
    .await
    .map_err(database)?;
    Ok(held.map_or(Renewal::Lost, |held| Renewal::Held {
        lease_until: held.lease_until,
        cancel: held.cancel,
    }))
}

/// The render, if this attempt holds it: RUNNING, the current attempt, its lease alive. Only then may it be given
/// coefficients.
///
/// # Errors
/// The database fails or holds what cannot be read.
pub async fn holds(
    conn: &mut PgConnection,
    render: RenderId,
    attempt: i32,
    now: DateTime<Utc>,
) -> Result<Option<Render>, Error> {
    let held: Vec<Uuid> = sqlx::query_scalar!(
        "SELECT id FROM renders
         WHERE id = $1 AND attempt = $2 AND state = 'RUNNING' AND lease_until > $3",
        render.0,
        attempt,
        now
    )
    .fetch_all(&mut *conn)
    .await
    .map_err(database)?;
    Ok(load(conn, &held).await?.into_iter().next())
}
