//! Says that this worker is there, and what it serves.

use std::time::Duration;

use likeness_domain::WorkerKind;
use likeness_queue::Hello;
use likeness_runtime::Lifecycle;
use tokio_util::sync::CancellationToken;

use crate::server::Render;

const INTERVAL: Duration = Duration::from_secs(5);
/// Until somebody has heard it for the first time.
const FIRST: Duration = Duration::from_millis(100);
const TIMEOUT: Duration = Duration::from_secs(2);

/// Announces the worker now and then, and once more when it drains.
pub fn spawn(render: &Render, lifecycle: &Lifecycle) {
    let (render, soft) = (render.clone(), lifecycle.soft().clone());
    lifecycle.spawn("hello", async move {
        // The bundle is announced once: the latest announcement decides what new renders use, so an old worker that
        // merely goes on must not outdo a new one.
        let mut heard = say(&render, &soft, false, true).await;
        loop {
            let pause = if heard { INTERVAL } else { FIRST };
            if soft
                .run_until_cancelled(tokio::time::sleep(pause))
                .await
                .is_none()
            {
                break;
            }
            heard |= say(&render, &soft, false, !heard).await;
        }
        say(&render, &soft, true, false).await;
        Ok(())
    });
}

/// Says it once, and stops softly where the answer asks for a drain.
async fn say(render: &Render, soft: &CancellationToken, draining: bool, with_bundle: bool) -> bool {
    let hello = Hello {
        worker: render.worker.clone(),
        kind: WorkerKind::Render,
        pool: Some(render.pool.clone()),
        device: render.compute.model.clone(),
        device_class: render.compute.class.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at: render.started_at,
        draining,
        bundle: with_bundle.then(|| render.bundle.clone()),
    };
    let endpoint = render.queue.subjects().hello();
    match render.queue.request(&endpoint, &hello, TIMEOUT).await {
        Ok(answer) => {
            if answer.drain && !draining {
                tracing::info!("asked to drain");
                soft.cancel();
            }
            true
        }
        Err(error) => {
            tracing::debug!(%error, "nobody heard the hello");
            false
        }
    }
}
