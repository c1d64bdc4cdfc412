//! What becomes of renders by themselves: lapsed leases and expiry.

use chrono::{DateTime, Utc};
use likeness_domain::{AttemptOutcome, Error, RenderState, names::RenderName};
use sqlx::PgConnection;

use super::{
    RenderError, RetryPolicy, Settled,
    attempts::{Ending, close},
    read::state_of,
    settle::{Loss, Running, lose},
};
use crate::{
    error::database,
    leaders::{self, Leadership},
};

/// How many lapsed leases one transaction settles: what is left is for the next one.
const REAPED_AT_ONCE: i64 = 200;

/// Takes renders from workers whose leases have lapsed, in the caller's transaction.
///
/// # Errors
/// `Aborted` if the leadership is lost; the database fails or holds what cannot be read.
pub async fn reap(
    conn: &mut PgConnection,
    leadership: &Leadership,
    policy: &RetryPolicy,
    now: DateTime<Utc>,
) -> Result<Vec<Settled>, Error> {
    leaders::check(conn, leadership, now).await?;
    let lapsed = sqlx::query!(
        r#"SELECT id, tenant_id, attempt, failures, alone, deaths_alone,
               cancel_requested_at IS NOT NULL AS "cancel_requested!"
           FROM renders WHERE state = 'RUNNING' AND lease_until <= $1
           ORDER BY lease_until LIMIT $2 FOR UPDATE SKIP LOCKED"#,
        now,
        REAPED_AT_ONCE
    )
    .fetch_all(&mut *conn)
    .await
    .map_err(database)?;
    let mut settled = Vec::with_capacity(lapsed.len());
    for row in lapsed {
        let running = Running {
            id: row.id,
            attempt: row.attempt,
            failures: row.failures,
            alone: row.alone,
            deaths_alone: row.deaths_alone,
            cancel_requested: row.cancel_requested,
        };
        let state = lose(conn, &running, worker_lost(), policy, now).await?;
        let render = RenderName {
            tenant: row.tenant_id.into(),
            render: row.id.into(),
        };
        settled.push(Settled { render, state });
    }
    Ok(settled)
}

fn worker_lost() -> Loss {
    let error = RenderError {
        reason: "WORKER_LOST".to_owned(),
        message: "the worker stopped renewing its lease".to_owned(),
    };
    Loss::Died { error }
}

/// Ends at most `limit` renders whose `expire_time` has passed, in the caller's transaction.
///
/// # Errors
/// `Aborted` if the leadership is lost; the database fails or holds what cannot be read.
pub async fn expire(
    conn: &mut PgConnection,
    leadership: &Leadership,
    limit: i64,
    now: DateTime<Utc>,
) -> Result<Vec<Settled>, Error> {
    leaders::check(conn, leadership, now).await?;
    let rows = sqlx::query!(
        "WITH due AS (
             SELECT id, state FROM renders
             WHERE state IN ('QUEUED', 'DISPATCHED', 'RUNNING') AND expire_time <= $1
             ORDER BY expire_time LIMIT $2 FOR UPDATE SKIP LOCKED)
         UPDATE renders r SET state = 'EXPIRED', finished_at = $1, worker = NULL,
             lease_until = NULL
         FROM due WHERE r.id = due.id
         RETURNING r.id, r.tenant_id, r.attempt, due.state AS before",
        now,
        limit
    )
    .fetch_all(&mut *conn)
    .await
    .map_err(database)?;
    let mut settled = Vec::with_capacity(rows.len());
    for row in rows {
        if state_of(&row.before, row.id)? == RenderState::Running {
            close(conn, row.id, row.attempt, &expired(), now).await?;
        }
        let render = RenderName {
            tenant: row.tenant_id.into(),
            render: row.id.into(),
        };
        settled.push(Settled {
            render,
            state: RenderState::Expired,
        });
    }
    Ok(settled)
}

fn expired() -> Ending {
    Ending {
        outcome: AttemptOutcome::Expired,
        became: RenderState::Expired,
        error: None,
        device_seconds: None,
    }
}
