//! The registry: SQL as plain functions over a connection, rows turned into the domain's words, and the sealing of
//! coefficients and face embeddings.
//!
//! The caller owns the transaction: a function that changes more than one row says so by taking the connection of
//! one. Time and ids are passed in; no statement reads the database's own clock. Every failure is a
//! [`likeness_domain::Error`]. A row that cannot be read is an internal error that names its table, column and id and
//! never its contents.

pub mod bundles;
pub mod coefficients;
pub mod embeddings;
pub mod erasures;
pub mod error;
pub mod idempotency;
pub mod identities;
pub mod keys;
pub mod leaders;
pub mod photos;
mod pool;
pub mod renders;
pub mod sealing;
pub mod sliders;
pub mod stats;
pub mod tenants;
pub mod usage;
pub mod workers;

pub use pool::{acquire, begin, check_migrated, commit, connect, migrate};
pub use sealing::{KeyRing, KeyRingError, SealedCoefficients, SealedEmbedding, SealingContext};
pub use sqlx::{PgConnection, PgPool, Postgres, Transaction};
