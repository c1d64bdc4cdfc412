//! NATS for the rest of Likeness: its subjects, streams and versioned messages, prompts and their acks, requests
//! and their answers, events, dead letters. No other crate sees async-nats.
//!
//! A message in a stream is only a prompt to claim something in Postgres: losing or repeating one harms nothing.

mod answer;
mod codec;
mod connection;
mod error;
mod event;
mod messages;
mod names;
mod prompts;
mod publish;
mod request;
mod streams;
pub mod subjects;

pub use codec::{CodecError, MESSAGE_VERSION, Message, Parcel};
pub use connection::{Queue, QueueArgs};
pub use error::{QueueError, ServiceError};
pub use event::Events;
pub use messages::*;
pub use names::{NameError, Namespace, PoolName};
pub use prompts::{Delivery, Prompts};
pub use subjects::{Endpoint, Subjects, Topic};
