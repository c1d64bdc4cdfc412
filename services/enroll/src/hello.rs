//! Says that this worker is there.

use std::time::Duration;

use likeness_domain::WorkerKind;
use likeness_queue::Hello;
use likeness_runtime::Lifecycle;
use tokio_util::sync::CancellationToken;

use crate::server::Enroll;

const INTERVAL: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(2);

/// Announces the worker now and then, and once more when it drains.
pub fn spawn(enroll: &Enroll, lifecycle: &Lifecycle) {
    let (enroll, soft) = (enroll.clone(), lifecycle.soft().clone());
    lifecycle.spawn("hello", async move {
        say(&enroll, &soft, false).await;
        while soft
            .run_until_cancelled(tokio::time::sleep(INTERVAL))
            .await
            .is_some()
        {
            say(&enroll, &soft, false).await;
        }
        say(&enroll, &soft, true).await;
        Ok(())
    });
}

/// Says it once, and stops softly where the answer asks for a drain.
async fn say(enroll: &Enroll, soft: &CancellationToken, draining: bool) {
    let hello = Hello {
        worker: enroll.worker.clone(),
        kind: WorkerKind::Enroll,
        pool: None,
        device: "cpu".to_owned(),
        device_class: "cpu".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at: enroll.started_at,
        draining,
        bundle: None,
    };
    let endpoint = enroll.queue.subjects().hello();
    match enroll.queue.request(&endpoint, &hello, TIMEOUT).await {
        Ok(answer) if answer.drain && !draining => {
            tracing::info!("asked to drain");
            soft.cancel();
        }
        Ok(_) => {}
        Err(error) => tracing::debug!(%error, "nobody heard the hello"),
    }
}
