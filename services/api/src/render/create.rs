//! Taking renders in: everything is checked and pinned, then their rows are inserted. OK means durable.

use std::collections::{BTreeMap, HashMap};

use likeness_domain::{Error, RenderId, TenantId, names::TenantName};
use likeness_registry::{
    PgConnection,
    renders::{self, NewRender, Render},
    tenants::{self, Tenant},
};
use likeness_wire::v1;
use prost::Message as _;
use uuid::Uuid;

use super::{
    batch::at,
    check::{Checks, Wanted},
    convert, estimate, intake, quota,
    start::Stored,
};
use crate::{
    app::App,
    auth::{self, Caller},
    replay,
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
    let row = intake::take_in_one(app, member).await?;
    Ok(v1::CreateRenderResponse {
        render: Some(convert::render(app, &row).await?),
        estimate: None,
    })
}

/// One of the renders that a request asks for.
pub struct Member {
    caller: Caller,
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
            caller,
            wanted,
            id: RenderId::generate(app.clock.as_ref()),
            replay,
            path: path.to_owned(),
        })
    }
}

/// What becomes of a member.
pub enum Plan {
    /// The same request made this render before.
    Before(Box<Render>),
    /// It is to be stored.
    New(Box<NewRender>),
}

/// Inserts the renders of one request, all or none, and returns them in their order; those that the same requests made
/// before as they stand. Start pictures go to storage first: a render without its picture would be lost, a picture
/// without its render is swept.
pub async fn take_in(app: &App, members: &[Member]) -> Result<Vec<Render>, Error> {
    let pictures = put_pictures(app, members).await?;
    let mut tx = app.begin().await?;
    let plans = plan_all(app, &mut tx, members).await?;
    let is_new = |plan: &Plan| matches!(plan, Plan::New(_));
    let new: Vec<bool> = plans.iter().map(is_new).collect();
    let rows = store(app, &mut tx, plans).await?;
    for (new, picture) in new.into_iter().zip(pictures) {
        // Where a concurrent twin was first, its picture counts, and this one is swept.
        if let (true, Some(picture)) = (new, picture) {
            picture.keep(&mut tx).await?;
        }
    }
    app.commit(tx).await?;
    Ok(rows)
}

/// Stores what is new, and returns all in their order.
pub async fn store(
    app: &App,
    conn: &mut PgConnection,
    plans: Vec<Plan>,
) -> Result<Vec<Render>, Error> {
    let new: Vec<NewRender> = plans.iter().filter_map(Plan::to_store).collect();
    let stored = renders::create_many(conn, &new, app.clock.now()).await?;
    let mut stored = stored.into_iter();
    let rows = plans.into_iter().map(|plan| match plan {
        Plan::Before(row) => Ok(*row),
        Plan::New(_) => {
            let row = stored.next();
            row.ok_or_else(|| Error::internal("a render was stored and did not come back"))
        }
    });
    rows.collect()
}

impl Member {
    /// Whether it brings a picture to start from.
    pub fn has_picture(&self) -> bool {
        self.wanted.start.is_some()
    }

