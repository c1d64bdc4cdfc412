//! AdminService.

mod convert;
mod keys;
mod queue;
mod service;
mod tenants;

pub use service::Admin;
