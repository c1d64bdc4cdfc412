//! What a tenant may have waiting, and how fast it may ask.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use likeness_domain::{Error, ErrorKind, TenantId};
use likeness_registry::{
    PgConnection, renders,
    tenants::{self, Tenant},
};

/// When a tenant with a full backlog may try again.
const BACKLOG_WAIT: Duration = Duration::from_secs(5);
/// What the rate is counted over.
const MINUTE: TimeDelta = TimeDelta::minutes(1);

/// Refuses `count` more renders where they are over the tenant's limits on waiting renders or on renders a minute. A
/// tenant with such limits has its requests counted one after the other, in the caller's transaction: two at the same time
/// cannot both take the last place.
pub async fn check(
    conn: &mut PgConnection,
    tenant: &Tenant,
    count: usize,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let (tenant, limits) = (tenant.id, tenant.limits);
    if limits.max_queued.is_none() && limits.max_renders_per_minute.is_none() {
        return Ok(());
    }
    tenants::lock_limits(conn, tenant).await?;
    let count = i64::try_from(count).map_err(Error::internal)?;
    if let Some(most) = limits.max_queued {
        backlog(conn, tenant, count, most.into()).await?;
    }
    if let Some(most) = limits.max_renders_per_minute {
        rate(conn, tenant, count, most.into(), now).await?;
    }
    Ok(())
}

async fn backlog(
    conn: &mut PgConnection,
    tenant: TenantId,
    count: i64,
    most: i64,
) -> Result<(), Error> {
    let queued = renders::queued_count(conn, tenant).await?;
    if queued + count <= most {
        return Ok(());
    }
    let message = format!(
        "expected at most {most} renders waiting, and {queued} wait; try again when some have begun"
    );
    Err(exhausted("BACKLOG_FULL", message, BACKLOG_WAIT))
}

async fn rate(
    conn: &mut PgConnection,
    tenant: TenantId,
    count: i64,
    most: i64,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let since = now - MINUTE;
    let created = renders::created_count(conn, tenant, since).await?;
    if created + count <= most {
        return Ok(());
    }
    // The one that must be a minute old before these fit in.
    let place = (most - count + 1).max(1);
    let in_the_way = renders::created_at(conn, tenant, since, place).await?;
    let wait = in_the_way.map_or(MINUTE, |at| at + MINUTE - now);
    let message = format!("expected at most {most} renders a minute; try again later");
    let wait = wait
        .to_std()
        .unwrap_or_default()
        .max(Duration::from_millis(1));
    Err(exhausted("RATE_EXCEEDED", message, wait))
}

fn exhausted(reason: &'static str, message: String, wait: Duration) -> Error {
    Error::new(ErrorKind::ResourceExhausted, reason, message).retry_after(wait)
}
