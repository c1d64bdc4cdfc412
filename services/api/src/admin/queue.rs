//! Handlers of workers and the queue.

use chrono::TimeDelta;
use likeness_domain::{Error, page::Page};
use likeness_registry::{acquire, stats, workers};
use likeness_wire::{render as wire, time, v1};

use super::convert;
use crate::app::App;

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
