//! The main job through every real part: real Postgres, NATS and S3, every service, the gRPC contract.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod access;
mod batches;
mod cancel;
mod command_line;
mod contract;
mod crashes;
mod dev;
mod enrolment;
mod main_job;
mod options;
mod process;
mod python;
mod queue;
mod sliders;
mod stage;
mod versions;
mod watching;
