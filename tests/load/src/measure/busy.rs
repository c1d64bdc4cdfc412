//! Workers that are kept busy by a long queue: whether they are, how soon a new tenant begins, who gets how much.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use futures::stream::{FuturesUnordered, StreamExt as _};
use likeness_domain::{Clock as _, SystemClock};
use likeness_registry::usage;
use likeness_test_support::{Servers, rows};
use uuid::Uuid;

use crate::{
    client,
    journal::Journal,
    plan::Plan,
    report::{Aim, Report, Share},
    stage::{Stage, sort},
    stats::Durations,
    worker::{Crew, Model},
};

const PART: &str = "busy";
/// New tenants that come while workers are watched.
const NEWCOMERS: u32 = 40;
/// Tenants that wait with a few renders each, beside the one with the long queue.
const OTHERS: i32 = 200;
const OTHERS_RENDERS: i64 = 30;

/// One tenant with a long queue, many with a few renders, workers whose renders take a second, and new tenants now and
/// then.
pub async fn busy(plan: &Plan, servers: &Arc<Servers>, report: &mut Report) -> Result<()> {
    let stage = Stage::start(servers).await?;
    let (db, sort) = (stage.context.pool(), sort()?);
    rows::seed(db, 1, plan.queued, &sort).await?;
    if !plan.quick {
        rows::seed(db, OTHERS, i64::from(OTHERS) * OTHERS_RENDERS, &sort).await?;
    }
    let mut newcomers = Vec::new();
    for number in 0..NEWCOMERS {
        let tenant = stage.tenant(&format!("newcomer {number}")).await?;
        newcomers.push(tenant.client()?);
    }
    let crew = Crew::start(&stage, plan.workers, Model::taking(plan.render)).await?;
    tokio::time::sleep(plan.warm).await;

    let (begun, spent) = (Instant::now(), stage.dispatch.processor()?);
    let pause = plan.busy / (NEWCOMERS + 2);
    let (waits, ()) = tokio::try_join!(firsts(newcomers, &crew.journal, pause), async {
        tokio::time::sleep(plan.busy).await;
        Ok(())
    })?;
    let (ended, spent) = (
        Instant::now(),
        stage.dispatch.processor()?.saturating_sub(spent),
    );

    // While newcomers' last renders began, workers were watched on.
    let span = ended - begun;
    let utilisation =
        crew.journal.busy(begun, ended).as_secs_f64() / (span.as_secs_f64() * plan.workers as f64);
    let what = format!(
        "utilisation of {} workers, {:?} a render, {} queued",
        plan.workers, plan.render, plan.queued
    );
    let aim = Aim::AtLeast(99.0);
    report.row(PART, what, utilisation * 100.0, "%", Some(aim));
    let aim = Some(Aim::AtMost(1000.0));
    report.latencies(PART, "a new tenant's first submit → claim", &waits, aim);
    let cores = spent.as_secs_f64() / span.as_secs_f64();
    report.row(PART, "processor of dispatch", cores, "cores", None);
    report.row(PART, "memory of api", stage.api.memory()?, "MiB", None);
    report.row(
        PART,
        "memory of dispatch",
        stage.dispatch.memory()?,
        "MiB",
        None,
    );
    Ok(())
}

/// How long the first render of each new tenant waits, one tenant after the other.
async fn firsts(
    newcomers: Vec<client::Renders>,
    journal: &Journal,
    pause: Duration,
) -> Result<Durations> {
    let mut waiting = FuturesUnordered::new();
    for mut newcomer in newcomers {
        let journal = journal.clone();
        tokio::time::sleep(pause).await;
        waiting.push(tokio::spawn(async move {
            let begun = Instant::now();
            let name = client::submit(&mut newcomer).await?;
            let granted = journal.grant_of(client::id(&name)?).await;
            anyhow::Ok(granted.duration_since(begun))
        }));
    }
    let mut waits = Vec::new();
    while let Some(waited) = waiting.next().await {
        waits.push(waited??);
    }
    Ok(waits.into_iter().collect())
}

/// Tenants of different weights, none of which runs out of work.
pub async fn fair(plan: &Plan, servers: &Arc<Servers>, report: &mut Report) -> Result<()> {
    let stage = Stage::start(servers).await?;
    let (db, sort) = (stage.context.pool(), sort()?);
    let weights = [1.0, 1.0, 2.0, 4.0];
    let enough = (plan.workers * 60) as i64;
    let tenants = rows::seed(db, weights.len() as i32, enough * 4, &sort).await?;
    for (tenant, weight) in tenants.iter().zip(weights) {
        rows::weigh(db, *tenant, weight).await?;
    }
    let render = plan.render.min(Duration::from_millis(500));
    let crew = Crew::start(&stage, plan.workers, Model::taking(render)).await?;
    tokio::time::sleep(plan.warm).await;
    let from = SystemClock.now();
    tokio::time::sleep(plan.busy / 2).await;
    let until = SystemClock.now();
    drop(crew);

    let mut conn = likeness_registry::acquire(db).await?;
    let mut got = Vec::new();
    for tenant in &tenants {
        let usage = usage::sum(&mut conn, (*tenant).into(), from, until).await?;
        got.push(usage.delivered);
    }
    report.fairness = shares(&tenants, &weights, &got);
    let furthest = report
        .fairness
        .iter()
        .map(|share| (share.share / share.fair_share - 1.0).abs() * 100.0)
        .fold(0.0, f64::max);
    report.row(
        "fair",
        "furthest from a share by weight",
        furthest,
        "%",
        None,
    );
    Ok(())
}

fn shares(tenants: &[Uuid], weights: &[f32], got: &[f64]) -> Vec<Share> {
    let (all, weight): (f64, f32) = (got.iter().sum(), weights.iter().sum());
    let each = tenants.iter().zip(weights).zip(got).zip(1..);
    each.map(|(((_, own), got), number)| Share {
        tenant: format!("app {number}"),
        weight: *own,
        gpu_seconds: *got,
        share: got / all,
        fair_share: f64::from(own / weight),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_parts_of_all() {
        let tenants = [Uuid::from_u128(1), Uuid::from_u128(2)];
        let shares = shares(&tenants, &[1.0, 3.0], &[2.0, 8.0]);
        assert!((shares[0].share - 0.2).abs() < 1e-9 && (shares[1].fair_share - 0.75).abs() < 1e-9);
    }
}
