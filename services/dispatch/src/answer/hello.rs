//! A worker says that it is there, and what it serves.

use likeness_domain::Error;
use likeness_queue::{Hello, HelloReply};
use likeness_registry::{
    bundles,
    workers::{self, Presence},
};

use crate::{events, server::Dispatch};

/// Registers the worker with its bundle and its pool.
pub async fn hello(dispatch: Dispatch, hello: Hello) -> Result<HelloReply, Error> {
    let now = dispatch.clock.now();
    let mut tx = dispatch.begin().await?;
    if let (Some(bundle), Some(pool)) = (&hello.bundle, &hello.pool) {
        bundles::announce(&mut tx, bundle, now).await?;
        let class = &hello.device_class;
        bundles::ensure_pool(&mut tx, pool.as_str(), &bundle.digest, class, now).await?;
    }
    let drain = workers::seen(&mut tx, &presence(hello), now).await?;
    dispatch.commit(tx).await?;
    // A new worker is room for admission.
    events::wake(&dispatch).await;
    Ok(HelloReply { drain })
}

fn presence(hello: Hello) -> Presence {
    Presence {
        id: hello.worker,
        kind: hello.kind,
        pool: hello.pool.map(|pool| pool.as_str().to_owned()),
        device: hello.device,
        version: hello.version,
        draining: hello.draining,
        started_at: hello.started_at,
    }
}
