//! Processes that are killed while a render runs. The queue's own issue goes further; this is the main job's share.

use anyhow::Result;
use futures::StreamExt as _;
use likeness_domain::{AttemptOutcome, names::RenderName};
use likeness_test_support::TestContext;
use likeness_wire::v1::{self, watch_render_response::Event};

use crate::{
    process::{Process, free_address},
    stage::{App, Settings, download, eventually, small, tenant},
};

const LONG_LEASE: u32 = 30;
const SHORT_LEASE: u32 = 6;

/// Every service in a process of its own.
struct Fleet {
    context: TestContext,
    settings: Settings,
    listen: std::net::SocketAddr,
    api: Process,
    _dispatch: Process,
    _enroll: Process,
    render: Process,
}

impl Fleet {
    /// A short lease finds a lost worker soon; on a busy machine a long one keeps a slow worker from being taken for lost.
    async fn start(lease_seconds: u32) -> Result<(Self, App)> {
        let context = TestContext::new().await?;
        let settings = Settings::of(&context);
        let listen = free_address()?;
        let start = |service| Process::start(service, &settings, listen, lease_seconds);
        let fleet = Self {
            api: start("api")?,
            _dispatch: start("dispatch")?,
            _enroll: start("enroll")?,
            render: start("render")?,
            settings: settings.clone(),
            listen,
            context,
        };
        let endpoint = format!("http://{listen}");
        let app = eventually(async || Ok(tenant(&endpoint, "photo app").await.ok())).await?;
        Ok((fleet, app))
    }
}

/// Waits until the render runs and has done some steps.
pub async fn under_way(app: &mut App, name: &str) -> Result<()> {
    let request = v1::WatchRenderRequest {
        name: name.to_owned(),
        without_previews: true,
    };
    let mut events = app.renders.watch_render(request).await?.into_inner();
    let mut steps = 0;
    while steps < 3 {
        if let Some(Event::Progress(_)) = events.next().await.unwrap()?.event {
            steps += 1;
        }
    }
    Ok(())
}

async fn begin(app: &mut App) -> Result<v1::Render> {
    let identity = app.astronaut().await?;
    let wanted = v1::Render {
        steps: Some(80),
        width: Some(256),
        height: Some(256),
        ..small(&identity)
    };
    let render = eventually(async || Ok(app.create(wanted.clone()).await.ok())).await?;
    under_way(app, &render.name).await?;
    Ok(render)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_api_loses_no_render() -> Result<()> {
    let (mut fleet, mut app) = Fleet::start(LONG_LEASE).await?;
    let render = begin(&mut app).await?;
    let mut watcher = app.clone();
    let name = render.name.clone();
    let watching = tokio::spawn(async move { watcher.watch(&name).await });
    fleet.api.kill()?;
    fleet.api = Process::start("api", &fleet.settings, fleet.listen, LONG_LEASE)?;
    let last = watching.await??.last.unwrap();
    assert_eq!(last.state(), v1::RenderState::Succeeded, "{:?}", last.error);
    assert_eq!(last.attempt, 1, "the worker did not notice");
    download(&last.images[0].url).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_is_replaced_and_the_render_finishes_once() -> Result<()> {
    let (mut fleet, mut app) = Fleet::start(SHORT_LEASE).await?;
    let render = begin(&mut app).await?;
    fleet.render.kill()?;
    fleet.render = Process::start("render", &fleet.settings, fleet.listen, SHORT_LEASE)?;
    let last = app.watch(&render.name).await?.last.unwrap();
    assert_eq!(last.state(), v1::RenderState::Succeeded, "{:?}", last.error);
    assert_eq!((last.attempt, last.images.len()), (2, 1));
    assert!(
        last.images[0].url.contains("/2/"),
        "the image is the second attempt's"
    );
    download(&last.images[0].url).await?;

    let name: RenderName = render.name.parse()?;
    let mut conn = likeness_registry::acquire(fleet.context.pool()).await?;
    let attempts = likeness_registry::renders::attempts(&mut conn, name.render).await?;
    let outcomes: Vec<Option<AttemptOutcome>> =
        attempts.iter().map(|attempt| attempt.outcome).collect();
    assert_eq!(
        outcomes,
        [Some(AttemptOutcome::Lost), Some(AttemptOutcome::Succeeded)]
    );
    Ok(())
}
