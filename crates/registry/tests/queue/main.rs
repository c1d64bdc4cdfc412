//! The queue's rules, on a real Postgres.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a helper of a test fails the test"
)]

mod admission;
mod cancelling;
mod claims;
mod dead;
mod estimates;
mod finishing;
mod leading;
mod placing;
mod reading;
mod sliders;
mod sweeps;
mod transitions;
mod usage;
mod webhooks;
mod world;
