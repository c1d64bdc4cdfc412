//! Hints over core NATS: something changed, look again. Nothing relies on them; whoever waits also polls.

use likeness_domain::{IdentityId, RenderId, RenderState};
use likeness_queue::{IdentityEvent, QueueError, RenderEvent, Wake};

use crate::server::Dispatch;

/// Tells watchers that a render changed.
pub async fn render_changed(dispatch: &Dispatch, render: RenderId, state: RenderState) {
    let topic = dispatch.queue.subjects().render_event(render);
    ignore(
        dispatch
            .queue
            .publish_event(&topic, &RenderEvent { state })
            .await,
    );
}

/// Tells watchers that an identity's photos changed.
pub async fn identity_changed(dispatch: &Dispatch, identity: IdentityId) {
    let topic = dispatch.queue.subjects().identity_event(identity);
    ignore(
        dispatch
            .queue
            .publish_event(&topic, &IdentityEvent {})
            .await,
    );
}

/// Tells the leader that there may be room or work.
pub async fn wake(dispatch: &Dispatch) {
    let topic = dispatch.queue.subjects().dispatch_wake();
    ignore(dispatch.queue.publish_event(&topic, &Wake {}).await);
}

fn ignore(result: Result<(), QueueError>) {
    if let Err(error) = result {
        tracing::debug!(%error, "a hint was not sent");
    }
}
