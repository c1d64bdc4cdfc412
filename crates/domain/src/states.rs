//! The lives of photos and renders: their states and the transitions between them.
//!
//! The same transitions stand in `migrations/` as a trigger, and a test of the registry compares the two.

use serde::{Deserialize, Serialize};

/// A text that names no state.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("no such {kind}")]
pub struct UnknownState {
    /// Of what.
    pub kind: &'static str,
}

macro_rules! text_enum {
    ($(#[$doc:meta])* $name:ident ($kind:literal) { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name {
            $(
                $(#[$vdoc])*
                #[serde(rename = $text)]
                $variant,
            )+
        }

        impl $name {
            /// Every value.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// As stored and sent.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::states::UnknownState;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    _ => Err($crate::states::UnknownState { kind: $kind }),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
pub(crate) use text_enum;

text_enum! {
    /// The life of a render.
    RenderState ("render state") {
        /// Waiting in Postgres.
        Queued = "QUEUED",
        /// Admitted: published, or about to be.
        Dispatched = "DISPATCHED",
        /// A worker holds its lease.
        Running = "RUNNING",
        /// Its images are there.
        Succeeded = "SUCCEEDED",
        /// Given up.
        Failed = "FAILED",
        /// Cancelled on request.
        Cancelled = "CANCELLED",
        /// Its `expire_time` passed first.
        Expired = "EXPIRED",
    }
}

impl RenderState {
    /// Whether the render's life is over.
    pub const fn is_terminal(self) -> bool {
        matches!(
            self,
            Self::Succeeded | Self::Failed | Self::Cancelled | Self::Expired
        )
    }

    /// Whether a render may go from this state to another.
    pub const fn may_become(self, next: Self) -> bool {
        use RenderState::{Cancelled, Dispatched, Expired, Failed, Queued, Running, Succeeded};
        match self {
            Queued => matches!(next, Dispatched | Failed | Cancelled | Expired),
            // Back to QUEUED when its pool has gone.
            Dispatched => matches!(next, Queued | Running | Failed | Cancelled | Expired),
            // Back to QUEUED after a transient failure, a lost lease or a hand-back.
            Running => matches!(next, Queued | Succeeded | Failed | Cancelled | Expired),
            Succeeded | Failed | Cancelled | Expired => false,
        }
    }
}

text_enum! {
    /// The life of a photo.
    PhotoState ("photo state") {
        /// Waiting for an enrolment worker.
        Pending = "PENDING",
        /// A worker holds its lease.
        Running = "RUNNING",
        /// Its coefficients are stored.
        Accepted = "ACCEPTED",
        /// Refused for what it shows.
        Rejected = "REJECTED",
        /// Given up after repeated faults of the service.
        Failed = "FAILED",
    }
}

impl PhotoState {
    /// Whether the photo's life is over.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Accepted | Self::Rejected | Self::Failed)
    }

    /// Whether a photo may go from this state to another.
    pub const fn may_become(self, next: Self) -> bool {
        match self {
            Self::Pending => matches!(next, Self::Running | Self::Failed),
            Self::Running => {
                matches!(
                    next,
                    Self::Pending | Self::Accepted | Self::Rejected | Self::Failed
                )
            }
            Self::Accepted | Self::Rejected | Self::Failed => false,
        }
    }
}

text_enum! {
    /// Where an identity stands; it follows from its photos.
    IdentityState ("identity state") {
        /// No photo, or none that counts.
        Empty = "EMPTY",
        /// Photos wait and none is accepted.
        Enrolling = "ENROLLING",
        /// At least one photo is accepted.
        Ready = "READY",
    }
}

/// An identity's photos by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PhotoCounts {
    /// PENDING or RUNNING.
    pub pending: u32,
    /// ACCEPTED.
    pub accepted: u32,
    /// REJECTED.
    pub rejected: u32,
    /// FAILED.
    pub failed: u32,
}

impl PhotoCounts {
    /// The identity's state that follows.
    pub const fn identity_state(self) -> IdentityState {
        match self {
            Self { accepted: 1.., .. } => IdentityState::Ready,
            Self { pending: 1.., .. } => IdentityState::Enrolling,
            _ => IdentityState::Empty,
        }
    }
}

text_enum! {
    /// How one attempt at a render ended.
    AttemptOutcome ("attempt outcome") {
        /// Its images are the render's.
        Succeeded = "SUCCEEDED",
        /// The worker reported a failure.
        Failed = "FAILED",
        /// It stopped because the render was cancelled.
        Cancelled = "CANCELLED",
        /// Its lease lapsed.
        Lost = "LOST",
        /// The worker gave it back unharmed.
        HandedBack = "HANDED_BACK",
        /// The render's `expire_time` passed.
        Expired = "EXPIRED",
    }
}

text_enum! {
    /// Whether a tenant may work.
    TenantState ("tenant state") {
        /// As usual.
        Active = "ACTIVE",
        /// Its keys are refused; what it queued waits.
        Suspended = "SUSPENDED",
    }
}

text_enum! {
    /// What a worker does.
    WorkerKind ("worker kind") {
        /// Makes images.
        Render = "RENDER",
        /// Enrols photos.
        Enroll = "ENROLL",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leaves_a_terminal_state() {
        for from in RenderState::ALL.iter().filter(|s| s.is_terminal()) {
            assert!(RenderState::ALL.iter().all(|to| !from.may_become(*to)));
        }
        for from in PhotoState::ALL.iter().filter(|s| s.is_terminal()) {
            assert!(PhotoState::ALL.iter().all(|to| !from.may_become(*to)));
        }
    }

    #[test]
    fn every_living_state_can_reach_an_end() {
        for from in RenderState::ALL.iter().filter(|s| !s.is_terminal()) {
            assert!(from.may_become(RenderState::Expired), "{from}");
        }
        for from in PhotoState::ALL.iter().filter(|s| !s.is_terminal()) {
            assert!(from.may_become(PhotoState::Failed), "{from}");
        }
    }

    #[test]
    fn a_render_runs_only_after_it_was_dispatched() {
        assert!(!RenderState::Queued.may_become(RenderState::Running));
        assert!(!RenderState::Queued.may_become(RenderState::Succeeded));
        assert!(!RenderState::Dispatched.may_become(RenderState::Succeeded));
    }

    #[test]
    fn one_accepted_photo_makes_an_identity_ready() {
        let counts = PhotoCounts {
            pending: 1,
            rejected: 2,
            ..Default::default()
        };
        assert_eq!(counts.identity_state(), IdentityState::Enrolling);
        assert_eq!(
            PhotoCounts {
                accepted: 1,
                ..counts
            }
            .identity_state(),
            IdentityState::Ready
        );
        assert_eq!(
            PhotoCounts {
                pending: 0,
                ..counts
            }
            .identity_state(),
            IdentityState::Empty
        );
    }

    #[test]
    fn states_survive_their_text() {
        for state in RenderState::ALL {
            assert_eq!(state.as_str().parse(), Ok(*state));
        }
        assert!("NOPE".parse::<PhotoState>().is_err());
    }
}
