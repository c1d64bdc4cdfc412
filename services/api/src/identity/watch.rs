//! Following an identity and its photos.

use std::{collections::HashMap, pin::Pin, time::Duration};

use futures::{Stream, StreamExt};
use likeness_domain::{Error, PhotoId, PhotoState, TenantId, names::IdentityName, page::Page};
use likeness_queue::IdentityEvent;
use likeness_registry::{
    acquire,
    identities::{self, Identity},
    photos::{self, Photo},
};
use likeness_wire::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::convert;
use crate::{app::App, reply::refuse};

/// How often to look without a hint: hints can be lost.
const POLL: Duration = Duration::from_secs(2);
/// A watcher this far behind waits for itself only.
const BUFFER: usize = 8;
/// Photos looked at of one identity.
const PHOTOS: u32 = 1000;

type Messages = Pin<Box<dyn Stream<Item = Result<v1::WatchIdentityResponse, Status>> + Send>>;

/// Starts following an identity.
pub async fn start(
    app: App,
    tenant: TenantId,
    name: &str,
    drain: CancellationToken,
) -> Result<Messages, Error> {
    let name = convert::own_identity(tenant, "name", name)?;
    // Subscribed before the first look, so that no change falls between the two.
    let subject = app.queue.subjects().identity_event(name.identity);
    let hints = app.queue.subscribe::<IdentityEvent>(&subject).await?;
    let mut watch = Watch {
        app,
        name,
        identity: None,
        photos: HashMap::new(),
    };
    let first = watch.news().await?;
    let (sender, receiver) = mpsc::channel(BUFFER);
    tokio::spawn(follow(watch, first, hints, sender, drain));
    Ok(Box::pin(ReceiverStream::new(receiver)))
}

async fn follow(
    mut watch: Watch,
    first: Option<v1::WatchIdentityResponse>,
    hints: impl Stream + Unpin + Send,
    sender: mpsc::Sender<Result<v1::WatchIdentityResponse, Status>>,
    drain: CancellationToken,
) {
    let mut hints = hints.fuse();
    let mut news = Ok(first);
    loop {
        let ended = news.is_err();
        if let Some(message) = news.map_err(refuse).transpose()
            && sender.send(message).await.is_err()
        {
            return;
        }
        if ended {
            return;
        }
        tokio::select! {
            () = drain.cancelled() => return,
            () = sender.closed() => return,
            Some(_) = hints.next() => {}
            () = tokio::time::sleep(POLL) => {}
        }
        news = watch.news().await;
    }
}

/// What a watcher has been told.
struct Watch {
    app: App,
    name: IdentityName,
    identity: Option<v1::Identity>,
    photos: HashMap<PhotoId, PhotoState>,
}

impl Watch {
    /// What has changed since the message before, if anything.
    async fn news(&mut self) -> Result<Option<v1::WatchIdentityResponse>, Error> {
        let (row, photos) = look(&self.app, self.name).await?;
        let identity = Some(convert::identity(&row));
        let changed: Vec<&Photo> = photos
            .iter()
            .filter(|photo| self.photos.get(&photo.id) != Some(&photo.state))
            .collect();
        if identity == self.identity && changed.is_empty() {
            return Ok(None);
        }
        let message = v1::WatchIdentityResponse {
            identity: identity.clone(),
            photos: changed.iter().map(|photo| convert::photo(photo)).collect(),
        };
        self.identity = identity;
        self.photos = photos.iter().map(|photo| (photo.id, photo.state)).collect();
        Ok(Some(message))
    }
}

async fn look(app: &App, name: IdentityName) -> Result<(Identity, Vec<Photo>), Error> {
    let mut conn = acquire(&app.pool).await?;
    let identity = identities::get(&mut conn, name.tenant, name.identity).await?;
    let page = Page {
        size: PHOTOS,
        after: None,
    };
    let photos = photos::list(&mut conn, name.tenant, name.identity, &page).await?;
    Ok((identity, photos))
}
