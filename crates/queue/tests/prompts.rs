//! Prompts through a real JetStream.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper of a test fails the test"
)]

mod common;

use common::{Fixture, LONG, SHORT, connect, pool, prompt};
use futures::{FutureExt as _, StreamExt as _};
use likeness_queue::{PhotoPrompt, Queue, QueueArgs};
use likeness_test_support::Servers;
use std::time::Duration;
use uuid::Uuid;

#[tokio::test]
async fn an_acknowledged_prompt_is_gone() {
    let f = Fixture::new().await;
    let pool = pool("pocket-cpu");
    f.queue.publish_render(&pool, &prompt(1, 1)).await.unwrap();
    let mut prompts = f.queue.render_prompts(&pool);
    let delivery = prompts.next(LONG).await.unwrap().unwrap();
    assert_eq!(*delivery.message(), prompt(1, 1));
    assert_eq!(delivery.delivered(), 1);
    delivery.in_progress().await.unwrap();
    delivery.ack().await.unwrap();
    assert!(prompts.next(SHORT).await.unwrap().is_none());
    let stream = f
        .jetstream()
        .get_stream(f.stream_name("RENDER"))
        .await
        .unwrap();
    assert_eq!(stream.cached_info().state.messages, 0);
}

#[tokio::test]
async fn one_publication_is_delivered_once_and_the_next_again() {
    let f = Fixture::new().await;
    let pool = pool("p");
    for publication in [1, 1, 2] {
        f.queue
            .publish_render(&pool, &prompt(1, publication))
            .await
            .unwrap();
    }
    let mut prompts = f.queue.render_prompts(&pool);
    for publication in [1, 2] {
        let delivery = prompts.next(LONG).await.unwrap().unwrap();
        assert_eq!(delivery.message().publication, publication);
        delivery.ack().await.unwrap();
    }
    // Its id is remembered even though the prompt is gone.
    f.queue.publish_render(&pool, &prompt(1, 2)).await.unwrap();
    assert!(prompts.next(SHORT).await.unwrap().is_none());
}

#[tokio::test]
async fn a_busy_worker_keeps_no_prompt_from_another() {
    let f = Fixture::new().await;
    let pool = pool("p");
    for number in 1..=3 {
        f.queue
            .publish_render(&pool, &prompt(number, 1))
            .await
            .unwrap();
    }
    let mut busy = f.queue.render_prompts(&pool);
    let held = busy.next(LONG).await.unwrap().unwrap();
    let other = connect(&f.context).await;
    let mut idle = other.render_prompts(&pool);
    for number in [2, 3] {
        let delivery = idle.next(LONG).await.unwrap().unwrap();
        assert_eq!(*delivery.message(), prompt(number, 1));
        delivery.ack().await.unwrap();
    }
    held.ack().await.unwrap();
}

#[tokio::test]
async fn a_prompt_handed_back_comes_again() {
    let f = Fixture::new().await;
    let pool = pool("p");
    f.queue.publish_render(&pool, &prompt(1, 1)).await.unwrap();
    let mut prompts = f.queue.render_prompts(&pool);
    prompts
        .next(LONG)
        .await
        .unwrap()
        .unwrap()
        .nak(Duration::ZERO)
        .await
        .unwrap();
    let again = prompts.next(LONG).await.unwrap().unwrap();
    assert_eq!(again.delivered(), 2);
    again.nak(Duration::from_mins(10)).await.unwrap();
    assert!(prompts.next(SHORT).await.unwrap().is_none());
}

#[tokio::test]
async fn pools_photos_and_namespaces_are_apart() {
    let (f, g) = tokio::join!(Fixture::new(), Fixture::new());
    let photo = PhotoPrompt {
        photo: Uuid::from_u128(1).into(),
        publication: 1,
    };
    f.queue
        .publish_render(&pool("a"), &prompt(1, 1))
        .await
        .unwrap();
    f.queue.publish_photo(&photo).await.unwrap();
    for nothing in [
        f.queue.render_prompts(&pool("b")),
        g.queue.render_prompts(&pool("a")),
    ] {
        let mut nothing = nothing;
        assert!(nothing.next(SHORT).await.unwrap().is_none());
    }
    assert!(g.queue.photo_prompts().next(SHORT).await.unwrap().is_none());
    let delivery = f.queue.photo_prompts().next(LONG).await.unwrap().unwrap();
    assert_eq!(*delivery.message(), photo);
    let mut prompts = f.queue.render_prompts(&pool("a"));
    assert_eq!(
        *prompts.next(LONG).await.unwrap().unwrap().message(),
        prompt(1, 1)
    );
}

