//! Whether a person may be rendered.

use likeness_domain::{Error, ErrorKind};
use likeness_registry::identities::Identity;

/// Checks that an identity's consent was given and not withdrawn.
///
/// # Errors
/// `FailedPrecondition`: `CONSENT_MISSING` or `CONSENT_REVOKED`.
pub fn check(identity: &Identity) -> Result<(), Error> {
    let refuse =
        |reason, message: &str| Err(Error::new(ErrorKind::FailedPrecondition, reason, message));
    match &identity.consent {
        None => refuse(
            "CONSENT_MISSING",
            "the identity has no consent; record it with UpdateIdentity",
        ),
        Some(consent) if consent.revoked_at.is_some() => refuse(
            "CONSENT_REVOKED",
            "the identity's consent has been withdrawn",
        ),
        Some(_) => Ok(()),
    }
}
