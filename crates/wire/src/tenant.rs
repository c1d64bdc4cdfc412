//! Tenants and workers, domain ↔ proto.

use likeness_domain::{Error, TenantState, WorkerKind};

use crate::v1;

/// A tenant's state as sent.
pub fn tenant_state(state: TenantState) -> v1::TenantState {
    match state {
        TenantState::Active => v1::TenantState::Active,
        TenantState::Suspended => v1::TenantState::Suspended,
    }
}

/// A tenant's state as received; `None` where the request leaves it out.
///
/// # Errors
/// A value that this version does not know.
pub fn tenant_state_from(state: i32) -> Result<Option<TenantState>, Error> {
    match v1::TenantState::try_from(state) {
        Ok(v1::TenantState::Unspecified) => Ok(None),
        Ok(v1::TenantState::Active) => Ok(Some(TenantState::Active)),
        Ok(v1::TenantState::Suspended) => Ok(Some(TenantState::Suspended)),
        Err(_) => Err(Error::invalid_field(
            "tenant.state",
            "expected ACTIVE or SUSPENDED",
        )),
    }
}

/// A worker's kind as sent.
pub fn worker_kind(kind: WorkerKind) -> v1::WorkerKind {
    match kind {
        WorkerKind::Render => v1::WorkerKind::Render,
        WorkerKind::Enroll => v1::WorkerKind::Enroll,
    }
}
