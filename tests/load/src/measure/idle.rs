//! What an idle system takes: from a submit to the claim, to the image, and to those who watch.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use likeness_domain::{Clock as _, SystemClock};
use likeness_test_support::Servers;
use likeness_wire::v1;
use tonic::Streaming;

use crate::{
    client::{self, Renders, Tenant},
    plan::Plan,
    report::{Aim, Report},
    stage::Stage,
    stats::Durations,
    worker::{Crew, Model},
};

const PART: &str = "idle";
/// What the pretended model takes where an image is waited for.
const MODEL: Duration = Duration::from_millis(100);
/// About a PNG of a megapixel.
const IMAGE_BYTES: usize = 1_500_000;
/// Longer than anything here.
const SLOW: Duration = Duration::from_mins(10);

pub async fn measure(plan: &Plan, servers: &Arc<Servers>, report: &mut Report) -> Result<()> {
    claims(plan, servers, report).await?;
    images(plan, servers, report).await
}

/// One worker without anything to do, and one render after the other.
async fn claims(plan: &Plan, servers: &Arc<Servers>, report: &mut Report) -> Result<()> {
    let stage = Stage::start(servers).await?;
    let crew = Crew::start(&stage, 1, Model::taking(Duration::ZERO)).await?;
    let mut client = stage.tenant("app").await?.client()?;
    let mut waits = Vec::with_capacity(plan.singles);
    for number in 1..=plan.singles {
        let begun = Instant::now();
        let name = client::submit(&mut client).await?;
        let granted = crew.journal.grant_of(client::id(&name)?).await;
        waits.push(granted.duration_since(begun));
        crew.journal.finishes(number).await;
    }
    // The first ones open connections.
    let waits: Durations = waits.into_iter().skip(plan.singles / 10).collect();
    report.latencies(PART, "submit → claim", &waits, Some(Aim::AtMost(5.0)));
    Ok(())
}

/// A model that takes its time, an image into real storage, a watcher that reads and many that do not.
async fn images(plan: &Plan, servers: &Arc<Servers>, report: &mut Report) -> Result<()> {
    let stage = Stage::start(servers).await?;
    let image = Bytes::from(vec![7; IMAGE_BYTES]);
    let model = Model {
        takes: MODEL,
        image: Some(image),
    };
    let crew = Crew::start(&stage, 1, model).await?;
    let app = stage.tenant("app").await?;
    let mut client = app.client()?;
    let quiet = watched(plan.singles / 3, &mut client).await?;
    let aim = Some(Aim::AtMost(150.0));
    report.latencies(
        PART,
        "submit → image, without the model",
        &quiet.overhead,
        aim,
    );
    let aim = Some(Aim::AtMost(50.0));
    report.latencies(PART, "change of state → watcher", &quiet.news, aim);

    let before = stage.api.memory()?;
    let slow = slow_watchers(&stage, &app, plan.slow_watchers).await?;
    let beside = watched(plan.singles / 3, &mut client).await?;
    let what = format!("the same beside {} watchers that read nothing", slow.len());
    report.latencies(PART, &what, &beside.news, aim);
    let grown = stage.api.memory()? - before;
    report.row(
        PART,
        "what these add to the memory of api",
        grown,
        "MiB",
        None,
    );
    drop(crew);
    Ok(())
}

/// What renders one after the other took to be known.
struct Watched {
    overhead: Durations,
    news: Durations,
}

async fn watched(count: usize, client: &mut Renders) -> Result<Watched> {
    let (mut overhead, mut news) = (Vec::new(), Vec::new());
    // The first one opens connections.
    for number in 0..=count {
        let begun = Instant::now();
        let name = client::submit(client).await?;
        let mut events = client::watch(client, &name).await?;
        let told = follow(&mut events).await?;
        if number > 0 {
            overhead.push(begun.elapsed().saturating_sub(MODEL));
            news.extend(told);
        }
    }
    Ok(Watched {
        overhead: overhead.into_iter().collect(),
        news: news.into_iter().collect(),
    })
}

/// How long after each change it was told, by the changes' own times, which are taken before they are committed.
async fn follow(events: &mut Streaming<v1::WatchRenderResponse>) -> Result<Vec<Duration>> {
    let mut told = Vec::new();
    loop {
        let render = client::next_state(events).await?;
        match render.state() {
            v1::RenderState::Queued | v1::RenderState::Dispatched => {}
            v1::RenderState::Running => told.push(since(render.begin_time)?),
            state => {
                ensure!(
                    state == v1::RenderState::Succeeded,
                    "a render ended {state:?}"
                );
                told.push(since(render.finish_time)?);
                return Ok(told);
            }
        }
    }
}

fn since(time: Option<prost_types::Timestamp>) -> Result<Duration> {
    let time = SystemTime::try_from(time.context("a change without its time")?)?;
    let now = SystemTime::from(SystemClock.now());
    Ok(now.duration_since(time).unwrap_or_default())
}

/// Watchers of renders that begin no sooner than in ten minutes, which read nothing of what they are told.
async fn slow_watchers(
    stage: &Stage,
    app: &Tenant,
    count: usize,
) -> Result<Vec<Streaming<v1::WatchRenderResponse>>> {
    let mut client = app.client()?;
    let queue = stage.queue().await?;
    let mut watchers = Vec::with_capacity(count);
    let start = SystemTime::from(SystemClock.now()) + SLOW;
    for _ in 0..count {
        let mut request = client::request();
        if let Some(render) = &mut request.render {
            render.start_time = Some(start.into());
        }
        let made = client.create_render(request).await?.into_inner().render;
        let name = made.context("no render")?.name;
        watchers.push(client::watch(&mut client, &name).await?);
        flood(&queue, &name).await?;
    }
    Ok(watchers)
}

/// More news than any buffer holds.
async fn flood(queue: &likeness_queue::Queue, name: &str) -> Result<()> {
    use likeness_queue::Progress;
    let topic = queue.subjects().render_progress(client::id(name)?);
    let progress = Progress {
        attempt: 0,
        progress: likeness_domain::render::RenderProgress::default(),
        preview: None,
    };
    for _ in 0..1000 {
        queue.publish_event(&topic, &progress).await?;
    }
    Ok(())
}
