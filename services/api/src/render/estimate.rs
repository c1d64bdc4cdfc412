//! What a render would cost and when it would begin, for those who ask first.

use chrono::{DateTime, TimeDelta, Utc};
use likeness_domain::{Error, RenderId};
use likeness_registry::{
    renders::{self, NewRender, Queue},
    tenants,
};
use likeness_wire::{time, v1};

use super::{
    check::{Checks, Wanted},
    convert, quota,
};
use crate::{app::App, auth::Caller};

/// A worker that has been silent for longer is gone.
const SILENCE: TimeDelta = TimeDelta::seconds(30);

/// Checks a render as if to take it in, and estimates it.
pub async fn validate(
    app: &App,
    caller: Caller,
    wanted: &Wanted,
) -> Result<v1::CreateRenderResponse, Error> {
    let now = app.clock.now();
    // Never committed.
    let mut tx = app.begin().await?;
    let tenant = tenants::get(&mut tx, caller.tenant).await?;
    quota::check(&mut tx, &tenant, 1, now).await?;
    let id = RenderId::generate(app.clock.as_ref());
    let mut checks = Checks::new(app);
    let new = checks.check(&mut tx, caller, wanted, id).await?;
    let (tenant, live_since) = (caller.tenant, now - SILENCE);
    let ahead = renders::queue_ahead(&mut tx, tenant, &new.pool, new.priority, live_since).await?;
    let row = renders::create(&mut tx, &new, now).await?;
    let mut render = convert::render(app, &row).await?;
    render.name = String::new();
    Ok(v1::CreateRenderResponse {
        render: Some(render),
        estimate: Some(estimate(&new, &ahead, now)),
    })
}

fn estimate(new: &NewRender, ahead: &Queue, now: DateTime<Utc>) -> v1::RenderEstimate {
    v1::RenderEstimate {
        cost: Some(time::duration(f64::from(new.cost_seconds) * ahead.pace)),
        place: ahead.place,
        begin_time: begin(new, ahead, now).map(time::to_proto),
    }
}

/// When it would begin; nobody knows where nobody works.
fn begin(new: &NewRender, ahead: &Queue, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    if ahead.workers == 0 {
        return None;
    }
    let wait = ahead.seconds * ahead.pace / ahead.workers as f64;
    let begin = now + TimeDelta::milliseconds((wait * 1000.0) as i64);
    Some(new.start_time.map_or(begin, |start| start.max(begin)))
}
