//! Who calls: a tenant by its API key, or the operator.

use likeness_domain::{
    ApiKeyId, Error, ErrorKind, TenantId,
    key::{PresentedKey, digests_equal, secret_digest},
    names::TenantName,
};
use tonic::metadata::MetadataMap;

use crate::app::App;

/// A digest of the operator's key.
#[derive(Clone)]
pub struct OperatorKey([u8; 32]);

impl OperatorKey {
    /// The operator's key as configured; at least 16 characters, so that it cannot be guessed.
    ///
    /// # Errors
    /// One that is too short.
    pub fn new(key: &str) -> Result<Self, Error> {
        if key.len() < 16 {
            return Err(Error::invalid_field(
                "operator_key",
                "expected at least 16 characters",
            ));
        }
        Ok(Self(secret_digest(key)))
    }
}

/// Who calls: a tenant, with one of its keys.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// The tenant.
    pub tenant: TenantId,
    /// The key that the request came with.
    pub key: ApiKeyId,
}

/// The tenant that a request's key belongs to.
pub async fn tenant(app: &App, metadata: &MetadataMap) -> Result<TenantId, Error> {
    Ok(caller(app, metadata).await?.tenant)
}

/// The tenant that a request's key belongs to, and the key.
pub async fn caller(app: &App, metadata: &MetadataMap) -> Result<Caller, Error> {
    let key = bearer(metadata)
        .and_then(PresentedKey::parse)
        .ok_or_else(unauthenticated)?;
    let mut conn = likeness_registry::acquire(&app.pool).await?;
    let tenant = likeness_registry::keys::authenticate(&mut conn, &key, app.clock.now()).await?;
    Ok(Caller {
        tenant: tenant.ok_or_else(unauthenticated)?,
        key: key.id,
    })
}

/// Checks that a request carries the operator's key.
pub fn operator(app: &App, metadata: &MetadataMap) -> Result<(), Error> {
    let presented = bearer(metadata).ok_or_else(unauthenticated)?;
    if digests_equal(&secret_digest(presented), &app.operator.0) {
        return Ok(());
    }
    // A tenant's key is a key, just not this one.
    Err(match PresentedKey::parse(presented) {
        Some(_) => Error::new(
            ErrorKind::PermissionDenied,
            "OPERATOR_ONLY",
            "this call needs the operator's key, not a tenant's",
        ),
        None => unauthenticated(),
    })
}

/// Checks a request's `parent`: the key's own tenant, by name, as `tenants/-` or left out.
pub fn check_parent(tenant: TenantId, parent: &str) -> Result<(), Error> {
    if parent.is_empty() || parent == "tenants/-" {
        return Ok(());
    }
    let name: TenantName = parent
        .parse()
        .map_err(|error| Error::invalid_field("parent", format!("{error}")))?;
    own(tenant, name.tenant, "tenant", parent)
}

/// Hides other tenants' resources: they are not found, whether they exist or not.
pub fn own(tenant: TenantId, owner: TenantId, what: &'static str, name: &str) -> Result<(), Error> {
    if tenant == owner {
        Ok(())
    } else {
        Err(Error::not_found(what, name))
    }
}

fn bearer(metadata: &MetadataMap) -> Option<&str> {
    metadata
        .get("authorization")?
        .to_str()
        .ok()?
        .strip_prefix("Bearer ")
        .map(str::trim)
}

fn unauthenticated() -> Error {
    Error::new(
        ErrorKind::Unauthenticated,
        "INVALID_KEY",
        "expected a valid key in the metadata: `authorization: Bearer lk_…`",
    )
}

#[cfg(test)]
mod tests {
    use likeness_domain::SystemClock;

    use super::*;

    #[test]
    fn a_parent_is_the_keys_own_tenant() {
        let tenant = TenantId::generate(&SystemClock);
        let other = TenantName {
            tenant: TenantId::generate(&SystemClock),
        }
        .to_string();
        for parent in ["", "tenants/-", &TenantName { tenant }.to_string()] {
            assert!(check_parent(tenant, parent).is_ok());
        }
        assert_eq!(
            check_parent(tenant, &other).unwrap_err().kind,
            ErrorKind::NotFound
        );
        assert_eq!(
            check_parent(tenant, "nonsense").unwrap_err().kind,
            ErrorKind::InvalidArgument
        );
    }

    #[test]
    fn a_short_operator_key_is_refused() {
        assert!(OperatorKey::new("short").is_err());
        assert!(OperatorKey::new("0123456789abcdef").is_ok());
    }
}
