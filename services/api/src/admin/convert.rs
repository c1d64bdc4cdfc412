//! Registry rows as messages, and messages as changes.

use std::str::FromStr;

use likeness_domain::{
    Error,
    names::{ApiKeyName, NameError, TenantName},
};
use likeness_registry::{
    keys::ApiKey,
    renders::AttemptRow,
    stats::PoolStats,
    tenants::{Tenant, TenantLimits},
    workers::Worker,
};
use likeness_wire::{tenant as wire, time, v1};

/// A tenant as sent.
pub fn tenant(row: &Tenant) -> v1::Tenant {
    v1::Tenant {
        name: TenantName { tenant: row.id }.to_string(),
        display_name: row.display_name.clone(),
        state: wire::tenant_state(row.state).into(),
        limits: Some(v1::TenantLimits {
            weight: Some(row.limits.weight),
            max_running: row.limits.max_running,
            max_queued: row.limits.max_queued,
            max_renders_per_minute: row.limits.max_renders_per_minute,
            max_identities: row.limits.max_identities,
        }),
        create_time: Some(time::to_proto(row.created_at)),
        etag: row.version.to_string(),
    }
}

/// Limits as received.
pub fn limits_from(limits: Option<&v1::TenantLimits>) -> Result<TenantLimits, Error> {
    let limits = limits.copied().unwrap_or_default();
    let weight = limits.weight.unwrap_or(1.0);
    if !(weight > 0.0 && weight <= 1000.0) {
        let expected = "expected a number above 0 and up to 1000";
        return Err(Error::invalid_field("tenant.limits.weight", expected));
    }
    Ok(TenantLimits {
        weight,
        max_running: count("max_running", limits.max_running)?,
        max_queued: count("max_queued", limits.max_queued)?,
        max_renders_per_minute: count("max_renders_per_minute", limits.max_renders_per_minute)?,
        max_identities: count("max_identities", limits.max_identities)?,
    })
}

fn count(field: &str, value: Option<i32>) -> Result<Option<i32>, Error> {
    match value {
        Some(..0) => Err(Error::invalid_field(
            format!("tenant.limits.{field}"),
            "expected 0 or more",
        )),
        value => Ok(value),
    }
}

/// A tenant's or a key's name for people, as received.
pub fn display_name_from(field: &str, name: &str, least: usize) -> Result<String, Error> {
    if (least..=200).contains(&name.len()) {
        return Ok(name.to_owned());
    }
    Err(Error::invalid_field(
        field,
        format!("expected {least} to 200 bytes"),
    ))
}

/// A resource name as received.
pub fn name_from<T: FromStr<Err = NameError>>(field: &str, name: &str) -> Result<T, Error> {
    name.parse()
        .map_err(|error: NameError| Error::invalid_field(field, error.to_string()))
}

/// A key as sent, without its secret.
pub fn api_key(row: &ApiKey) -> v1::ApiKey {
    v1::ApiKey {
        name: ApiKeyName {
            tenant: row.tenant_id,
            key: row.id,
        }
        .to_string(),
        display_name: row.display_name.clone(),
        expire_time: row.expire_time.map(time::to_proto),
        revoke_time: row.revoked_at.map(time::to_proto),
        create_time: Some(time::to_proto(row.created_at)),
    }
}

/// A worker as sent.
pub fn worker(row: &Worker) -> v1::Worker {
    let presence = &row.presence;
    v1::Worker {
        name: format!("workers/{}", presence.id),
        kind: wire::worker_kind(presence.kind).into(),
        pool: presence.pool.clone().unwrap_or_default(),
        device: presence.device.clone(),
        version: presence.version.clone(),
        start_time: Some(time::to_proto(presence.started_at)),
        seen_time: Some(time::to_proto(row.seen_at)),
        draining: presence.draining,
        holding: row.holding.clone(),
    }
}

/// An attempt as sent.
pub fn attempt(row: &AttemptRow) -> v1::RenderAttempt {
    v1::RenderAttempt {
        attempt: row.attempt,
        worker: row.worker.clone(),
        begin_time: Some(time::to_proto(row.begun_at)),
        finish_time: row.finished_at.map(time::to_proto),
        outcome: row
            .outcome
            .map_or_else(String::new, |outcome| outcome.to_string()),
        error: row.error.as_ref().map(|error| v1::RenderError {
            reason: error.reason.clone(),
            message: error.message.clone(),
        }),
    }
}

/// A pool's counts as sent.
pub fn pool(stats: &PoolStats) -> v1::PoolStats {
    v1::PoolStats {
        pool: stats.pool.clone(),
        bundle: stats.bundle.clone(),
        workers: i32::try_from(stats.workers).unwrap_or(i32::MAX),
        queued: stats.queued,
        dispatched: stats.dispatched,
        running: stats.running,
        paused: stats.paused,
    }
}
