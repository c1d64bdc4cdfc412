//! Resource names: `tenants/{tenant}/identities/{identity}/photos/{photo}` and the like.

use std::{fmt, str::FromStr};

use crate::ids::{ApiKeyId, IdentityId, PhotoId, RenderId, SliderId, TenantId};

/// A text that is no resource name of the kind that was expected.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("expected a name like {expected}")]
pub struct NameError {
    /// The name's pattern.
    pub expected: &'static str,
}

macro_rules! resource_names {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $id:ty, $segment:literal),+ } as $pattern:literal),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub struct $name {
            $(
                #[doc = concat!("The id after `", $segment, "/`.")]
                pub $field: $id,
            )+
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut separator = "";
                $(
                    write!(f, "{separator}{}/{}", $segment, self.$field)?;
                    separator = "/";
                )+
                let _ = separator;
                Ok(())
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                let bad = NameError { expected: $pattern };
                let mut segments = text.split('/');
                $(
                    if segments.next() != Some($segment) {
                        return Err(bad);
                    }
                    let Some(Ok($field)) = segments.next().map(str::parse) else {
                        return Err(bad);
                    };
                )+
                match segments.next() {
                    None => Ok(Self { $($field),+ }),
                    Some(_) => Err(bad),
                }
            }
        }
    )*};
}

resource_names! {
    /// A tenant's name.
    TenantName { tenant: TenantId, "tenants" } as "tenants/{tenant}",
    /// An API key's name.
    ApiKeyName { tenant: TenantId, "tenants", key: ApiKeyId, "keys" } as "tenants/{tenant}/keys/{key}",
    /// An identity's name.
    IdentityName { tenant: TenantId, "tenants", identity: IdentityId, "identities" }
        as "tenants/{tenant}/identities/{identity}",
    /// A photo's name.
    PhotoName { tenant: TenantId, "tenants", identity: IdentityId, "identities", photo: PhotoId, "photos" }
        as "tenants/{tenant}/identities/{identity}/photos/{photo}",
    /// A render's name.
    RenderName { tenant: TenantId, "tenants", render: RenderId, "renders" }
        as "tenants/{tenant}/renders/{render}",
    /// A slider's name.
    SliderName { tenant: TenantId, "tenants", slider: SliderId, "sliders" }
        as "tenants/{tenant}/sliders/{slider}",
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    #[test]
    fn a_name_survives_its_text() {
        let name = PhotoName {
            tenant: TenantId::generate(&SystemClock),
            identity: IdentityId::generate(&SystemClock),
            photo: PhotoId::generate(&SystemClock),
        };
        assert_eq!(name.to_string().parse::<PhotoName>(), Ok(name));
    }

    #[test]
    fn another_kind_of_name_is_refused_with_the_pattern() {
        let tenant = TenantName {
            tenant: TenantId::generate(&SystemClock),
        }
        .to_string();
        for text in [
            "",
            "tenants/",
            "tenants/x/renders/y",
            tenant.as_str(),
            &format!("{tenant}/renders"),
        ] {
            let error = text.parse::<RenderName>().unwrap_err();
            assert_eq!(error.expected, "tenants/{tenant}/renders/{render}");
        }
    }

    #[test]
    fn a_trailing_segment_is_refused() {
        let tenant = TenantName {
            tenant: TenantId::generate(&SystemClock),
        };
        assert!(format!("{tenant}/x").parse::<TenantName>().is_err());
    }
}
