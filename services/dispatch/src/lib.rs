//! The queue's rules at work: a leader admits queued renders fairly into JetStream, settles what is overdue and erases
//! what is orphaned; every instance answers claims, renewals and finishes. It never loads a model.

mod answer;
mod events;
mod lead;
mod policy;
mod server;
mod webhooks;

pub use answer::finish;
pub use policy::Policy;
pub use server::{Dispatch, DispatchArgs};
