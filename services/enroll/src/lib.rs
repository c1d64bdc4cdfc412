//! Enrolment: claims photos, runs the face and encoder models, stores coefficients. It serves no client.

mod claim;
mod engine;
mod hello;
mod server;

pub use engine::{Engine, Enrolled, Verdict};
pub use server::{Enroll, EnrollArgs};
