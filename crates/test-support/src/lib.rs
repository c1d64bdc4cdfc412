//! What integration tests stand on: real Postgres, NATS and S3 with a part of their own for each
//! test, the built `likeness` program, a clock to set, and small pictures.
//!
//! ```no_run
//! # async fn test() -> anyhow::Result<()> {
//! let context = likeness_test_support::TestContext::new().await?;
//! // context.pool(), context.database_url(), context.nats(), context.namespace(), context.s3()
//! # Ok(())
//! # }
//! ```

mod binary;
mod clock;
mod context;
mod database;
pub mod env;
pub mod history;
mod objects;
mod pictures;
pub mod rows;
mod servers;

pub use binary::likeness_binary;
pub use clock::MockClock;
pub use context::TestContext;
pub use objects::S3Access;
pub use pictures::{fixture, jpeg, png};
pub use servers::Servers;
