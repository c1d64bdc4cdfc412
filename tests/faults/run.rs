//! One run: servers and processes, clients, faults; then the check.

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use likeness_test_support::{Servers, TestContext, history};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use tokio_util::sync::CancellationToken;

use crate::{
    checker::{Breach, Evidence, Finding},
    client::{self, Memory, Tenant, Wish},
    fleet::{Fleet, Member, Setup},
    photos,
    proxy::Mode,
    schedule::{Counts, Lane, Mix, torment},
};

/// Requests under way at a time.
const CLIENTS: usize = 24;
/// Longest that faults go on once everything is submitted.
const TAIL: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(100);

/// What to run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub renders: usize,
    pub photos: usize,
    pub setup: Setup,
    pub faults: Mix,
    /// Over what time the renders are submitted, at least.
    pub lasting: Duration,
    /// How long after the last fault everything must have its end.
    pub patience: Duration,
}

/// How it went.
pub struct Report {
    pub plan: Plan,
    pub submitted: usize,
    pub photos: BTreeMap<String, usize>,
    pub findings: Vec<Finding>,
    pub states: BTreeMap<String, usize>,
    pub reasons: BTreeMap<String, usize>,
    pub outcomes: BTreeMap<String, usize>,
    pub faults: Counts,
    /// From the first request to the end of the last fault.
    pub torment: Duration,
    /// From then to the last render's end.
    pub settling: Duration,
    pub time: Duration,
}

impl Report {
    pub fn count(&self, breach: Breach) -> usize {
        let findings = self.findings.iter();
        findings.filter(|found| found.breach == breach).count()
    }
}

/// Runs a plan on servers of its own.
pub async fn run(plan: Plan) -> Result<Report> {
    let begun = Instant::now();
    let servers = Arc::new(tokio::task::block_in_place(Servers::start)?);
    let context = TestContext::on(servers.clone()).await?;
    let stack = servers.stack().context("the servers are not ours")?;
    history::record(context.pool()).await?;
    let logs = tempfile::Builder::new().prefix("faults-").tempdir()?;
    let fleet = Fleet::start(&context, &plan.setup, logs.path()).await?;
    let tenants = client::tenants(&fleet.apis).await?;
    let albums = photos::albums(&tenants).await?;

    let memory = Memory::default();
    let (over, mut seeds) = (
        CancellationToken::new(),
        ChaCha8Rng::seed_from_u64(plan.seed),
    );
    let wishes = client::wishes(plan.renders, &mut seeds);
    let lane = |lane, stream| {
        let mut random = ChaCha8Rng::seed_from_u64(plan.seed);
        random.set_stream(stream);
        torment(lane, plan.faults, &fleet, stack, random, over.clone())
    };
    let tormented = Instant::now();
    let clients = async {
        tokio::try_join!(
            submit(&tenants, wishes, &memory, plan.lasting),
            albums.upload(plan.photos, plan.lasting),
        )?;
        drained(&context, plan.renders / 10, TAIL).await;
        over.cancel();
        anyhow::Ok(())
    };
    let ((), faults, more) =
        tokio::try_join!(clients, lane(Lane::Processes, 1), lane(Lane::Servers, 2))?;
    fleet.members.iter().for_each(|member| {
        member.go_on();
        member.connections(Mode::Pass);
    });
    fleet.s3.set(Mode::Pass);
    let healed = Instant::now();
    settle(&context, &fleet, plan.patience).await?;
    let settling = healed.elapsed();
    told(&memory, plan.patience).await;
    // Whoever breaks a rule on purpose is not asked about orphans.
    if plan.setup.rule.is_none() {
        swept(&context, &fleet).await?;
    }

    let journal = std::fs::read_to_string(&fleet.journal).unwrap_or_default();
    let evidence = Evidence::gather(&context, memory.all(), tenants, &journal).await?;
    let mut findings = evidence.check();
    evidence.check_neighbours(&mut findings).await?;
    findings.extend(albums.check(&context).await?);
    if !findings.is_empty() || std::env::args().any(|arg| arg == "--keep-logs") {
        let _ = logs.keep();
    }
    Ok(Report {
        submitted: memory.all().len(),
        photos: albums.states(&context).await?,
        findings,
        states: evidence.states(),
        reasons: evidence.reasons(),
        outcomes: evidence.outcomes(),
        faults: faults.into_iter().chain(more).collect(),
        torment: healed - tormented,
        settling,
        time: begun.elapsed(),
        plan,
    })
}

pub async fn submit(
    tenants: &[Tenant],
    wishes: Vec<Wish>,
    memory: &Memory,
    lasting: Duration,
) -> Result<()> {
    let (begun, each) = (
        tokio::time::Instant::now(),
        lasting / u32::try_from(wishes.len().max(1))?,
    );
    let requests = wishes.into_iter().zip(0..).map(|(wish, place)| async move {
        tokio::time::sleep_until(begun + each * place).await;
        tenants[wish.tenant].live(wish, memory).await
    });
    let mut requests = futures::stream::iter(requests).buffer_unordered(CLIENTS);
    while let Some(done) = requests.next().await {
        done?;
    }
    Ok(())
}

/// Waits until few enough renders live.
async fn drained(context: &TestContext, few: usize, limit: Duration) {
    let _ = tokio::time::timeout(limit, async {
        // Postgres may be away.
        while history::living(context.pool())
            .await
            .is_ok_and(|living| living <= few as i64)
            .then_some(())
            .is_none()
        {
            tokio::time::sleep(LOOK).await;
        }
    })
    .await;
}

/// Waits until every render has its end, with whatever ended by itself started again.
pub async fn settle(context: &TestContext, fleet: &Fleet, limit: Duration) -> Result<()> {
    let deadline = Instant::now() + limit;
    while history::living(context.pool()).await? > 0 && Instant::now() < deadline {
        fleet.keep_up()?;
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Waits until whoever watches has heard of the end.
pub async fn told(memory: &Memory, limit: Duration) {
    let waiting = || {
        let all = memory.all();
        all.iter()
            .any(|(wish, told)| wish.watch && !told.created.is_empty() && told.watched.is_none())
    };
    let deadline = Instant::now() + limit;
    while waiting() && Instant::now() < deadline {
        tokio::time::sleep(LOOK).await;
    }
}

/// Ends the workers, lets the time of every erasure come, and waits for the sweep.
pub async fn swept(context: &TestContext, fleet: &Fleet) -> Result<()> {
    fleet.workers().for_each(Member::kill);
    let deadline = Instant::now() + Duration::from_mins(2);
    while history::erase_now(context.pool()).await? > 0 && Instant::now() < deadline {
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// One line.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            plan, submitted, ..
        } = self;
        write!(f, "seed {}: submitted {submitted}", plan.seed)?;
        for (breach, name) in [
            (Breach::Lost, "lost"),
            (Breach::Duplicated, "duplicated"),
            (Breach::Stuck, "stuck"),
            (Breach::Orphaned, "orphaned"),
            (Breach::WrongOwner, "wrong-owner"),
        ] {
            write!(f, ", {name} {}", self.count(breach))?;
        }
        let faults: usize = self.faults.values().sum();
        write!(
            f,
            ", time {:.1} s ({faults} faults in {:.1} s, settled in {:.1} s; renders {:?}, attempts {:?}, photos {:?})",
            self.time.as_secs_f64(),
            self.torment.as_secs_f64(),
            self.settling.as_secs_f64(),
            self.states,
            self.outcomes,
            self.photos,
        )
    }
}
