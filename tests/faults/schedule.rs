//! What goes wrong, and when: all of it decided by the seed of the run.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;
use likeness_local_stack::Stack;
use rand::{Rng as _, seq::IndexedRandom as _};
use rand_chacha::ChaCha8Rng;
use tokio_util::sync::CancellationToken;

use crate::{
    fleet::{Fleet, LEASE_SECONDS, Member},
    proxy::Mode,
};

/// Too little for a message.
const NO_ROOM: u64 = 1024;

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// SIGKILL of a process, which is started again.
    Kill,
    /// SIGSTOP of a process, often for longer than a lease.
    Stop,
    /// A process's connections break, and new ones for a while.
    Cut,
    /// A process's packets are held up, often for longer than a lease, and arrive after all.
    Hold,
    /// Storage answers 503.
    StorageRefuses,
    /// Storage takes its time.
    StorageSlow,
    /// SIGKILL of nats-server.
    NatsKilled,
    /// nats-server loses all its files.
    NatsWiped,
    /// nats-server has files of some time ago.
    NatsRolledBack,
    /// nats-server has no room for another message.
    NatsFull,
    /// Postgres is restarted in order.
    PostgresRestarted,
    /// SIGKILL of Postgres.
    PostgresKilled,
}

/// What may go wrong in a run.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// Of the processes and their connections.
    pub processes: &'static [Fault],
    /// Whose names begin so.
    pub victims: &'static str,
    /// Of the servers.
    pub servers: &'static [Fault],
}

impl Mix {
    /// Everything, the most frequent more than once.
    pub const ALL: Self = Self {
        processes: &Fault::OF_PROCESSES,
        victims: "",
        servers: &Fault::OF_SERVERS,
    };
}

impl Fault {
    const OF_PROCESSES: [Self; 6] = [
        Self::Kill,
        Self::Kill,
        Self::Stop,
        Self::Stop,
        Self::Cut,
        Self::Hold,
    ];
    const OF_SERVERS: [Self; 8] = [
        Self::StorageRefuses,
        Self::StorageSlow,
        Self::NatsKilled,
        Self::NatsWiped,
        Self::NatsRolledBack,
        Self::NatsFull,
        Self::PostgresRestarted,
        Self::PostgresKilled,
    ];
}

/// How often each came.
pub type Counts = BTreeMap<Fault, usize>;

/// Who suffers.
#[derive(Clone, Copy, Debug)]
pub enum Lane {
    Processes,
    Servers,
}

/// One fault after the other in a lane, until `over`; then all is well again.
pub async fn torment(
    lane: Lane,
    mix: Mix,
    fleet: &Fleet,
    stack: &Stack,
    mut random: ChaCha8Rng,
    over: CancellationToken,
) -> Result<Counts> {
    let mut counts = Counts::new();
    let kinds = match lane {
        Lane::Processes => mix.processes,
        Lane::Servers => mix.servers,
    };
    if kinds.contains(&Fault::NatsRolledBack) {
        blocking(|| stack.nats.back_up())?;
    }
    loop {
        let quiet = Duration::from_millis(random.random_range(100..1500));
        if over
            .run_until_cancelled(tokio::time::sleep(quiet))
            .await
            .is_none()
        {
            return Ok(counts);
        }
        let Some(fault) = kinds.choose(&mut random).copied() else {
            continue;
        };
        match lane {
            Lane::Processes => to_process(fault, mix.victims, fleet, &mut random).await?,
            Lane::Servers => to_server(fault, fleet, stack, &mut random).await?,
        }
        fleet.keep_up()?;
        *counts.entry(fault).or_default() += 1;
    }
}

async fn to_process(
    fault: Fault,
    victims: &str,
    fleet: &Fleet,
    random: &mut ChaCha8Rng,
) -> Result<()> {
    let members = fleet.members.iter();
    let members: Vec<&Member> = members
        .filter(|member| member.name.starts_with(victims))
        .collect();
    let Some(member) = members.choose(random) else {
        return Ok(());
    };
    let short = Duration::from_millis(random.random_range(50..1500));
    let lease = u64::from(LEASE_SECONDS) * 1000;
    let long = Duration::from_millis(random.random_range(lease / 3..2 * lease));
    tracing::info!(?fault, member = member.name, ?short, ?long, "a fault");
    match fault {
        Fault::Stop => {
            member.stop();
            tokio::time::sleep(long).await;
            member.go_on();
        }
        Fault::Cut | Fault::Hold => {
            let (mode, pause) = match fault {
                Fault::Cut => (Mode::Cut, short),
                _ => (Mode::Hold, long),
            };
            member.connections(mode);
            tokio::time::sleep(pause).await;
            member.connections(Mode::Pass);
        }
        _ => {
            member.kill();
            tokio::time::sleep(short).await;
            member.keep_up()?;
        }
    }
    Ok(())
}

async fn to_server(
    fault: Fault,
    fleet: &Fleet,
    stack: &Stack,
    random: &mut ChaCha8Rng,
) -> Result<()> {
    let pause = Duration::from_millis(random.random_range(50..2000));
    tracing::info!(?fault, ?pause, "a fault");
    match fault {
        Fault::StorageRefuses | Fault::StorageSlow => {
            fleet.s3.set(match fault {
                Fault::StorageRefuses => Mode::Refuse,
                _ => Mode::Slow(Duration::from_millis(random.random_range(50..500))),
            });
            tokio::time::sleep(pause).await;
            fleet.s3.set(Mode::Pass);
        }
        Fault::NatsWiped => blocking(|| stack.nats.wipe())?,
        Fault::NatsRolledBack => blocking(|| stack.nats.roll_back())?,
        Fault::NatsFull => {
            blocking(|| stack.nats.restart_with_room(Some(NO_ROOM)))?;
            tokio::time::sleep(pause).await;
            blocking(|| stack.nats.restart_with_room(None))?;
        }
        Fault::PostgresRestarted => blocking(|| stack.postgres.restart())?,
        Fault::PostgresKilled => {
            stack.postgres.kill();
            tokio::time::sleep(pause).await;
            blocking(|| stack.postgres.restart())?;
        }
        _ => {
            stack.nats.kill();
            tokio::time::sleep(pause).await;
            blocking(|| stack.nats.restart())?;
        }
    }
    Ok(())
}

/// Servers are started with blocking calls; the other tasks go on meanwhile.
fn blocking<T>(call: impl FnOnce() -> T) -> T {
    tokio::task::block_in_place(call)
}
