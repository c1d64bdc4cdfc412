//! What admission costs as the queue grows and as more tenants wait in it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use chrono::TimeDelta;
use likeness_domain::{Clock as _, SystemClock};
use likeness_registry::{leaders, renders};
use likeness_test_support::{Servers, rows};

use crate::{
    plan::Plan,
    process::processor_of_family,
    report::{Aim, Report},
    stage::{Stage, sort},
    stats::Durations,
    worker::{Crew, Model},
};

const PART: &str = "cost";
/// Rounds that are timed.
const ROUNDS: usize = 21;
/// Rows of an admission, as the dispatcher takes them at most.
const ROWS: i64 = 50;
/// Workers that take what is admitted.
const WORKERS: usize = 8;
const PATIENCE: Duration = Duration::from_mins(3);

/// What was measured at one length and number of tenants.
#[derive(Clone, Copy)]
struct Cost {
    /// Milliseconds of an admission round.
    round: f64,
    /// Milliseconds of the dispatcher's and of Postgres's processor time for each render, from the queue to its end.
    dispatch: f64,
    postgres: f64,
}

pub async fn measure(plan: &Plan, servers: &Arc<Servers>, report: &mut Report) -> Result<()> {
    let mut all = Vec::new();
    for tenants in &plan.tenants {
        let stage = Stage::start(servers).await?;
        let (db, sort) = (stage.context.pool(), sort()?);
        let owners = rows::seed(db, *tenants, 0, &sort).await?;
        // Nobody else's rounds beside those that are timed: without a worker none admits.
        for length in &plan.lengths {
            rows::top_up(db, &owners, *length, &sort).await?;
            let round = round(&stage).await?;
            let cost = drain(
                &stage,
                servers,
                plan.drained.min(*length as usize / 2),
                round,
            )
            .await?;
            tell(report, *length, *tenants, cost);
            all.push(cost);
        }
    }
    let spread = |of: fn(&Cost) -> f64| {
        let values: Vec<f64> = all.iter().map(of).collect();
        let most = values.iter().copied().fold(0.0, f64::max);
        most / values.iter().copied().fold(f64::INFINITY, f64::min)
    };
    let aim = Some(Aim::AtMost(2.0));
    report.row(
        PART,
        "a round, dearest to cheapest",
        spread(|cost| cost.round),
        "×",
        aim,
    );
    let whole = spread(|cost| cost.dispatch + cost.postgres);
    report.row(PART, "a render, dearest to cheapest", whole, "×", aim);
    Ok(())
}

fn tell(report: &mut Report, length: i64, tenants: i32, cost: Cost) {
    let at = format!("{length} queued of {tenants} tenants");
    let round = format!("a round of {ROWS} rows, {at}");
    report.row(PART, round, cost.round, "ms", None);
    let what = format!("processor of dispatch for a render, {at}");
    report.row(PART, what, cost.dispatch, "ms", None);
    let what = format!("processor of Postgres for a render, {at}");
    report.row(PART, what, cost.postgres, "ms", None);
}

/// The middle one of several admissions, none of which is committed.
async fn round(stage: &Stage) -> Result<f64> {
    let pool = crate::stage::pool()?;
    let mut took = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let mut tx = likeness_registry::begin(stage.context.pool()).await?;
        let now = SystemClock.now();
        // A role of its own: the dispatcher keeps leading.
        let leading = leaders::acquire(&mut tx, "measure", "load", TimeDelta::seconds(60), now);
        let leader = leading.await?.context("somebody else measures")?;
        let begun = Instant::now();
        renders::admit(&mut tx, &leader, pool.as_str(), f32::MAX, ROWS, now).await?;
        took.push(begun.elapsed());
    }
    let took: Durations = took.into_iter().collect();
    took.milliseconds(0.5).context("no round was timed")
}

/// Lets workers without a model drain so many renders.
async fn drain(stage: &Stage, servers: &Arc<Servers>, count: usize, round: f64) -> Result<Cost> {
    let postgres = servers.stack().and_then(|stack| stack.postgres.pid());
    let postgres = postgres.context("the servers are not ours")?;
    let before = (stage.dispatch.processor()?, processor_of_family(postgres));
    let crew = Crew::start(stage, WORKERS, Model::taking(Duration::ZERO)).await?;
    let drained = tokio::time::timeout(PATIENCE, crew.journal.finishes(count));
    drained.await.context("the queue was not drained in time")?;
    let spent = (
        stage.dispatch.processor()?.saturating_sub(before.0),
        processor_of_family(postgres).saturating_sub(before.1),
    );
    drop(crew);
    let each = |spent: Duration| spent.as_secs_f64() * 1e3 / count as f64;
    let cost = Cost {
        round,
        dispatch: each(spent.0),
        postgres: each(spent.1),
    };
    retire(stage).await?;
    Ok(cost)
}

/// Takes the workers that have gone out of the rows, so that nothing is admitted for them.
async fn retire(stage: &Stage) -> Result<()> {
    rows::forget_workers(stage.context.pool()).await
}
