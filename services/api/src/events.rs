//! Hints over core NATS: something changed, look again. Nothing relies on them; whoever waits also polls.

use likeness_domain::{IdentityId, RenderId, RenderState};
use likeness_queue::{CancelNotice, IdentityEvent, QueueError, RenderEvent, Wake};

use crate::app::App;

/// Tells the dispatchers that there may be work.
pub async fn wake_dispatch(app: &App) {
    let subject = app.queue.subjects().dispatch_wake();
    ignore(app.queue.publish_event(&subject, &Wake {}).await);
}

/// Tells watchers that a render changed.
pub async fn render_changed(app: &App, render: RenderId, state: RenderState) {
    let subject = app.queue.subjects().render_event(render);
    ignore(
        app.queue
            .publish_event(&subject, &RenderEvent { state })
            .await,
    );
}

/// Tells watchers that an identity or its photos changed.
pub async fn identity_changed(app: &App, identity: IdentityId) {
    let subject = app.queue.subjects().identity_event(identity);
    ignore(app.queue.publish_event(&subject, &IdentityEvent {}).await);
}

/// Tells the worker of a render to stop now rather than at its next renewal.
pub async fn cancel_requested(app: &App, render: RenderId) {
    let subject = app.queue.subjects().render_cancel(render);
    ignore(app.queue.publish_event(&subject, &CancelNotice {}).await);
}

fn ignore(result: Result<(), QueueError>) {
    if let Err(error) = result {
        tracing::debug!(%error, "a hint was not sent");
    }
}
