//! Every message, with the version beside its fields. Field names and texts are frozen by tests: services of two
//! versions read each other's.

mod announce;
mod coefficients;
mod event;
mod work;

pub use announce::{Hello, HelloReply};
pub use coefficients::{CoefficientsReply, CoefficientsRequest, Set};
pub use event::{CancelNotice, IdentityEvent, Preview, Progress, RenderEvent, Wake};
pub use work::{
    ClaimReply, ClaimRequest, FinishReply, FinishRequest, Grant, PhotoPrompt, Refusal,
    RenderPrompt, RenewReply, RenewRequest, Upload, WorkOutcome,
};

#[cfg(test)]
mod frozen;
