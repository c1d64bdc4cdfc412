//! Cancelling, and requests that are repeated.

use anyhow::Result;
use futures::StreamExt as _;
use likeness_wire::v1::{self, watch_render_response::Event};
use tonic::Code;

use crate::stage::{Stage, long, reason, small};

#[tokio::test(flavor = "multi_thread")]
async fn a_queued_render_is_cancelled_at_once() -> Result<()> {
    let stage = Stage::start().await?;
    let mut app = stage.tenant("photo app").await?;
    let identity = app.astronaut().await?;
    stage.worker.stop();
    stage.workers(0).await?;
    let render = app.create(small(&identity)).await?;
    let cancelled = app.cancel(&render.name).await?;
    assert_eq!(cancelled.state(), v1::RenderState::Cancelled);
    // Again changes nothing.
    assert_eq!(
        app.cancel(&render.name).await?.state(),
        v1::RenderState::Cancelled
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_render_stops_within_a_step() -> Result<()> {
    let stage = Stage::start().await?;
    let mut app = stage.tenant("photo app").await?;
    let identity = app.astronaut().await?;
    let render = app.create(long(&identity)).await?;
    let request = v1::WatchRenderRequest {
        name: render.name.clone(),
        without_previews: true,
    };
    let mut events = app.renders.watch_render(request).await?.into_inner();
    while !matches!(
        events.next().await.unwrap()?.event,
        Some(Event::Progress(_))
    ) {}
    let asked = app.cancel(&render.name).await?;
    assert!(asked.cancel_time.is_some());
    let mut steps_after = 0;
    let last = loop {
        match events.next().await.unwrap()?.event {
            Some(Event::Render(render)) if crate::stage::is_over(&render) => break render,
            Some(Event::Progress(_)) => steps_after += 1,
            _ => {}
        }
    };
    assert_eq!(last.state(), v1::RenderState::Cancelled);
    // Those already on their way, and the one being made.
    assert!(steps_after < 30, "{steps_after} steps after the cancel");
    // The worker is free again.
    app.picture(small(&identity)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_render_that_is_over_stays_so() -> Result<()> {
    let stage = Stage::start().await?;
    let mut app = stage.tenant("photo app").await?;
    let identity = app.astronaut().await?;
    let picture = app.picture(small(&identity)).await?;
    let after = app.cancel(&picture.render.name).await?;
    assert_eq!(after.state(), v1::RenderState::Succeeded);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_makes_one_render() -> Result<()> {
    let stage = Stage::start().await?;
    let mut app = stage.tenant("photo app").await?;
    let mut other = stage.tenant("other app").await?;
    let identity = app.astronaut().await?;
    let request = v1::CreateRenderRequest {
        render: Some(small(&identity)),
        request_id: "order 17".to_owned(),
        ..Default::default()
    };
    let (first, twin) = (app.renders.clone(), app.renders.clone());
    let created = futures::future::try_join_all([first, twin].map(|mut renders| {
        let request = request.clone();
        async move { renders.create_render(request).await }
    }))
    .await?;
    let names: Vec<String> = created
        .into_iter()
        .map(|answer| answer.into_inner().render.unwrap().name)
        .collect();
    assert_eq!(names[0], names[1]);

    // It returns the render as it stands now.
    app.watch(&names[0]).await?;
    let again = app
        .renders
        .create_render(request.clone())
        .await?
        .into_inner()
        .render
        .unwrap();
    assert_eq!(
        (again.name.as_str(), again.state()),
        (names[0].as_str(), v1::RenderState::Succeeded)
    );

    let changed = v1::Render {
        prompt: "something else".to_owned(),
        ..small(&identity)
    };
    let reused = v1::CreateRenderRequest {
        render: Some(changed),
        ..request.clone()
    };
    let refused = app.renders.create_render(reused).await.unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists);
    assert_eq!(reason(&refused), "REQUEST_ID_REUSED");

    // Another tenant's id is another id.
    let nobody = v1::Render {
        identities: Vec::new(),
        ..small(&identity)
    };
    let theirs = v1::CreateRenderRequest {
        render: Some(nobody),
        ..request
    };
    let theirs = other
        .renders
        .create_render(theirs)
        .await?
        .into_inner()
        .render
        .unwrap();
    assert_ne!(theirs.name, names[0]);
    Ok(())
}
