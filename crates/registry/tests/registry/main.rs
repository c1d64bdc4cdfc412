//! Tenants, keys, identities, photos and what belongs to them, on a real Postgres.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod coefficients;
mod embeddings;
mod erasing;
mod identities;
mod keys;
mod migrations;
mod photo_queue;
mod photos;
mod requests;
mod sliders;
mod tenants;
mod world;
