//! How fast renders are taken in, durably.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use futures::future;
use likeness_registry::PgPool;
use likeness_test_support::{
    Servers,
    rows::{self, Sort},
};
use likeness_wire::v1;
use uuid::Uuid;

use crate::{
    client::{self, Renders},
    plan::Plan,
    process::{processor_of_family, processor_time},
    report::{Aim, Report},
    stage::{Stage, sort},
    stats::Durations,
};

const PART: &str = "submit";
const TENANTS: usize = 4;
/// Renders of one batch: the most that is taken.
const BATCH: usize = 1000;
/// Clients that send batches at once.
const BATCHERS: usize = 2;

/// Clients that submit one render after the other, in turns with plain inserts into the same Postgres from as many
/// connections.
pub async fn singles(plan: &Plan, servers: &Arc<Servers>, report: &mut Report) -> Result<()> {
    let stage = Stage::start(servers).await?;
    let count = u32::try_from(plan.clients)?;
    let inserters = likeness_registry::connect(stage.context.database_url(), count).await?;
    let (mut clients, sort) = (clients(&stage, plan.clients).await?, sort()?);
    let tenant = rows::seed(stage.context.pool(), 1, 0, &sort).await?[0];
    let (mut plain, mut submitted, mut waits) = (0, 0, Vec::new());
    let (mut for_plain, mut for_submitted) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..plan.turns {
        let begun = spent(&stage, servers)?;
        plain += insert(&inserters, tenant, &sort, plan).await?;
        let between = spent(&stage, servers)?;
        let turn = submit(&mut clients, plan.turn).await?;
        for_plain += between.saturating_sub(begun);
        for_submitted += spent(&stage, servers)?.saturating_sub(between);
        submitted += turn.len();
        waits.extend(turn);
    }
    let each = |spent: Duration, count: usize| spent.as_secs_f64() * 1e3 / count as f64;
    let (for_plain, for_submitted) = (each(for_plain, plain), each(for_submitted, submitted));
    let seconds = plan.turn.as_secs_f64() * plan.turns as f64;
    let (plain, submitted) = (plain as f64 / seconds, submitted as f64 / seconds);
    let waits: Durations = waits.into_iter().collect();
    report.row(PART, "plain inserts, one a commit", plain, "1/s", None);
    let clients = format!("CreateRender from {} clients", plan.clients);
    report.row(PART, clients, submitted, "1/s", None);
    let ratio = submitted / plain;
    report.row(PART, "of plain inserts", ratio, "", Some(Aim::AtLeast(0.6)));
    report.latencies(PART, "CreateRender under that load", &waits, None);
    // What a rate would be where nothing else runs and only the processors are short.
    let what = "processor of everything for a plain insert";
    report.row(PART, what, for_plain, "ms", None);
    let what = "processor of everything for a CreateRender";
    report.row(PART, what, for_submitted, "ms", None);
    report.row(
        PART,
        "memory of api after it",
        stage.api.memory()?,
        "MiB",
        None,
    );
    Ok(())
}

/// The processor time of clients, services and Postgres so far.
fn spent(stage: &Stage, servers: &Arc<Servers>) -> Result<Duration> {
    let postgres = servers.stack().and_then(|stack| stack.postgres.pid());
    let postgres = processor_of_family(postgres.context("the servers are not ours")?);
    // This process is the clients, S3 and the parent of the services and of Postgres.
    let services = stage.api.processor()? + stage.dispatch.processor()?;
    let own = processor_time(std::process::id()).context("no processor time")?;
    Ok(postgres + services + own)
}

async fn clients(stage: &Stage, count: usize) -> Result<Vec<Renders>> {
    let mut tenants = Vec::with_capacity(TENANTS);
    for number in 0..TENANTS {
        tenants.push(stage.tenant(&format!("app {number}")).await?);
    }
    let clients = (0..count).map(|number| tenants[number % TENANTS].client());
    clients.collect()
}

async fn insert(pool: &PgPool, tenant: Uuid, sort: &Sort, plan: &Plan) -> Result<usize> {
    let deadline = Instant::now() + plan.turn;
    let inserting = (0..plan.clients).map(|_| async move {
        let mut made = 0;
        while Instant::now() < deadline {
            rows::insert_one(pool, tenant, Uuid::now_v7(), sort).await?;
            made += 1;
        }
        anyhow::Ok(made)
    });
    Ok(future::try_join_all(inserting).await?.into_iter().sum())
}

/// What each request took.
async fn submit(clients: &mut [Renders], turn: Duration) -> Result<Vec<Duration>> {
    let deadline = Instant::now() + turn;
    let submitting = clients.iter_mut().map(|client| async move {
        let mut waits = Vec::new();
        while Instant::now() < deadline {
            let begun = Instant::now();
            client::submit(client).await?;
            waits.push(begun.elapsed());
        }
        anyhow::Ok(waits)
    });
    Ok(future::try_join_all(submitting).await?.concat())
}

/// Clients that send one full batch after the other.
pub async fn batches(plan: &Plan, servers: &Arc<Servers>, report: &mut Report) -> Result<()> {
    let stage = Stage::start(servers).await?;
    let mut clients = clients(&stage, BATCHERS).await?;
    let each = plan.batches.div_ceil(BATCHERS);
    let begun = Instant::now();
    let sending = clients.iter_mut().map(|client| async move {
        for _ in 0..each {
            client.batch_create_renders(batch()).await?;
        }
        anyhow::Ok(())
    });
    future::try_join_all(sending).await?;
    let rate = (each * BATCHERS * BATCH) as f64 / begun.elapsed().as_secs_f64();
    let what = format!("renders of BatchCreateRenders from {BATCHERS} clients");
    report.row("batch", what, rate, "1/s", Some(Aim::AtLeast(10_000.0)));
    report.row(
        "batch",
        "memory of api after it",
        stage.api.memory()?,
        "MiB",
        None,
    );
    Ok(())
}

fn batch() -> v1::BatchCreateRendersRequest {
    v1::BatchCreateRendersRequest {
        parent: String::new(),
        requests: (0..BATCH).map(|_| client::request()).collect(),
    }
}
