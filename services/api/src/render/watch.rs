//! Following a render: states from Postgres, progress and previews from core NATS.

use std::{pin::Pin, time::Duration};

use futures::{Stream, StreamExt};
use likeness_domain::{Error, RenderState, TenantId, names::RenderName};
use likeness_queue::{Progress, RenderEvent};
use likeness_registry::{acquire, renders};
use likeness_wire::{render as wire, v1};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use v1::watch_render_response::Event;

use super::convert;
use crate::{app::App, reply::refuse};

/// How often to look without a hint: hints can be lost.
const POLL: Duration = Duration::from_secs(1);
/// A watcher this far behind loses progress, never a state.
const BUFFER: usize = 32;

type Messages = Pin<Box<dyn Stream<Item = Result<v1::WatchRenderResponse, Status>> + Send>>;
type Sender = mpsc::Sender<Result<v1::WatchRenderResponse, Status>>;

/// Starts following a render.
pub async fn start(
    app: App,
    tenant: TenantId,
    request: &v1::WatchRenderRequest,
    drain: CancellationToken,
) -> Result<Messages, Error> {
    let name = convert::own_render(tenant, &request.name)?;
    // Subscribed before the first look, so that no change falls between the two.
    let subjects = app.queue.subjects();
    let hints = app
        .queue
        .subscribe::<RenderEvent>(&subjects.render_event(name.render))
        .await?;
    let progress = app
        .queue
        .subscribe::<Progress>(&subjects.render_progress(name.render))
        .await?;
    let mut watch = Watch {
        app,
        name,
        told: None,
    };
    let first = watch.news().await?;
    let (sender, receiver) = mpsc::channel(BUFFER);
    let previews = !request.without_previews;
    tokio::spawn(async move {
        let follow = watch.follow(first, hints, progress, &sender, previews);
        tokio::select! {
            () = drain.cancelled() => {}
            () = sender.closed() => {}
            result = follow => if let Err(error) = result {
                let _ = sender.send(Err(refuse(error))).await;
            }
        }
    });
    Ok(Box::pin(ReceiverStream::new(receiver)))
}

/// What a watcher has been told.
struct Watch {
    app: App,
    name: RenderName,
    told: Option<(RenderState, u32, bool)>,
}

impl Watch {
    /// Sends what happens until the last state has been sent.
    async fn follow(
        &mut self,
        first: Option<v1::Render>,
        mut hints: impl Stream<Item = RenderEvent> + Unpin,
        mut progress: impl Stream<Item = Progress> + Unpin,
        sender: &Sender,
        previews: bool,
    ) -> Result<(), Error> {
        let mut news = first;
        loop {
            if let Some(render) = news.take() {
                send(sender, Event::Render(render)).await;
            }
            if self.is_over() {
                return Ok(());
            }
            tokio::select! {
                Some(_) = hints.next() => news = self.news().await?,
                Some(step) = progress.next() => {
                    if self.is_behind(&step) {
                        news = self.news().await?;
                    }
                    if let Some(render) = news.take() {
                        send(sender, Event::Render(render)).await;
                    }
                    self.forward(&step, sender, previews);
                }
                () = tokio::time::sleep(POLL) => news = self.news().await?,
            }
        }
    }

    /// The render, where its state, attempt or cancelling is not what the watcher was told.
    async fn news(&mut self) -> Result<Option<v1::Render>, Error> {
        let mut conn = acquire(&self.app.pool).await?;
        let row = renders::get(&mut conn, self.name.tenant, self.name.render).await?;
        drop(conn);
        let attempt = u32::try_from(row.attempt).unwrap_or(0);
        let now = Some((row.state, attempt, row.cancel_requested_at.is_some()));
        if now == self.told {
            return Ok(None);
        }
        let render = convert::render(&self.app, &row).await?;
        self.told = now;
        Ok(Some(render))
    }

    fn is_over(&self) -> bool {
        self.told.is_some_and(|(state, ..)| state.is_terminal())
    }

    /// Whether progress comes from an attempt that the watcher has not heard of yet.
    fn is_behind(&self, step: &Progress) -> bool {
        self.told
            .is_none_or(|(_, attempt, _)| attempt < step.attempt)
    }

    /// Passes progress of the present attempt on, unless the watcher is behind.
    fn forward(&self, step: &Progress, sender: &Sender, previews: bool) {
        if self
            .told
            .is_none_or(|(_, attempt, _)| attempt != step.attempt)
        {
            return;
        }
        let progress = wire::progress(step.progress);
        drop_if_full(sender, Event::Progress(progress));
        if let Some(preview) = step.preview.as_ref().filter(|_| previews) {
            let preview = v1::RenderPreview {
                progress: Some(progress),
                image: preview.bytes.clone().into(),
                content_type: preview.content_type.clone(),
            };
            drop_if_full(sender, Event::Preview(preview));
        }
    }
}

async fn send(sender: &Sender, event: Event) {
    // A watcher that has gone is noticed by the caller.
    let _ = sender
        .send(Ok(v1::WatchRenderResponse { event: Some(event) }))
        .await;
}

fn drop_if_full(sender: &Sender, event: Event) {
    let _ = sender.try_send(Ok(v1::WatchRenderResponse { event: Some(event) }));
}