    /// What tells its request from others.
    pub fn request(&self) -> Option<(Option<TenantId>, &'static str, &str)> {
        self.replay.identity()
    }
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
async fn put_pictures(app: &App, members: &[Member]) -> Result<Vec<Option<Stored>>, Error> {
    let mut stored: Vec<Option<Stored>> = members.iter().map(|_| None).collect();
    if !members.iter().any(Member::has_picture) {
        return Ok(stored);
    }
    // Never committed: only a look.
    let mut tx = app.begin().await?;
    let plans = plan_all(app, &mut tx, members).await?;
    drop(tx);
    for ((member, plan), stored) in members.iter().zip(plans).zip(&mut stored) {
        if let (Plan::New(_), Some(picture)) = (plan, &member.wanted.start) {
            let put = Stored::put(app, member.caller.tenant, member.id, picture).await;
            *stored = Some(put.map_err(|error| at(&member.path, error))?);
        }
    }
    Ok(stored)
}

/// What becomes of each of a request's renders; the first that is refused refuses all.
async fn plan_all(
    app: &App,
    conn: &mut PgConnection,
    members: &[Member],
) -> Result<Vec<Plan>, Error> {
    let plans = plan(app, conn, members).await?.into_iter().zip(members);
    let plans = plans.map(|(plan, member)| plan.map_err(|error| at(&member.path, error)));
    plans.collect()
}

/// What becomes of each, everything checked.
///
/// # Errors
/// Of all, if the database fails; of one, what is wrong with it. Then the transaction must not be committed.
pub async fn plan(
    app: &App,
    conn: &mut PgConnection,
    members: &[Member],
) -> Result<Vec<Result<Plan, Error>>, Error> {
    let before = before(app, conn, members).await?;
    let refused = over_limits(app, conn, members, &before).await?;
    let mut checks = Checks::new(app);
    let mut plans = Vec::with_capacity(members.len());
    for (member, before) in members.iter().zip(before) {
        plans.push(match (before, refused.get(&member.caller.tenant)) {
            (Err(error), _) => Err(error),
            (Ok(Some(row)), _) => Ok(Plan::Before(Box::new(row))),
            (Ok(None), Some(refused)) => Err(refused.told_again()),
            (Ok(None), None) => {
                let new = checks.check(conn, member.caller, &member.wanted, member.id);
                new.await.map(|new| Plan::New(Box::new(new)))
            }
        });
    }
    Ok(plans)
}

/// Tenants that may not have all their new renders taken in, and why not.
async fn over_limits(
    app: &App,
    conn: &mut PgConnection,
    members: &[Member],
    before: &[Result<Option<Render>, Error>],
) -> Result<HashMap<TenantId, Error>, Error> {
    // In order, so that no two transactions wait for each other's tenants.
    let mut new: BTreeMap<TenantId, usize> = BTreeMap::new();
    for (member, before) in members.iter().zip(before) {
        if matches!(before, Ok(None)) {
            *new.entry(member.caller.tenant).or_default() += 1;
        }
    }
    let ids: Vec<TenantId> = new.keys().copied().collect();
    let tenants = tenants::get_many(conn, &ids).await?;
    let tenants: HashMap<TenantId, Tenant> = tenants.into_iter().map(|one| (one.id, one)).collect();
    let mut refused = HashMap::new();
    for (id, count) in new {
        let checked = match tenants.get(&id) {
            Some(tenant) => quota::check(conn, tenant, count, app.clock.now()).await,
            None => Err(Error::not_found("tenant", TenantName { tenant: id })),
        };
        if let Err(error) = checked {
            refused.insert(id, error);
        }
    }
    Ok(refused)
}

/// The renders that the same requests made before.
async fn before(
    app: &App,
    conn: &mut PgConnection,
    members: &[Member],
) -> Result<Vec<Result<Option<Render>, Error>>, Error> {
    let asked = members.iter().map(|member| (&member.replay, member.id.0));
    let asked: Vec<(&replay::Request, Uuid)> = asked.collect();
    let replays = replay::begin_all(conn, app, &asked).await?;
    let mut rows = Vec::with_capacity(members.len());
    for (member, replay) in members.iter().zip(replays) {
        rows.push(match replay {
            Err(error) => Err(error),
            Ok(None) => Ok(None),
            Ok(Some(ids)) => made_before(conn, member, &ids).await.map(Some),
        });
    }
    Ok(rows)
}

async fn made_before(
    conn: &mut PgConnection,
    member: &Member,
    ids: &[Uuid],
) -> Result<Render, Error> {
    let id = ids.first().copied();
    let id = id.ok_or_else(|| Error::internal("a request id without render"))?;
    renders::get(conn, member.caller.tenant, id.into()).await
}
