//! The render worker: claims renders, synthesises, merges, samples, encodes, uploads, finishes. It holds no credential
//! of the database or the object storage, and no signing key: its claim gives it upload links.

mod attempt;
mod device;
mod engine;
mod hello;
mod intake;
mod server;
mod stop;

pub use device::{Compute, ComputeArgs};
pub use engine::{Engine, Failure, Job, Painted};
pub use server::{Render, RenderArgs};
pub use stop::{Stop, StopReason};
