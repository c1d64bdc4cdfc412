//! The gRPC front: authenticates, validates, reads and writes the registry, takes photos in, presigns downloads and
//! streams progress. It never loads a model.

mod admin;
mod app;
mod auth;
mod consent;
mod events;
mod identity;
mod render;
mod replay;
mod reply;
mod server;
mod slider;

pub use app::{App, Limits};
pub use auth::OperatorKey;
pub use server::{ApiArgs, Server};
