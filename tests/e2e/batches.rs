//! Renders that a worker paints together.

use anyhow::Result;
use futures::future::try_join_all;
use likeness_render::{Render, RenderArgs};
use likeness_runtime::Lifecycle;
use likeness_wire::v1;

use crate::{
    crashes::under_way,
    stage::{App, Stage, download, eventually, small},
};

/// Puts a worker that paints up to four images at a time in the place of the stage's own.
async fn batching_worker(stage: &Stage) -> Result<Lifecycle> {
    stage.worker.stop();
    stage.workers(0).await?;
    let worker = stage.lifecycle.child();
    let args = RenderArgs {
        max_batch: Some(4),
        ..stage.settings.render()
    };
    Render::from_args(args).await?.spawn(&worker);
    stage.workers(1).await?;
    Ok(worker)
}

/// Occupies the worker until it is cancelled, so that what is created meanwhile waits in the queue together.
async fn occupy(app: &mut App, identity: &v1::Identity) -> Result<v1::Render> {
    let blocker = v1::Render {
        width: Some(256),
        height: Some(256),
        steps: Some(150),
        image_count: Some(8),
        ..small(identity)
    };
    let blocker = app.create(blocker).await?;
    under_way(app, &blocker.name).await?;
    Ok(blocker)
}

/// Creates renders, and lets the worker see them once all are in its queue.
async fn create_together(app: &mut App, renders: Vec<v1::Render>) -> Result<Vec<v1::Render>> {
    let blocker = occupy(app, &identity_of(&renders[0])).await?;
    let mut created = Vec::new();
    for render in renders {
        created.push(app.create(render).await?);
    }
    for render in &created {
        eventually(async || {
            let state = app.get(&render.name).await?.state();
            Ok((state == v1::RenderState::Dispatched).then_some(()))
        })
        .await?;
    }
    app.cancel(&blocker.name).await?;
    Ok(created)
}

fn identity_of(render: &v1::Render) -> v1::Identity {
    v1::Identity {
        name: render.identities[0].identity.clone(),
        ..Default::default()
    }
}

async fn ended(app: &App, render: &v1::Render) -> Result<v1::Render> {
    Ok(app.clone().watch(&render.name).await?.last.unwrap())
}

async fn file(render: &v1::Render) -> Result<Vec<u8>> {
    anyhow::ensure!(render.state() == v1::RenderState::Succeeded, "{render:?}");
    download(&render.images[0].url).await
}

fn nanos(time: Option<&prost_types::Timestamp>) -> i128 {
    let time = time.unwrap();
    i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos)
}

#[tokio::test(flavor = "multi_thread")]
async fn renders_that_wait_together_are_painted_together_and_look_as_alone() -> Result<()> {
    let stage = Stage::start().await?;
    let mut app = stage.tenant("photo app").await?;
    let identity = app.astronaut().await?;
    let seeded = |seed| v1::Render {
        seed: Some(seed),
        prompt: format!("portrait {seed}"),
        ..small(&identity)
    };
    let wide = v1::Render {
        width: Some(128),
        ..small(&identity)
    };
    let renders = vec![seeded(1), seeded(2), wide, seeded(3)];
    let mut alone = Vec::new();
    for render in &renders {
        alone.push(app.picture(render.clone()).await?.bytes);
    }
    let _worker = batching_worker(&stage).await?;
    let created = create_together(&mut app, renders).await?;
    let ends = try_join_all(created.iter().map(|render| ended(&app, render))).await?;
    for (end, alone) in ends.iter().zip(alone) {
        assert_eq!(file(end).await?, alone, "the same file as by itself");
        assert_eq!(end.attempt, 1);
    }
    let (first, second) = (&ends[0], &ends[1]);
    let (begun, finished) = (second.begin_time.as_ref(), first.finish_time.as_ref());
    assert!(
        nanos(begun) < nanos(finished),
        "the second was claimed before the first was done"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_ends_one_render_of_a_batch() -> Result<()> {
    let stage = Stage::start().await?;
    let mut app = stage.tenant("photo app").await?;
    let identity = app.astronaut().await?;
    let _worker = batching_worker(&stage).await?;
    let longer = v1::Render {
        steps: Some(150),
        width: Some(128),
        height: Some(128),
        ..small(&identity)
    };
    let created = create_together(&mut app, vec![longer; 3]).await?;
    let [first, second, third] = &created[..] else {
        anyhow::bail!("three were created");
    };
    under_way(&mut app, &second.name).await?;
    app.cancel(&second.name).await?;
    assert_eq!(
        ended(&app, second).await?.state(),
        v1::RenderState::Cancelled
    );
    let (first, third) = (ended(&app, first).await?, ended(&app, third).await?);
    assert_eq!(file(&first).await?, file(&third).await?, "the same request");
    assert!(nanos(third.begin_time.as_ref()) < nanos(first.finish_time.as_ref()));
    Ok(())
}
