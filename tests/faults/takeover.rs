//! How soon another dispatcher leads where the leading one is killed or stands still, and that nothing happens twice.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use likeness_domain::{Clock as _, SystemClock};
use likeness_test_support::{Servers, TestContext, history};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use crate::{
    block_on,
    checker::Evidence,
    client::{self, Memory},
    fleet::{Fleet, Member, Setup},
    run,
};

/// What is promised.
const PROMISED: Duration = Duration::from_secs(2);
/// How often the test looks at each way; the middle one counts, since a busy machine may hold a process up.
const TIMES: usize = 3;
/// Renders that are submitted meanwhile, over what time.
const RENDERS: usize = 400;
const LASTING: Duration = Duration::from_secs(8);
const PATIENCE: Duration = Duration::from_mins(1);
const LOOK: Duration = Duration::from_millis(2);
const SEED: u64 = 11;

/// What happens to the leader.
#[derive(Clone, Copy, Debug)]
enum How {
    /// SIGKILL.
    Killed,
    /// SIGSTOP, until another leads.
    Stopped,
}

/// How long nothing was admitted.
struct Gap {
    how: How,
    took: Duration,
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (how, took) = (self.how, self.took.as_secs_f64());
        write!(
            f,
            "takeover: leader {how:?}, another admitted after {took:.2} s"
        )
    }
}

/// The middle of several is within what is promised.
pub fn check() -> Result<()> {
    for how in [How::Killed, How::Stopped] {
        let mut gaps = block_on(gaps(how, TIMES))?;
        gaps.sort_by_key(|gap| gap.took);
        let middle = &gaps[TIMES / 2];
        ensure!(middle.took < PROMISED, "{middle}");
    }
    Ok(())
}

/// Prints each.
pub fn print(times: usize) -> Result<()> {
    for how in [How::Killed, How::Stopped] {
        block_on(gaps(how, times))?;
    }
    Ok(())
}

async fn gaps(how: How, times: usize) -> Result<Vec<Gap>> {
    let mut gaps = Vec::with_capacity(times);
    for _ in 0..times {
        let gap = gap(how).await?;
        println!("{gap}");
        gaps.push(gap);
    }
    Ok(gaps)
}

async fn gap(how: How) -> Result<Gap> {
    let servers = Arc::new(tokio::task::block_in_place(Servers::start)?);
    let context = TestContext::on(servers).await?;
    history::record(context.pool()).await?;
    let logs = tempfile::Builder::new().prefix("takeover-").tempdir()?;
    let setup = Setup {
        rule: None,
        unclaimed: None,
    };
    let fleet = Fleet::start(&context, &setup, logs.path()).await?;
    let tenants = client::tenants(&fleet.apis).await?;
    let memory = Memory::default();
    let wishes = client::wishes(RENDERS, &mut ChaCha8Rng::seed_from_u64(SEED));
    let ((), took) = tokio::try_join!(
        run::submit(&tenants, wishes, &memory, LASTING),
        take_over(how, &context, &fleet),
    )?;
    fleet.keep_up()?;
    run::settle(&context, &fleet, PATIENCE).await?;
    run::told(&memory, PATIENCE).await;
    run::swept(&context, &fleet).await?;
    let journal = std::fs::read_to_string(&fleet.journal).unwrap_or_default();
    let evidence = Evidence::gather(&context, memory.all(), tenants, &journal).await?;
    let findings: Vec<String> = evidence.check().iter().map(ToString::to_string).collect();
    ensure!(findings.is_empty(), "{}", findings.join("\n"));
    Ok(Gap { how, took })
}

async fn take_over(how: How, context: &TestContext, fleet: &Fleet) -> Result<Duration> {
    let begun = SystemClock.now();
    until(async || {
        Ok(history::admitted_since(context.pool(), begun)
            .await?
            .then_some(()))
    })
    .await?;
    let leader = leader(context, fleet).await?;
    match how {
        How::Killed => leader.kill(),
        How::Stopped => leader.stop(),
    }
    let (gone, since) = (Instant::now(), SystemClock.now());
    until(async || {
        Ok(history::admitted_since(context.pool(), since)
            .await?
            .then_some(()))
    })
    .await?;
    let took = gone.elapsed();
    // It goes on where it stood, in the belief that it leads.
    leader.go_on();
    Ok(took)
}

async fn leader<'a>(context: &TestContext, fleet: &'a Fleet) -> Result<&'a Member> {
    until(async || {
        let holder = history::leader(context.pool(), "dispatch").await?;
        Ok(holder.and_then(|holder| fleet.leader(&holder)))
    })
    .await
}

async fn until<T>(mut look: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let looking = async {
        loop {
            if let Some(found) = look().await? {
                return anyhow::Ok(found);
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, looking).await;
    found.context("it did not come to pass")?
}
