//! Commands of operators.

mod keys;
mod queue;
mod tenants;

pub use keys::{KeysCommand, keys};
pub use queue::{QueueCommand, WorkersCommand, queue, workers};
pub use tenants::{TenantsCommand, tenants};
