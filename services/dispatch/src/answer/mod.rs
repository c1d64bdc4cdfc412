//! Answers to workers. Any instance gives them: what decides is in Postgres.

mod claim;
mod coefficients;
mod finish;
mod hello;
mod renew;

pub use claim::claim;
pub use coefficients::coefficients;
pub use finish::finish;
pub use hello::hello;
pub use renew::renew;

use likeness_domain::Error;

/// A number of a message as the registry counts.
fn signed(field: &'static str, number: u32) -> Result<i32, Error> {
    i32::try_from(number).map_err(|_| Error::invalid_field(field, "expected a smaller number"))
}

/// A number of the registry as messages count.
fn unsigned(number: i32) -> u32 {
    u32::try_from(number).unwrap_or(0)
}
