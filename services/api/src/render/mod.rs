//! RenderService.

mod batch;
mod check;
mod convert;
mod create;
mod estimate;
mod intake;
mod quota;
mod renders;
mod service;
mod sources;
mod start;
mod watch;

pub use convert::render as render_as_sent;
pub use intake::Intake;
pub use service::Renders;
