//! RenderService.

mod convert;
mod create;
mod renders;
mod service;
mod watch;

pub use service::Renders;
