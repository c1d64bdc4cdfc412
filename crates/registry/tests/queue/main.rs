//! The queue's rules, on a real Postgres.

mod admission;
mod cancelling;
mod claims;
mod finishing;
mod leading;
mod placing;
mod reading;
mod sweeps;
mod transitions;
mod world;
