//! Requests and their answers through a real NATS.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper of a test fails the test"
)]

mod common;

use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::{Fixture, LONG, SHORT, connect, render};
use likeness_domain::coefficients::Coefficients;
use likeness_queue::{
    CoefficientsReply, CoefficientsRequest, Endpoint, Queue, QueueError, Refusal, RenewReply,
    RenewRequest, ServiceError,
};
use tokio::{sync::Notify, task::JoinHandle};
use tokio_util::sync::CancellationToken;

fn renew(attempt: u32) -> RenewRequest {
    RenewRequest {
        render: render(1),
        attempt,
        worker: "w".to_owned(),
    }
}

const HELD: RenewReply = RenewReply::Held {
    lease_seconds: 30,
    cancel: false,
};

struct Served {
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), QueueError>>,
}

/// Serves renewals and returns once they are answered; attempt 0 is the probe for that.
async fn serve<H, Fut>(queue: &Queue, concurrency: usize, handler: H) -> Served
where
    H: Fn(u32) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<RenewReply, ServiceError>> + Send + 'static,
{
    let handler = Arc::new(handler);
    let shutdown = CancellationToken::new();
    let (queue, stop) = (queue.clone(), shutdown.clone());
    let endpoint = queue.subjects().renew();
    let asker = queue.clone();
    let task = tokio::spawn(async move {
        let concurrency = NonZeroUsize::new(concurrency).unwrap();
        queue
            .serve(
                &endpoint,
                "dispatch",
                concurrency,
                stop,
                move |request: RenewRequest| {
                    let handler = Arc::clone(&handler);
                    async move {
                        if request.attempt == 0 {
                            Ok(HELD)
                        } else {
                            handler(request.attempt).await
                        }
                    }
                },
            )
            .await
    });
    while let Err(error) = asker
        .request(&asker.subjects().renew(), &renew(0), LONG)
        .await
    {
        assert!(matches!(error, QueueError::NoResponders { .. }), "{error}");
        tokio::task::yield_now().await;
    }
    Served { shutdown, task }
}

impl Served {
    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }
}

async fn ask(queue: &Queue, attempt: u32) -> Result<RenewReply, QueueError> {
    queue
        .request(&queue.subjects().renew(), &renew(attempt), LONG)
        .await
}

#[tokio::test]
async fn every_failure_is_told_from_the_others() {
    let f = Fixture::new().await;
    let away = ask(&f.queue, 1).await.unwrap_err();
    assert!(
        matches!(away, QueueError::NoResponders { .. }) && away.is_retryable(),
        "{away}"
    );

    let served = serve(&f.queue, 8, |attempt| async move {
        match attempt {
            1 => Ok(RenewReply::Lost),
            2 => Err(ServiceError::bad_request("no such attempt")),
            3 => panic!("a fault of the handler"),
            _ => std::future::pending().await,
        }
    })
    .await;
    assert_eq!(ask(&f.queue, 1).await.unwrap(), RenewReply::Lost);
    let refused = ask(&f.queue, 2).await.unwrap_err();
    assert!(matches!(&refused, QueueError::Service(e) if e.message == "no such attempt"));
    assert!(!refused.is_retryable());
    let fault = ask(&f.queue, 3).await.unwrap_err();
    assert!(
        matches!(&fault, QueueError::Service(e) if e.reason == "INTERNAL"),
        "{fault}"
    );
    let late = f
        .queue
        .request(&f.queue.subjects().renew(), &renew(4), SHORT)
        .await
        .unwrap_err();
    assert!(
        matches!(late, QueueError::Timeout { .. }) && late.is_retryable(),
        "{late}"
    );
    assert_eq!(ask(&f.queue, 1).await.unwrap(), RenewReply::Lost);
    served.task.abort();
}

#[tokio::test]
async fn a_request_that_cannot_be_read_is_answered() {
    let f = Fixture::new().await;
    let served = serve(&f.queue, 1, |_| async { Ok(HELD) }).await;
    let subject = f.queue.subjects().renew().subject().to_owned();
    let answer = f
        .context
        .nats()
        .request(subject.clone(), "garbage".into())
        .await
        .unwrap();
    assert!(answer.headers.unwrap().get("Likeness-Error").is_some());
    assert!(
        std::str::from_utf8(&answer.payload)
            .unwrap()
            .contains("BAD_REQUEST")
    );
    // One without a place for the answer harms nothing.
    f.context
        .nats()
        .publish(subject, "garbage".into())
        .await
        .unwrap();
    assert_eq!(ask(&f.queue, 1).await.unwrap(), HELD);
    served.stop().await;
}

