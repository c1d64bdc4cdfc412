//! IdentityService.

mod convert;
mod identities;
mod photos;
mod service;
mod upload;
mod watch;

pub use convert::{own_identity, version_from};
pub use service::Identities;
