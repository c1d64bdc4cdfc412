//! Events through a real NATS.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper of a test fails the test"
)]

mod common;

use common::{Fixture, LONG, connect, render};
use futures::StreamExt as _;
use likeness_domain::{RenderState, render::RenderProgress};
use likeness_queue::{Preview, Progress, RenderEvent, Wake};
use tokio::time::timeout;

#[tokio::test]
async fn whoever_listens_hears_all_that_follows() {
    let f = Fixture::new().await;
    let listener = connect(&f.context).await;
    let topic = f.queue.subjects().render_event(render(1));
    let mut before = f.queue.subscribe(&topic).await.unwrap();
    f.queue
        .publish_event(
            &topic,
            &RenderEvent {
                state: RenderState::Queued,
            },
        )
        .await
        .unwrap();
    // Only when the server has passed it on does it lie before what the others ask for.
    timeout(LONG, before.next()).await.unwrap().unwrap();
    let mut events = [
        listener.subscribe(&topic).await.unwrap(),
        f.queue.subscribe(&topic).await.unwrap(),
    ];
    let elsewhere = f.queue.subjects().render_event(render(2));
    f.queue
        .publish_event(
            &elsewhere,
            &RenderEvent {
                state: RenderState::Failed,
            },
        )
        .await
        .unwrap();
    let states = [RenderState::Running, RenderState::Succeeded];
    for state in states {
        f.queue
            .publish_event(&topic, &RenderEvent { state })
            .await
            .unwrap();
    }
    for events in &mut events {
        for state in states {
            let event = timeout(LONG, events.next()).await.unwrap().unwrap();
            assert_eq!(event, RenderEvent { state });
        }
    }
}

#[tokio::test]
async fn an_event_that_cannot_be_read_is_left_out() {
    let f = Fixture::new().await;
    let topic = f.queue.subjects().render_progress(render(1));
    let mut events = f.queue.subscribe(&topic).await.unwrap();
    for bad in ["", "{}", r#"{"v":9}"#] {
        f.context
            .nats()
            .publish(topic.subject().to_owned(), bad.into())
            .await
            .unwrap();
    }
    f.context.nats().flush().await.unwrap();
    let preview = Preview {
        content_type: "image/jpeg".to_owned(),
        bytes: vec![7; 20_000],
    };
    let progress = RenderProgress {
        image: 0,
        image_count: 1,
        step: 1,
        steps: 20,
    };
    let sent = Progress {
        attempt: 1,
        progress,
        preview: Some(preview),
    };
    f.queue.publish_event(&topic, &sent).await.unwrap();
    assert_eq!(timeout(LONG, events.next()).await.unwrap().unwrap(), sent);
}

#[tokio::test]
async fn an_event_without_a_listener_is_nothing() {
    let f = Fixture::new().await;
    let topic = f.queue.subjects().dispatch_wake();
    f.queue.publish_event(&topic, &Wake {}).await.unwrap();
    f.queue.flush().await.unwrap();
    assert!(f.queue.is_connected());
}