#[tokio::test]
async fn a_group_answers_each_request_once() {
    let f = Fixture::new().await;
    let handled = Arc::new(AtomicUsize::new(0));
    let other = connect(&f.context).await;
    let mut served = Vec::new();
    for queue in [&f.queue, &other] {
        let handled = Arc::clone(&handled);
        let count = move |_| {
            handled.fetch_add(1, Ordering::SeqCst);
            async { Ok(HELD) }
        };
        served.push(serve(queue, 4, count).await);
    }
    let asker = connect(&f.context).await;
    let asks = (1..=30).map(|attempt| ask(&asker, attempt));
    for answer in futures::future::join_all(asks).await {
        assert_eq!(answer.unwrap(), HELD);
    }
    for one in served {
        one.stop().await;
    }
    assert_eq!(handled.load(Ordering::SeqCst), 30);
}

#[tokio::test]
async fn what_was_asked_before_the_end_is_answered() {
    let f = Fixture::new().await;
    let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let handler = {
        let (begun, go_on) = (Arc::clone(&begun), Arc::clone(&go_on));
        move |_| {
            let (begun, go_on) = (Arc::clone(&begun), Arc::clone(&go_on));
            async move {
                begun.notify_one();
                go_on.notified().await;
                Ok(HELD)
            }
        }
    };
    let served = serve(&f.queue, 1, handler).await;
    let asker = f.queue.clone();
    let asked = tokio::spawn(async move { ask(&asker, 1).await });
    begun.notified().await;
    served.shutdown.cancel();
    // No more are taken once the drain has reached the server.
    while !matches!(
        ask_briefly(&f.queue).await,
        Err(QueueError::NoResponders { .. })
    ) {}
    go_on.notify_waiters();
    go_on.notify_one();
    assert_eq!(asked.await.unwrap().unwrap(), HELD);
    go_on.notify_one();
    served.task.abort();
}

async fn ask_briefly(queue: &Queue) -> Result<RenewReply, QueueError> {
    queue
        .request(
            &queue.subjects().renew(),
            &renew(9),
            Duration::from_millis(50),
        )
        .await
}

#[tokio::test]
async fn no_more_are_worked_on_than_allowed_and_the_rest_hear_of_it() {
    let f = Fixture::new().await;
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let handler = {
        let (running, most) = (Arc::clone(&running), Arc::clone(&most));
        move |attempt| {
            let (running, most) = (Arc::clone(&running), Arc::clone(&most));
            async move {
                if attempt == 99 {
                    return std::future::pending().await;
                }
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                running.fetch_sub(1, Ordering::SeqCst);
                Ok(HELD)
            }
        }
    };
    let served = serve(&f.queue, 2, handler).await;
    let asks = (1..=30).map(|attempt| ask(&f.queue, attempt));
    assert!(
        futures::future::join_all(asks)
            .await
            .iter()
            .all(Result::is_ok)
    );
    assert!(most.load(Ordering::SeqCst) <= 2);

    // Both turns are taken for good; who waits in vain is told that there is too much to do, or has gone.
    let blocked = (0..2).map(|_| {
        let queue = f.queue.clone();
        tokio::spawn(async move { ask(&queue, 99).await })
    });
    let blocked: Vec<_> = blocked.collect();
    loop {
        match ask_briefly(&f.queue).await {
            Ok(_) => tokio::task::yield_now().await,
            Err(error) => {
                assert!(error.is_retryable(), "{error}");
                break;
            }
        }
    }
    served.task.abort();
    blocked.iter().for_each(JoinHandle::abort);
}

#[tokio::test]
async fn released_coefficients_fit_one_answer() {
    let f = Fixture::new().await;
    let values = (0..1120 * 128)
        .map(|i| ((i % 255) as f32 - 127.0) / 128.0)
        .collect();
    let coefficients = Coefficients::new(1120, 128, values).unwrap();
    let endpoint: Endpoint<CoefficientsRequest, CoefficientsReply> =
        f.queue.subjects().coefficients();
    let (queue, stop) = (f.queue.clone(), CancellationToken::new());
    let (sent, shutdown) = (coefficients.clone(), stop.clone());
    let task = tokio::spawn(async move {
        let handler = move |request: CoefficientsRequest| {
            let reply = match request.set {
                0 => CoefficientsReply::Set(sent.clone()),
                _ => CoefficientsReply::Refused {
                    reason: Refusal::NoSuchSet,
                },
            };
            async move { Ok(reply) }
        };
        queue
            .serve(
                &queue.subjects().coefficients(),
                "g",
                NonZeroUsize::MIN,
                stop,
                handler,
            )
            .await
    });
    let request = |set| CoefficientsRequest {
        render: render(1),
        attempt: 1,
        set,
    };
    let answer = loop {
        match f.queue.request(&endpoint, &request(0), LONG).await {
            Err(QueueError::NoResponders { .. }) => tokio::task::yield_now().await,
            answer => break answer,
        }
    };
    assert_eq!(answer.unwrap(), CoefficientsReply::Set(coefficients));
    let refused = f.queue.request(&endpoint, &request(1), LONG).await.unwrap();
    assert_eq!(
        refused,
        CoefficientsReply::Refused {
            reason: Refusal::NoSuchSet
        }
    );
    shutdown.cancel();
    task.await.unwrap().unwrap();
}
