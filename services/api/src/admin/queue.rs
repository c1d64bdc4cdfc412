//! Handlers of workers and the queue.

use chrono::{DateTime, TimeDelta, Utc};
use likeness_domain::{
    Error, RenderId,
    names::{RenderName, TenantName},
    page::Page,
};
use likeness_registry::{
    acquire, bundles,
    renders::{self, DeadFilter},
    stats, usage, workers,
};
use likeness_wire::{render as wire, time, v1};

use super::convert;
use crate::{app::App, events, render::render_as_sent};

/// The most renders that one request makes anew.
const REQUEUED_AT_ONCE: usize = 1000;

/// A worker that has been silent for longer is gone.
const SILENCE: TimeDelta = TimeDelta::seconds(30);

/// Lists a page of the workers that were seen lately; the token is the last one's name.
pub async fn workers(
    app: &App,
    request: &v1::ListWorkersRequest,
) -> Result<v1::ListWorkersResponse, Error> {
    let page = Page::from_request(request.page_size, "")?;
    let since = app.clock.now() - SILENCE;
    let mut conn = acquire(&app.pool).await?;
    let rows = workers::list(&mut conn, since, &request.page_token, i64::from(page.size)).await?;
    let next = rows.last().filter(|_| rows.len() >= page.size as usize);
    Ok(v1::ListWorkersResponse {
        next_page_token: next.map(|row| row.presence.id.clone()).unwrap_or_default(),
        workers: rows.iter().map(convert::worker).collect(),
    })
}

/// Counts of the queue, in all and by pool.
pub async fn stats(app: &App) -> Result<v1::GetQueueStatsResponse, Error> {
    let now = app.clock.now();
    let mut conn = acquire(&app.pool).await?;
    let stats = stats::queue(&mut conn, now - SILENCE, now).await?;
    Ok(v1::GetQueueStatsResponse {
        renders: stats
            .renders
            .iter()
            .map(|(state, count)| v1::RenderStateCount {
                state: wire::state(*state).into(),
                count: *count,
            })
            .collect(),
        pools: stats.pools.iter().map(convert::pool).collect(),
        pending_photos: stats.pending_photos,
        oldest_queued: stats
            .oldest_queued
            .map(|age| time::duration(age.as_secs_f64())),
    })
}

/// Asks a worker to take nothing more; it finishes or hands back what it has, and ends.
pub async fn drain(
    app: &App,
    request: &v1::DrainWorkerRequest,
) -> Result<v1::DrainWorkerResponse, Error> {
    let id = request.name.strip_prefix("workers/");
    let id = id.ok_or_else(|| Error::invalid_field("name", "expected workers/{worker}"))?;
    let mut tx = app.begin().await?;
    let worker = workers::drain(&mut tx, id).await?;
    app.commit(tx).await?;
    Ok(v1::DrainWorkerResponse {
        worker: Some(convert::worker(&worker)),
    })
}

/// Stops or resumes admission to a pool. What it was handed already goes on.
pub async fn pause(
    app: &App,
    request: &v1::PausePoolRequest,
) -> Result<v1::PausePoolResponse, Error> {
    let now = app.clock.now();
    let mut tx = app.begin().await?;
    bundles::set_paused(&mut tx, &request.pool, request.paused).await?;
    let stats = stats::queue(&mut tx, now - SILENCE, now).await?;
    app.commit(tx).await?;
    events::wake_dispatch(app).await;
    let pool = stats.pools.iter().find(|pool| pool.pool == request.pool);
    Ok(v1::PausePoolResponse {
        pool: pool.map(convert::pool),
    })
}

/// Lists a page of failed renders with their histories.
pub async fn dead(
    app: &App,
    request: &v1::ListDeadRendersRequest,
) -> Result<v1::ListDeadRendersResponse, Error> {
    let page = Page::from_request(request.page_size, &request.page_token)?;
    let filter = filter(&request.parent, &request.reason)?;
    let mut conn = acquire(&app.pool).await?;
    let rows = renders::dead(&mut conn, &filter, &page).await?;
    drop(conn);
    let mut dead = Vec::with_capacity(rows.len());
    for row in &rows {
        dead.push(v1::DeadRender {
            render: Some(render_as_sent(app, &row.render).await?),
            attempts: row.attempts.iter().map(convert::attempt).collect(),
        });
    }
    Ok(v1::ListDeadRendersResponse {
        renders: dead,
        next_page_token: page.next_token(&rows, |row| row.render.id.0),
    })
}

/// Makes new renders of failed ones: of those named, or of at most a thousand that failed for a reason and have not been
/// made anew.
pub async fn requeue(
    app: &App,
    request: &v1::RequeueRendersRequest,
) -> Result<v1::RequeueRendersResponse, Error> {
    let named = named(&request.names)?;
    let mut tx = app.begin().await?;
    let ids = match (named.is_empty(), request.reason.as_str()) {
        (false, "") if request.parent.is_empty() => named,
        (true, reason) if !reason.is_empty() => {
            let filter = filter(&request.parent, reason)?;
            renders::requeueable(&mut tx, &filter, REQUEUED_AT_ONCE as i64).await?
        }
        _ => {
            let expected = "expected names, or a reason with or without parent";
            return Err(Error::invalid_field("names", expected));
        }
    };
    let fresh_id = || RenderId::generate(app.clock.as_ref());
    let rows = renders::requeue(&mut tx, &ids, fresh_id, app.clock.now()).await?;
    app.commit(tx).await?;
    events::wake_dispatch(app).await;
    let mut made = Vec::with_capacity(rows.len());
    for row in &rows {
        made.push(render_as_sent(app, row).await?);
    }
    Ok(v1::RequeueRendersResponse { renders: made })
}

fn named(names: &[String]) -> Result<Vec<RenderId>, Error> {
    if names.len() > REQUEUED_AT_ONCE {
        let expected = format!("expected at most {REQUEUED_AT_ONCE} names");
        return Err(Error::invalid_field("names", expected));
    }
    let read = |name: &String| convert::name_from::<RenderName>("names", name);
    let names: Vec<RenderName> = names.iter().map(read).collect::<Result<_, _>>()?;
    let mut ids: Vec<RenderId> = names.iter().map(|name| name.render).collect();
    ids.sort();
    ids.dedup();
    Ok(ids)
}

fn filter(parent: &str, reason: &str) -> Result<DeadFilter, Error> {
    let tenant = match parent {
        "" => None,
        parent => Some(convert::name_from::<TenantName>("parent", parent)?.tenant),
    };
    Ok(DeadFilter {
        tenant,
        reason: (!reason.is_empty()).then(|| reason.to_owned()),
    })
}

/// Sums up a tenant's GPU time in a period.
pub async fn usage(
    app: &App,
    request: &v1::GetUsageRequest,
) -> Result<v1::GetUsageResponse, Error> {
    let tenant = convert::name_from::<TenantName>("parent", &request.parent)?.tenant;
    let from = moment("begin_time", request.begin_time)?;
    let until = moment("end_time", request.end_time)?;
    let mut conn = acquire(&app.pool).await?;
    let usage = usage::sum(&mut conn, tenant, from, until).await?;
    Ok(v1::GetUsageResponse {
        delivered: Some(time::duration(usage.delivered)),
        wasted: Some(time::duration(usage.wasted)),
    })
}

fn moment(
    field: &'static str,
    moment: Option<prost_types::Timestamp>,
) -> Result<DateTime<Utc>, Error> {
    let moment = moment.ok_or_else(|| Error::invalid_field(field, "expected a time"))?;
    time::from_proto(field, moment).map_err(|violation| Error::invalid(vec![violation]))
}