#[tokio::test]
async fn what_cannot_be_read_is_kept_as_a_dead_letter() {
    let f = Fixture::new().await;
    let pool = pool("p");
    let subject = format!("{}.render.work.p", f.context.namespace());
    for bad in ["not json", r#"{"v":2,"render":"later"}"#] {
        f.jetstream()
            .publish(subject.clone(), bad.into())
            .await
            .unwrap()
            .await
            .unwrap();
    }
    f.queue.publish_render(&pool, &prompt(1, 1)).await.unwrap();
    let mut prompts = f.queue.render_prompts(&pool);
    let delivery = prompts.next(LONG).await.unwrap().unwrap();
    assert_eq!(*delivery.message(), prompt(1, 1));
    delivery.ack().await.unwrap();

    let dead = f
        .jetstream()
        .get_stream(f.stream_name("DEAD"))
        .await
        .unwrap();
    assert_eq!(dead.cached_info().state.messages, 2);
    let letter = dead.get_raw_message(2).await.unwrap();
    assert_eq!(letter.payload.as_ref(), br#"{"v":2,"render":"later"}"#);
    assert_eq!(
        letter.headers.get("Likeness-Subject").unwrap().as_str(),
        subject
    );
    assert!(
        letter
            .headers
            .get("Likeness-Cause")
            .unwrap()
            .as_str()
            .contains("version 2")
    );
    let work = f
        .jetstream()
        .get_stream(f.stream_name("RENDER"))
        .await
        .unwrap();
    assert_eq!(work.cached_info().state.messages, 0);
}

#[tokio::test]
async fn a_wait_that_was_dropped_loses_nothing() {
    let f = Fixture::new().await;
    let pool = pool("p");
    let mut prompts = f.queue.render_prompts(&pool);
    for number in 1..=5 {
        // The pull is out when the wait is dropped.
        assert!(prompts.next(SHORT).await.unwrap().is_none());
        let mut wait = Box::pin(prompts.next(LONG));
        assert!(tokio::time::timeout(SHORT, wait.as_mut()).await.is_err());
        drop(wait);
        f.queue
            .publish_render(&pool, &prompt(number, 1))
            .await
            .unwrap();
        let delivery = prompts.next(LONG).await.unwrap().unwrap();
        assert_eq!(
            (*delivery.message(), delivery.delivered()),
            (prompt(number, 1), 1)
        );
        delivery.ack().await.unwrap();
    }
}

/// Deletes the streams behind the queue's back, as a wiped server would have none.
async fn wipe(f: &Fixture) {
    for stream in ["RENDER", "PHOTO", "DEAD"] {
        f.jetstream()
            .delete_stream(f.stream_name(stream))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn lost_streams_are_made_again() {
    let f = Fixture::new().await;
    let pool = pool("p");
    let mut prompts = f.queue.render_prompts(&pool);
    assert!(prompts.next(SHORT).await.unwrap().is_none());
    wipe(&f).await;
    f.queue.publish_render(&pool, &prompt(1, 1)).await.unwrap();
    prompts
        .next(LONG)
        .await
        .unwrap()
        .unwrap()
        .ack()
        .await
        .unwrap();
    wipe(&f).await;
    assert!(prompts.next(SHORT).await.unwrap().is_none());

    // While a worker waits: it notices, makes them and goes on waiting.
    let mut wait = Box::pin(prompts.next(LONG));
    assert!(wait.as_mut().now_or_never().is_none());
    wipe(&f).await;
    let second = prompt(2, 1);
    let publish = f.queue.publish_render(&pool, &second);
    let (delivery, published) = tokio::join!(wait, publish);
    published.unwrap();
    assert_eq!(*delivery.unwrap().unwrap().message(), second);
}

#[tokio::test]
async fn a_waiting_worker_outlives_the_server() {
    let servers = tokio::task::spawn_blocking(Servers::start)
        .await
        .unwrap()
        .unwrap();
    let args = QueueArgs::new(servers.nats_url(), "restart".parse().unwrap());
    let queue = Queue::connect(&args).await.unwrap();
    queue.ensure_streams().await.unwrap();
    let pool = pool("p");
    queue.publish_render(&pool, &prompt(1, 1)).await.unwrap();
    let mut prompts = queue.render_prompts(&pool);
    prompts
        .next(LONG)
        .await
        .unwrap()
        .unwrap()
        .ack()
        .await
        .unwrap();

    let waiting = tokio::spawn(async move {
        // As a worker does: an error is only a reason to ask again.
        loop {
            match prompts.next(Duration::from_mins(1)).await {
                Ok(delivery) => return delivery.unwrap(),
                Err(error) => assert!(error.is_retryable(), "{error}"),
            }
        }
    });
    let servers = tokio::task::spawn_blocking(move || {
        let nats = &servers.stack().unwrap().nats;
        nats.kill();
        nats.restart().unwrap();
        servers
    });
    let servers = servers.await.unwrap();
    while let Err(error) = queue.publish_render(&pool, &prompt(2, 1)).await {
        assert!(error.is_retryable(), "{error}");
    }
    // Well before the sixty seconds of the pull that the server has forgotten.
    let delivery = tokio::time::timeout(LONG, waiting).await.unwrap().unwrap();
    assert_eq!(*delivery.message(), prompt(2, 1));
    delivery.ack().await.unwrap();
    assert!(queue.is_connected());
    tokio::task::spawn_blocking(move || drop(servers))
        .await
        .unwrap();
}

#[tokio::test]
async fn many_workers_share_the_prompts() {
    let f = Fixture::new().await;
    let pool = pool("p");
    let workers = (0..4).map(|_| {
        let mut prompts = f.queue.render_prompts(&pool);
        tokio::spawn(async move {
            let mut taken = Vec::new();
            while let Some(delivery) = prompts.next(Duration::from_secs(2)).await.unwrap() {
                taken.push(delivery.message().render);
                delivery.ack().await.unwrap();
            }
            taken
        })
    });
    let workers: Vec<_> = workers.collect();
    let published = futures::stream::iter(1..=40)
        .map(|number| {
            let (queue, pool) = (&f.queue, &pool);
            async move { queue.publish_render(pool, &prompt(number, 1)).await }
        })
        .buffer_unordered(10)
        .collect::<Vec<_>>()
        .await;
    assert!(published.iter().all(Result::is_ok));
    let mut taken = Vec::new();
    for worker in workers {
        taken.extend(worker.await.unwrap());
    }
    taken.sort();
    assert_eq!(taken, (1..=40).map(common::render).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_server_that_is_not_there_is_a_clear_error() {
    let args = QueueArgs::new("nats://user:SECRET@127.0.0.1:1", "x".parse().unwrap());
    let error = anyhow::Error::from(Queue::connect(&args).await.unwrap_err());
    assert!(error.to_string().contains("--nats-url"), "{error}");
    assert!(!format!("{error:#} {args:?}").contains("SECRET"));
}
