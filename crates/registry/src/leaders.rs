//! Who leads a role, for how long.
//!
//! A leader holds a time-leased epoch. Whoever takes over raises the epoch, and whatever only a leader may do checks
//! the epoch in its own transaction: a leader that was stopped and comes back changes nothing.

use chrono::{DateTime, TimeDelta, Utc};
use likeness_domain::{Error, ErrorKind};
use sqlx::PgConnection;

use crate::error::database;

/// A time-leased right to act in a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leadership {
    /// What is led.
    pub role: &'static str,
    /// The fencing token; raised by each takeover.
    pub epoch: i64,
    /// Until when it holds unless it is acquired again.
    pub lease_until: DateTime<Utc>,
}

/// Takes or renews a leadership for `ttl`: `holder` renews its own, and takes over one that has lapsed (its own too)
/// with the next epoch. `None` while another's lives. `holder` must differ for every process that was ever started.
///
/// # Errors
/// The database fails.
pub async fn acquire(
    conn: &mut PgConnection,
    role: &'static str,
    holder: &str,
    ttl: TimeDelta,
    now: DateTime<Utc>,
) -> Result<Option<Leadership>, Error> {
    let row = sqlx::query!(
        "INSERT INTO leaders AS l (role, epoch, holder, lease_until) VALUES ($1, 1, $2, $3)
         ON CONFLICT (role) DO UPDATE
         SET epoch = CASE WHEN l.lease_until > $4 THEN l.epoch ELSE l.epoch + 1 END,
             holder = excluded.holder,
             lease_until = greatest(l.lease_until, excluded.lease_until)
         WHERE l.holder = excluded.holder OR l.lease_until <= $4
         RETURNING epoch, lease_until",
        role,
        holder,
        now + ttl,
        now
    )
    .fetch_optional(conn)
    .await
    .map_err(database)?;
    Ok(row.map(|row| Leadership {
        role,
        epoch: row.epoch,
        lease_until: row.lease_until,
    }))
}

/// Fences the caller's transaction: until it ends, nobody can take the leadership over.
///
/// # Errors
/// `Aborted` if another leads by now or the lease has lapsed; the database fails.
pub async fn check(
    conn: &mut PgConnection,
    leadership: &Leadership,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    // The lock would outlive a leader that is stopped in the midst of its transaction and keep its successor
    // waiting, so the server ends such a session after a second.
    let held = sqlx::query_scalar!(
        r#"SELECT set_config('idle_in_transaction_session_timeout', '1000', true) AS "timeout!"
           FROM leaders WHERE role = $1 AND epoch = $2 AND lease_until > $3 FOR SHARE"#,
        leadership.role,
        leadership.epoch,
        now
    )
    .fetch_optional(conn)
    .await
    .map_err(database)?;
    match held {
        Some(_) => Ok(()),
        None => Err(not_leader(leadership.role)),
    }
}

/// Gives a leadership up, so that another need not wait for its end.
///
/// # Errors
/// The database fails.
pub async fn release(
    conn: &mut PgConnection,
    leadership: &Leadership,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    sqlx::query!(
        "UPDATE leaders SET lease_until = $3 WHERE role = $1 AND epoch = $2 AND lease_until > $3",
        leadership.role,
        leadership.epoch,
        now
    )
    .execute(conn)
    .await
    .map_err(database)?;
    Ok(())
}

fn not_leader(role: &str) -> Error {
    let message = format!("this instance does not lead {role} any more");
    Error::new(ErrorKind::Aborted, "NOT_LEADER", message)
}
