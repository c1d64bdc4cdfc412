//! Watches that outlive an api, and watchers that read nothing.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use likeness_api::{ApiArgs, Server};
use likeness_runtime::Lifecycle;
use likeness_wire::v1::{self, watch_render_response::Event};

use crate::{
    process::free_address,
    stage::{App, PATIENCE, Stage, astronaut, eventually, is_over, small},
};

/// An api of the stage's servers at an address that a later one takes over.
async fn api_at(stage: &Stage, listen: SocketAddr) -> Result<Lifecycle> {
    let lifecycle = stage.lifecycle.child();
    let args = ApiArgs {
        listen,
        ..stage.settings.api()
    };
    // The one before may still be closing.
    let server = eventually(async || Ok(Server::from_args(args.clone()).await.ok())).await?;
    server.spawn(&lifecycle);
    Ok(lifecycle)
}

/// Ends one, and starts the next at the same address.
async fn restart(stage: &Stage, listen: SocketAddr, api: Lifecycle) -> Result<Lifecycle> {
    api.stop();
    api_at(stage, listen).await
}

/// The same tenant's view by way of another api.
async fn by_way_of(app: &App, listen: SocketAddr) -> Result<App> {
    App::new(
        &format!("http://{listen}"),
        app.tenant.clone(),
        app.key.clone(),
    )
    .await
}

fn long(identity: &v1::Identity) -> v1::Render {
    v1::Render {
        steps: Some(60),
        width: Some(256),
        height: Some(256),
        ..small(identity)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_of_a_render_goes_on_at_the_next_api() -> Result<()> {
    let stage = Stage::start().await?;
    let mut app = stage.tenant("patient app").await?;
    let identity = app.astronaut().await?;
    let listen = free_address()?;
    let api = api_at(&stage, listen).await?;
    let mut watcher = by_way_of(&app, listen).await?;
    let render = app.create(long(&identity)).await?;
    crate::crashes::under_way(&mut watcher, &render.name).await?;
    let name = render.name.clone();
    // The helper watches again whenever a watch ends.
    let watching = tokio::spawn(async move { watcher.watch(&name).await });
    let _api = restart(&stage, listen, api).await?;
    let watched = watching.await??;
    let last = watched.last.context("nothing was told")?;
    assert_eq!(last.state(), v1::RenderState::Succeeded, "{:?}", last.error);
    // Whoever comes when all is over hears of the end at once.
    let again = by_way_of(&app, listen).await?.watch(&render.name).await?;
    assert_eq!(again.states, [v1::RenderState::Succeeded]);
    Ok(())
}

/// The identity's state and the photos' as told last; whether the watch still goes on does not matter.
async fn follow(app: &mut App, name: &str) -> Result<v1::Identity> {
    let following = async {
        loop {
            let request = v1::WatchIdentityRequest {
                name: name.to_owned(),
            };
            if let Ok(events) = app.identities.watch_identity(request).await {
                let mut events = events.into_inner();
                while let Some(Ok(message)) = events.next().await {
                    if let Some(identity) = message.identity
                        && identity.state() == v1::IdentityState::Ready
                    {
                        return identity;
                    }
                }
            }
            tokio::task::yield_now().await;
        }
    };
    let followed = tokio::time::timeout(PATIENCE, following).await;
    followed.context("it was not told that the identity is ready")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_of_an_identity_goes_on_at_the_next_api() -> Result<()> {
    let stage = Stage::start().await?;
    let mut app = stage.tenant("patient app").await?;
    let identity = app.identity().await?;
    let listen = free_address()?;
    let api = api_at(&stage, listen).await?;
    let mut watcher = by_way_of(&app, listen).await?;
    // It watches before the api goes: its first message has come.
    let request = v1::WatchIdentityRequest {
        name: identity.name.clone(),
    };
    let mut events = watcher
        .identities
        .watch_identity(request)
        .await?
        .into_inner();
    let first = events.next().await.context("nothing was told")??;
    assert_eq!(first.identity.context("no identity")?.name, identity.name);
    let name = identity.name.clone();
    let watching = tokio::spawn(async move { follow(&mut watcher, &name).await });
    let restarting = restart(&stage, listen, api);
    let enrolling = app.enrol(&identity.name, vec![astronaut()]);
    let (_api, photos) = tokio::try_join!(restarting, enrolling)?;
    assert_eq!(photos[0].state(), v1::PhotoState::Accepted);
    watching.await??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_that_read_nothing_hold_nothing_up() -> Result<()> {
    let stage = Stage::start().await?;
    let mut app = stage.tenant("busy app").await?;
    let identity = app.astronaut().await?;
    let render = app.create(long(&identity)).await?;
    let mut slow = Vec::new();
    for _ in 0..20 {
        // On a connection of its own: what one leaves unread there is its own affair.
        let mut other = App::new(&stage.endpoint, app.tenant.clone(), app.key.clone()).await?;
        let request = v1::WatchRenderRequest {
            name: render.name.clone(),
            without_previews: false,
        };
        slow.push(other.renders.watch_render(request).await?.into_inner());
    }
    let last = app
        .watch(&render.name)
        .await?
        .last
        .context("nothing was told")?;
    assert_eq!(last.state(), v1::RenderState::Succeeded, "{:?}", last.error);
    // Late, but they hear of the end as well: what was dropped meanwhile is progress.
    for mut events in slow {
        let mut last = None;
        while let Some(message) = events.next().await {
            if let Some(Event::Render(render)) = message?.event {
                last = Some(render);
            }
        }
        assert!(last.is_some_and(|render| is_over(&render)));
    }
    Ok(())
}
