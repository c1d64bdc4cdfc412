//! Single renders of many requests, taken in with one commit: what arrives while others commit goes together.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use likeness_domain::{Error, ErrorKind};
use likeness_registry::renders::Render;
use tokio::sync::{Semaphore, oneshot};

use super::create::{Member, Plan, plan, store, take_in};
use crate::{app::App, events};

/// The most renders of one commit.
const MOST: usize = 64;
/// Commits under way: while some wait for Postgres and the disk, the next is put together.
const AT_ONCE: usize = 4;

/// Renders that wait to be taken in.
pub struct Intake {
    waiting: Mutex<VecDeque<Ask>>,
    turns: Semaphore,
}

/// One render, and who waits for it.
struct Ask {
    member: Member,
    answer: oneshot::Sender<Result<Render, Error>>,
}

impl Default for Intake {
    fn default() -> Self {
        Self {
            waiting: Mutex::default(),
            turns: Semaphore::new(AT_ONCE),
        }
    }
}

impl Intake {
    fn waiting(&self) -> MutexGuard<'_, VecDeque<Ask>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first that wait, no two of them of one request: a twin must see what the first one did.
    fn next(&self) -> Vec<Ask> {
        let mut waiting = self.waiting();
        let mut requests = HashSet::new();
        let mut count = 0;
        for ask in waiting.iter().take(MOST) {
            if ask
                .member
                .request()
                .is_some_and(|one| !requests.insert(one))
            {
                break;
            }
            count += 1;
        }
        waiting.drain(..count).collect()
    }
}

/// Takes one render in. The work goes on where the caller does not wait for it: others may be in the same commit.
pub async fn take_in_one(app: &App, member: Member) -> Result<Render, Error> {
    let (answer, told) = oneshot::channel();
    let app = app.clone();
    if member.has_picture() {
        tokio::spawn(async move { alone(&app, Ask { member, answer }).await });
    } else {
        app.intake.waiting().push_back(Ask { member, answer });
        // One for each: whoever has a turn takes all that wait, and the others find nothing.
        tokio::spawn(async move { serve(&app).await });
    }
    let told = told.await;
    told.map_err(|_| Error::internal("a render was not taken in: its task ended"))?
}

async fn serve(app: &App) {
    let Ok(_turn) = app.intake.turns.acquire().await else {
        return;
    };
    let mut group = app.intake.next();
    while !group.is_empty() {
        group = together(app, group).await;
    }
}

async fn alone(app: &App, ask: Ask) {
    let taken = take_in(app, std::slice::from_ref(&ask.member)).await;
    let row = taken.and_then(|rows| {
        let row = rows.into_iter().next();
        row.ok_or_else(|| Error::internal("one render was taken in and none came back"))
    });
    if row.is_ok() {
        events::wake_dispatch(app).await;
    }
    // Whoever asked may have gone.
    let _ = ask.answer.send(row);
}

/// Takes a group in with one commit. Where some are refused, nothing is committed; the others come back.
async fn together(app: &App, mut group: Vec<Ask>) -> Vec<Ask> {
    if group.len() == 1 {
        if let Some(ask) = group.pop() {
            alone(app, ask).await;
        }
        return group;
    }
    let (asks, members): (Vec<_>, Vec<_>) = group
        .into_iter()
        .map(|Ask { member, answer }| (answer, member))
        .unzip();
    let tried = attempt(app, &members).await;
    let group = asks.into_iter().zip(members);
    let mut group = group
        .map(|(answer, member)| Ask { member, answer })
        .collect();
    match tried {
        Ok(rows) => {
            events::wake_dispatch(app).await;
            answer(group, rows.into_iter().map(Ok));
            Vec::new()
        }
        Err(Trouble::Refused(refusals)) => refuse(app, group, refusals),
        // Where the database is away, nothing was committed, and one by one they would wait for it one after the other.
        Err(Trouble::Database(error)) if error.kind == ErrorKind::Unavailable => {
            answer(group, std::iter::repeat_with(|| Err(error.told_again())));
            Vec::new()
        }
        Err(Trouble::Commit(error)) => {
            // Whether it was committed is unknown, so nobody is taken in a second time.
            answer(group, std::iter::repeat_with(|| Err(error.told_again())));
            Vec::new()
        }
        Err(Trouble::Database(error)) => {
            tracing::warn!(?error, "renders that came together are taken in one by one");
            for ask in group.drain(..) {
                alone(app, ask).await;
            }
            group
        }
    }
}

fn answer(group: Vec<Ask>, rows: impl Iterator<Item = Result<Render, Error>>) {
    for (ask, row) in group.into_iter().zip(rows) {
        let _ = ask.answer.send(row);
    }
}

/// Why a group was not taken in.
enum Trouble {
    /// These were refused; nothing was committed.
    Refused(Vec<Option<Error>>),
    /// Nothing was committed.
    Database(Error),
    /// The commit was not confirmed.
    Commit(Error),
}

async fn attempt(app: &App, members: &[Member]) -> Result<Vec<Render>, Trouble> {
    let mut tx = app.begin().await.map_err(Trouble::Database)?;
    let plans = plan(app, &mut tx, members)
        .await
        .map_err(Trouble::Database)?;
    let plans = unrefused(plans).map_err(Trouble::Refused)?;
    let rows = store(app, &mut tx, plans)
        .await
        .map_err(Trouble::Database)?;
    app.commit(tx).await.map_err(Trouble::Commit)?;
    Ok(rows)
}

/// All plans, or each refusal in its place.
fn unrefused(plans: Vec<Result<Plan, Error>>) -> Result<Vec<Plan>, Vec<Option<Error>>> {
    if plans.iter().all(Result::is_ok) {
        return Ok(plans.into_iter().flatten().collect());
    }
    Err(plans.into_iter().map(Result::err).collect())
}

/// Tells those that were refused for what they are; those that may have been refused for the others' sake are tried
/// alone. Returns the rest.
fn refuse(app: &App, group: Vec<Ask>, refusals: Vec<Option<Error>>) -> Vec<Ask> {
    let mut rest = Vec::new();
    for (ask, refusal) in group.into_iter().zip(refusals) {
        match refusal {
            None => rest.push(ask),
            Some(error) if is_own(&error) => drop(ask.answer.send(Err(error))),
            // Not in this turn, which others wait for: a tenant over its limits would hold up everybody.
            Some(_) => {
                let app = app.clone();
                tokio::spawn(async move { alone(&app, ask).await });
            }
        }
    }
    rest
}

/// Whether a refusal has nothing to do with the others: not with how many of a tenant there are, nor with a transaction
/// that failed.
fn is_own(error: &Error) -> bool {
    let shared = [
        ErrorKind::ResourceExhausted,
        ErrorKind::Unavailable,
        ErrorKind::Aborted,
        ErrorKind::Internal,
    ];
    !shared.contains(&error.kind)
}
