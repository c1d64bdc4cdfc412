//! A queue of a test's own namespace.

#![allow(dead_code, reason = "each test file uses a part")]

use std::time::Duration;

use likeness_domain::RenderId;
use likeness_queue::{PoolName, Queue, QueueArgs, RenderPrompt};
use likeness_test_support::TestContext;
use uuid::Uuid;

/// Longer than anything here takes, so that a hang fails the test.
pub const LONG: Duration = Duration::from_secs(20);
/// For what is expected not to come.
pub const SHORT: Duration = Duration::from_millis(300);

pub struct Fixture {
    pub context: TestContext,
    pub queue: Queue,
}

impl Fixture {
    pub async fn new() -> Self {
        let context = Box::pin(TestContext::new()).await.unwrap();
        let queue = connect(&context).await;
        queue.ensure_streams().await.unwrap();
        Self { context, queue }
    }

    /// The namespace's streams, for a look behind the queue's back.
    pub fn jetstream(&self) -> async_nats::jetstream::Context {
        async_nats::jetstream::new(self.context.nats().clone())
    }

    pub fn stream_name(&self, stream: &str) -> String {
        format!("{}_{stream}", self.context.namespace().to_uppercase())
    }
}

pub async fn connect(context: &TestContext) -> Queue {
    let namespace = context.namespace().parse().unwrap();
    Queue::connect(&QueueArgs::new(context.nats_url(), namespace))
        .await
        .unwrap()
}

pub fn pool(name: &str) -> PoolName {
    name.parse().unwrap()
}

pub fn render(number: u128) -> RenderId {
    Uuid::from_u128(number).into()
}

pub fn prompt(number: u128, publication: u32) -> RenderPrompt {
    RenderPrompt {
        render: render(number),
        publication,
        alone: false,
    }
}
