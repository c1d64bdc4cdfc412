//! The words of Likeness and their rules: ids, names, states and their transitions, render parameters,
//! coefficients, errors, the clock. No input or output, and no other crate of ours.

pub mod bundle;
pub mod clock;
pub mod coefficients;
pub mod embedding;
pub mod error;
pub mod ids;
pub mod key;
pub mod labels;
pub mod names;
pub mod page;
pub mod photo;
pub mod render;
pub mod states;
pub mod webhook;

pub use clock::{Clock, SharedClock, SystemClock};
pub use error::{Error, ErrorKind, FieldViolation};
pub use ids::{ApiKeyId, IdentityId, PhotoId, RenderId, SliderId, TenantId};
pub use labels::Labels;
pub use states::{AttemptOutcome, IdentityState, PhotoState, RenderState, TenantState, WorkerKind};
