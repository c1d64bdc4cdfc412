//! Private Postgres, NATS and S3 servers on the local machine, for `likeness dev`, the demo and
//! the tests: finds or fetches their programs, starts them on free ports and ends them together.
//!
//! Everything here blocks; from async code call it through `spawn_blocking`. Without the feature
//! `servers` only [`tools`], [`slots`] and [`process`] are built, so that xtask stays quick to
//! compile.

pub mod lock;
pub mod process;
pub mod slots;
pub mod tools;

#[cfg(feature = "servers")]
mod account;
#[cfg(feature = "servers")]
mod nats;
#[cfg(feature = "servers")]
mod postgres;
#[cfg(feature = "servers")]
mod random;
#[cfg(feature = "servers")]
mod s3;
#[cfg(feature = "servers")]
mod server;
#[cfg(feature = "servers")]
mod stack;

#[cfg(feature = "servers")]
pub use nats::Nats;
#[cfg(feature = "servers")]
pub use postgres::{Fsync, Postgres};
#[cfg(feature = "servers")]
pub use s3::{Credentials, S3};
#[cfg(feature = "servers")]
pub use stack::Stack;
