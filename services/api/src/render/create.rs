//! Taking renders in: everything is checked and pinned, then their rows are inserted. OK means durable.

use likeness_domain::{Error, RenderId};
use likeness_registry::{
    PgConnection,
    renders::{self, NewRender, Render},
};
use likeness_wire::v1;
use prost::Message as _;

use super::{
    batch::at,
    check::{Checks, Wanted},
    convert, estimate, quota,
    start::Stored,
};
use crate::{
    app::App,
    auth::{self, Caller},
    events, replay,
};

/// Takes a render in, or returns the one that the same request made before.
pub async fn create(
    app: &App,
    caller: Caller,
    request: v1::CreateRenderRequest,
) -> Result<v1::CreateRenderResponse, Error> {
    if request.validate_only {
        auth::check_parent(caller.tenant, &request.parent)?;
        let wanted = Wanted::take(app, request.render);
        return estimate::validate(app, caller, &wanted).await;
    }
    let member = Member::new(app, caller, request, "")?;
    let rows = take_in(app, caller, std::slice::from_ref(&member)).await?;
    events::wake_dispatch(app).await;
    let row = rows
        .first()
        .ok_or_else(|| Error::internal("one render was taken in and none came back"))?;
    Ok(v1::CreateRenderResponse {
        render: Some(convert::render(app, row).await?),
        estimate: None,
    })
}

/// One of the renders that a request asks for.
pub struct Member {
    wanted: Wanted,
    /// What the render will be called, if it is new.
    id: RenderId,
    replay: replay::Request,
    /// Where it stands in the request.
    path: String,
}

impl Member {
    /// One of a request's renders; `path` is where it stands there, and empty for the only one.
    pub fn new(
        app: &App,
        caller: Caller,
        request: v1::CreateRenderRequest,
        path: &str,
    ) -> Result<Self, Error> {
        auth::check_parent(caller.tenant, &request.parent)?;
        let wanted = Wanted::take(app, request.render);
        let payload = wanted.render.encode_to_vec();
        let mut parts = vec![payload.as_slice()];
        parts.extend(wanted.start.as_ref().map(|start| start.file.as_ref()));
        let tenant = Some(caller.tenant);
        let replay =
            replay::Request::new(tenant, "CreateRender", request.request_id.clone(), &parts)?;
        Ok(Self {
            wanted,
            id: RenderId::generate(app.clock.as_ref()),
            replay,
            path: path.to_owned(),
        })
    }
}

/// What becomes of a member.
enum Plan {
    /// The same request made this render before.
    Before(Box<Render>),
    /// It is to be stored.
    New(Box<NewRender>),
}

/// Inserts the renders, all or none, and returns them in their order; those that the same requests made before as they
/// stand. Start pictures go to storage first: a render without its picture would be lost, a picture without its render is
/// swept.
pub async fn take_in(app: &App, caller: Caller, members: &[Member]) -> Result<Vec<Render>, Error> {
    let mut pictures = put_pictures(app, caller, members).await?;
    let mut tx = app.begin().await?;
    let plans = plan(app, &mut tx, caller, members).await?;
    let new: Vec<NewRender> = plans.iter().filter_map(Plan::to_store).collect();
    let mut stored = renders::create_many(&mut tx, &new, app.clock.now())
        .await?
        .into_iter();
    let mut rows = Vec::with_capacity(members.len());
    for ((member, plan), picture) in members.iter().zip(plans).zip(&mut pictures) {
        let row = match plan {
            // Where a concurrent twin was first, its picture counts, and this one is swept.
            Plan::Before(row) => *row,
            Plan::New(_) => {
                member.replay.record(&mut tx, &[member.id.0]).await?;
                if let Some(picture) = picture.take() {
                    picture.keep(&mut tx).await?;
                }
                let row = stored.next();
                row.ok_or_else(|| Error::internal("a render was stored and did not come back"))?
            }
        };
        rows.push(row);
    }
    app.commit(tx).await?;
    Ok(rows)
}

impl Plan {
    fn to_store(&self) -> Option<NewRender> {
        match self {
            Self::Before(_) => None,
            Self::New(new) => Some(new.as_ref().clone()),
        }
    }
}

/// Puts the start pictures of those that are new into storage. Renders that may not be made are refused here, before a
/// picture is moved.
async fn put_pictures(
    app: &App,
    caller: Caller,
    members: &[Member],
) -> Result<Vec<Option<Stored>>, Error> {
    let mut stored: Vec<Option<Stored>> = members.iter().map(|_| None).collect();
    if members.iter().all(|member| member.wanted.start.is_none()) {
        return Ok(stored);
    }
    // Never committed: only a look.
    let mut tx = app.begin().await?;
    let plans = plan(app, &mut tx, caller, members).await?;
    drop(tx);
    for ((member, plan), stored) in members.iter().zip(plans).zip(&mut stored) {
        if let (Plan::New(_), Some(picture)) = (plan, &member.wanted.start) {
            let put = Stored::put(app, caller.tenant, member.id, picture).await;
            *stored = Some(put.map_err(|error| at(&member.path, error))?);
        }
    }
    Ok(stored)
}

/// What becomes of each, everything checked.
async fn plan(
    app: &App,
    conn: &mut PgConnection,
    caller: Caller,
    members: &[Member],
) -> Result<Vec<Plan>, Error> {
    let before = before(app, conn, caller, members).await?;
    let new = before.iter().filter(|row| row.is_none()).count();
    if new > 0 {
        quota::check(conn, caller.tenant, new, app.clock.now()).await?;
    }
    let mut checks = Checks::new(app, caller);
    let mut plans = Vec::with_capacity(members.len());
    for (member, before) in members.iter().zip(before) {
        plans.push(match before {
            Some(row) => Plan::Before(Box::new(row)),
            None => {
                let new = checks.check(conn, &member.wanted, member.id).await;
                Plan::New(Box::new(new.map_err(|error| at(&member.path, error))?))
            }
        });
    }
    Ok(plans)
}

/// The renders that the same requests made before.
async fn before(
    app: &App,
    conn: &mut PgConnection,
    caller: Caller,
    members: &[Member],
) -> Result<Vec<Option<Render>>, Error> {
    let mut rows: Vec<Option<Render>> = members.iter().map(|_| None).collect();
    // In the order of their ids, so that no two batches wait for each other.
    let mut order: Vec<usize> = (0..members.len()).collect();
    order.sort_by_key(|place| members[*place].replay.request_id());
    for place in order {
        let replayed = members[place].replay.begin(conn, app).await;
        let replayed = replayed.map_err(|error| at(&members[place].path, error))?;
        if let Some(ids) = replayed {
            let id = ids.first().copied();
            let id = id.ok_or_else(|| Error::internal("a request id without render"))?;
            rows[place] = Some(renders::get(conn, caller.tenant, id.into()).await?);
        }
    }
    Ok(rows)
}
