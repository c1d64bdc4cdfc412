//! Typed ids: a UUIDv7 each, so that they sort by creation and cannot be mixed up.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::{NoContext, Timestamp, Uuid};

use crate::clock::Clock;

macro_rules! typed_ids {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new id that carries the clock's time.
            pub fn generate(clock: &dyn Clock) -> Self {
                Self(uuid_at(clock))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text).map(Self)
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }
    )*};
}

typed_ids! {
    /// A photo app.
    TenantId,
    /// A tenant's API key.
    ApiKeyId,
    /// One enrolled person of a tenant.
    IdentityId,
    /// One uploaded picture of an identity.
    PhotoId,
    /// One request to make images.
    RenderId,
    /// A direction that a render can move along.
    SliderId,
}

fn uuid_at(clock: &dyn Clock) -> Uuid {
    let now = clock.now();
    let seconds = u64::try_from(now.timestamp()).unwrap_or(0);
    Uuid::new_v7(Timestamp::from_unix(
        NoContext,
        seconds,
        now.timestamp_subsec_nanos(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    #[test]
    fn an_id_survives_its_text() {
        let id = RenderId::generate(&SystemClock);
        assert_eq!(id.to_string().parse::<RenderId>().unwrap(), id);
    }

    #[test]
    fn ids_of_later_milliseconds_sort_later() {
        struct At(i64);
        impl Clock for At {
            fn now(&self) -> chrono::DateTime<chrono::Utc> {
                chrono::DateTime::from_timestamp_millis(self.0).unwrap()
            }
        }
        assert!(PhotoId::generate(&At(1_000)) < PhotoId::generate(&At(1_001)));
    }
}
