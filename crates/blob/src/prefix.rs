//! What is deleted together.

use std::{fmt, str::FromStr};

use likeness_domain::{IdentityId, PhotoId, RenderId, TenantId};

/// A text that is no place inside one tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a storage prefix; expected tenants/{{tenant}}/, or a place below it as identities/{{identity}}/photos/{{photo}}/ or renders/{{render}}/{{attempt}}/ or renders/{{render}}/start/"
)]
pub struct PrefixError;

/// The objects of a tenant, or of one of its identities, photos, renders or attempts. It ends with a slash, so that
/// attempt 1 is not also attempt 10, and is never empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Prefix(String);

impl Prefix {
    /// All of a tenant's.
    pub fn tenant(tenant: TenantId) -> Self {
        Self(format!("tenants/{tenant}/"))
    }

    /// All of an identity's photos.
    pub fn identity(tenant: TenantId, identity: IdentityId) -> Self {
        Self(format!("tenants/{tenant}/identities/{identity}/"))
    }

    /// All of a photo's.
    pub fn photo(tenant: TenantId, identity: IdentityId, photo: PhotoId) -> Self {
        Self(format!(
            "tenants/{tenant}/identities/{identity}/photos/{photo}/"
        ))
    }

    /// All of a tenant's renders.
    pub fn renders(tenant: TenantId) -> Self {
        Self(format!("tenants/{tenant}/renders/"))
    }

    /// All of a render's: what it starts from, and all attempts.
    pub fn render(tenant: TenantId, render: RenderId) -> Self {
        Self(format!("tenants/{tenant}/renders/{render}/"))
    }

    /// What a render starts from.
    pub fn start(tenant: TenantId, render: RenderId) -> Self {
        Self(format!("tenants/{tenant}/renders/{render}/start/"))
    }

    /// All images of one attempt.
    pub fn attempt(tenant: TenantId, render: RenderId, attempt: u32) -> Self {
        Self(format!("tenants/{tenant}/renders/{render}/{attempt}/"))
    }

    /// As it is stored and listed.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    /// Reads what a constructor made, with or without the slash at its end.
    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let text = text.strip_suffix('/').unwrap_or(text);
        let segments: Vec<&str> = text.split('/').collect();
        let prefix = match segments.as_slice() {
            ["tenants", tenant] => Self::tenant(id(tenant)?),
            ["tenants", tenant, "identities", identity] => {
                Self::identity(id(tenant)?, id(identity)?)
            }
            ["tenants", tenant, "identities", identity, "photos", photo] => {
                Self::photo(id(tenant)?, id(identity)?, id(photo)?)
            }
            ["tenants", tenant, "renders"] => Self::renders(id(tenant)?),
            ["tenants", tenant, "renders", render, "start"] => {
                Self::start(id(tenant)?, id(render)?)
            }
            ["tenants", tenant, "renders", render] => Self::render(id(tenant)?, id(render)?),
            ["tenants", tenant, "renders", render, attempt] => {
                Self::attempt(id(tenant)?, id(render)?, id(attempt)?)
            }
            _ => return Err(PrefixError),
        };
        // Ids have several spellings; only the one that keys have is a prefix of them.
        if prefix.0.strip_suffix('/') == Some(text) {
            Ok(prefix)
        } else {
            Err(PrefixError)
        }
    }
}

fn id<T: FromStr>(text: &str) -> Result<T, PrefixError> {
    text.parse().map_err(|_| PrefixError)
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_prefix_survives_its_text() {
        let [tenant, other] = [Uuid::from_u128(7), Uuid::from_u128(8)];
        let prefixes = [
            Prefix::tenant(tenant.into()),
            Prefix::identity(tenant.into(), other.into()),
            Prefix::photo(tenant.into(), other.into(), other.into()),
            Prefix::renders(tenant.into()),
            Prefix::render(tenant.into(), other.into()),
            Prefix::start(tenant.into(), other.into()),
            Prefix::attempt(tenant.into(), other.into(), 12),
        ];
        for prefix in prefixes {
            assert_eq!(prefix.as_str().parse(), Ok(prefix.clone()));
            assert_eq!(prefix.as_str().trim_end_matches('/').parse(), Ok(prefix));
        }
    }

    #[test]
    fn nothing_wider_or_crooked_is_a_prefix() {
        let nil = Uuid::nil();
        let bare = nil.simple();
        let bad = [
            String::new(),
            "/".to_owned(),
            "tenants".to_owned(),
            "tenants/".to_owned(),
            "tenants/%".to_owned(),
            "tenants/..".to_owned(),
            format!("tenants/{bare}"),
            format!("tenants/{nil}//"),
            format!("tenants/{nil}/identities"),
            format!("tenants/{nil}/renders/{nil}/start/picture"),
            format!("tenants/{nil}/identities/.."),
            format!("tenants/{nil}/renders/{nil}/01"),
            format!("tenants/{nil}/renders/{nil}/1/0.png"),
        ];
        for text in bad {
            assert_eq!(text.parse::<Prefix>(), Err(PrefixError), "{text}");
        }
    }
}
