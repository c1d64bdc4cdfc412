//! RenderService.

mod convert;
mod create;
mod renders;
mod service;
mod start;
mod watch;

pub use service::Renders;
