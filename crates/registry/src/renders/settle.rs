//! What becomes of a render when an attempt ends: the one place of the retry rules.

use chrono::{DateTime, TimeDelta, Utc};
use likeness_domain::{AttemptOutcome, Error, RenderState, names::RenderName};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    RenderError,
    attempts::{Ending, close},
    read::state_of,
};
use crate::error::database;

/// A failure with this reason is tried again alone: a smaller batch needs less memory.
const OUT_OF_MEMORY: &str = "OUT_OF_MEMORY";

/// When a failed attempt is followed by another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The failure with this number is the last.
    pub max_failures: i32,
    /// So many workers may go silent while they have the render and nothing else; then it is kept from the others.
    pub max_deaths_alone: i32,
    /// The wait after the first failure; doubled by each further one.
    pub base: TimeDelta,
    /// The longest wait.
    pub max: TimeDelta,
}

impl RetryPolicy {
    /// The wait after failure number `failures`: exponential, half of it jittered. The chance comes from the render's
    /// id, so that renders that failed together do not come back together.
    fn wait(&self, render: Uuid, failures: i32) -> TimeDelta {
        let doublings = failures.clamp(1, 31) - 1;
        let full = self
            .base
            .checked_mul(1 << doublings)
            .map_or(self.max, |wait| wait.min(self.max));
        // Fibonacci hashing: the high bits of the product depend on every bit of the id.
        let seed = render.as_u128() as u64 ^ failures as u64;
        let part = (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as i32;
        full / 2 + full / 512 * part
    }
}

/// A render that reached another state by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Which.
    pub render: RenderName,
    /// Where it stands now.
    pub state: RenderState,
}

pub(super) struct SettledRow {
    pub id: Uuid,
    pub tenant_id: Uuid,
    pub state: String,
}

/// Reads what a statement settled.
pub(super) fn settled(rows: Vec<SettledRow>) -> Result<Vec<Settled>, Error> {
    let read = |row: SettledRow| {
        let render = RenderName {
            tenant: row.tenant_id.into(),
            render: row.id.into(),
        };
        Ok(Settled {
            render,
            state: state_of(&row.state, row.id)?,
        })
    };
    rows.into_iter().map(read).collect()
}

/// A RUNNING render whose row the transaction has locked.
pub(super) struct Running {
    pub id: Uuid,
    pub attempt: i32,
    pub failures: i32,
    pub alone: bool,
    pub deaths_alone: i32,
    pub cancel_requested: bool,
}

/// An attempt that ended without images.
pub(super) enum Loss {
    /// Its worker stopped because the render was cancelled.
    Cancelled,
    /// Its worker gave it back unharmed.
    HandedBack,
    /// It failed.
    Failed { error: RenderError, retryable: bool },
    /// Its worker went silent.
    Died { error: RenderError },
}

/// Where a render goes from RUNNING.
#[derive(Debug, PartialEq, Eq)]
struct Next {
    state: RenderState,
    failures: i32,
    alone: bool,
    deaths_alone: i32,
    run_after: Option<DateTime<Utc>>,
}

fn next(running: &Running, loss: &Loss, policy: &RetryPolicy, now: DateTime<Utc>) -> Next {
    let failed = i32::from(matches!(loss, Loss::Failed { .. }));
    // A worker that went silent with several renders tells nothing of any one of them.
    let died_alone = i32::from(running.alone && matches!(loss, Loss::Died { .. }));
    let failures = running.failures.saturating_add(failed);
    let deaths_alone = running.deaths_alone.saturating_add(died_alone);
    let again = match loss {
        Loss::Failed { retryable, .. } => *retryable && failures < policy.max_failures,
        Loss::Died { .. } => deaths_alone < policy.max_deaths_alone,
        // Nobody asked for it to be cancelled: as if handed back.
        Loss::Cancelled | Loss::HandedBack => true,
    };
    let state = match (running.cancel_requested, again) {
        (true, _) => RenderState::Cancelled,
        (false, true) => RenderState::Queued,
        (false, false) => RenderState::Failed,
    };
    let waits = state == RenderState::Queued && loss.is_harmful();
    Next {
        state,
        failures,
        alone: running.alone || loss.wants_solitude(),
        deaths_alone,
        run_after: waits.then(|| now + policy.wait(running.id, failures + deaths_alone)),
    }
}

impl Loss {
    fn is_harmful(&self) -> bool {
        matches!(self, Self::Failed { .. } | Self::Died { .. })
    }

    /// Whether the next attempt should share its worker with no other.
    fn wants_solitude(&self) -> bool {
        match self {
            Self::Died { .. } => true,
            Self::Failed { error, .. } => error.reason == OUT_OF_MEMORY,
            Self::Cancelled | Self::HandedBack => false,
        }
    }
}

/// Why a render FAILED whose last attempt ended so.
fn verdict(loss: &Loss) -> Option<RenderError> {
    match loss {
        Loss::Failed { error, .. } => Some(error.clone()),
        Loss::Died { .. } => Some(RenderError {
            reason: "QUARANTINED".to_owned(),
            message: "every worker that had it went silent, even with nothing else at hand"
                .to_owned(),
        }),
        Loss::Cancelled | Loss::HandedBack => None,
    }
}

/// Ends the present attempt of a render and settles what becomes of it.
pub(super) async fn lose(
    conn: &mut PgConnection,
    running: &Running,
    loss: Loss,
    policy: &RetryPolicy,
    now: DateTime<Utc>,
) -> Result<RenderState, Error> {
    let next = next(running, &loss, policy, now);
    let fatal = verdict(&loss).filter(|_| next.state == RenderState::Failed);
    let ending = Ending {
        became: next.state,
        device_seconds: None,
        ..ending(running, loss)
    };
    let terminal = next.state.is_terminal();
    sqlx::query!(
        "UPDATE renders SET state = $2, failures = $3, run_after = $4, worker = NULL,
             lease_until = NULL, published_at = NULL, dispatched_at = NULL,
             begun_at = CASE WHEN $5 THEN begun_at END, finished_at = CASE WHEN $5 THEN $6::timestamptz END,
             error_reason = $7, error_message = $8, alone = $9, deaths_alone = $10
         WHERE id = $1",
        running.id,
        next.state.as_str(),
        next.failures,
        next.run_after,
        terminal,
        now,
        fatal.as_ref().map(|error| error.reason.as_str()),
        fatal.as_ref().map(|error| error.message.as_str()),
        next.alone,
        next.deaths_alone
    )
    .execute(&mut *conn)
    .await
    .map_err(database)?;
    close(conn, running.id, running.attempt, &ending, now).await?;
    Ok(next.state)
}

/// The attempt's own end, whatever becomes of the render.
fn ending(running: &Running, loss: Loss) -> Ending {
    let ended = |outcome, error| Ending {
        outcome,
        became: RenderState::Queued,
        error,
        device_seconds: None,
    };
    match loss {
        Loss::Cancelled if running.cancel_requested => ended(AttemptOutcome::Cancelled, None),
        Loss::Cancelled | Loss::HandedBack => ended(AttemptOutcome::HandedBack, None),
        Loss::Failed { error, .. } => ended(AttemptOutcome::Failed, Some(error)),
        Loss::Died { error } => ended(AttemptOutcome::Lost, Some(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RetryPolicy = RetryPolicy {
        max_failures: 3,
        max_deaths_alone: 2,
        base: TimeDelta::seconds(2),
        max: TimeDelta::seconds(60),
    };

    fn running(failures: i32, cancel_requested: bool) -> Running {
        Running {
            id: Uuid::from_u128(0x77),
            attempt: 1,
            failures,
            alone: false,
            deaths_alone: 0,
            cancel_requested,
        }
    }

    fn error(reason: &str) -> RenderError {
        RenderError {
            reason: reason.to_owned(),
            message: String::new(),
        }
    }

    fn failed(retryable: bool) -> Loss {
        let error = error("MODEL_FAULT");
        Loss::Failed { error, retryable }
    }

    fn died() -> Loss {
        Loss::Died {
            error: error("WORKER_LOST"),
        }
    }

    fn after(running: &Running, loss: &Loss) -> Next {
        next(running, loss, &POLICY, DateTime::UNIX_EPOCH)
    }

    #[test]
    fn failures_are_retried_until_they_are_spent() {
        let first = after(&running(0, false), &failed(true));
        assert_eq!((first.state, first.failures), (RenderState::Queued, 1));
        assert!(first.run_after.unwrap() > DateTime::UNIX_EPOCH);
        let last = after(&running(2, false), &failed(true));
        assert_eq!((last.state, last.failures), (RenderState::Failed, 3));
        assert_eq!(last.run_after, None);
    }

    #[test]
    fn a_permanent_failure_is_the_last() {
        assert_eq!(
            after(&running(0, false), &failed(false)).state,
            RenderState::Failed
        );
    }

    #[test]
    fn a_hand_back_does_not_count_and_does_not_wait() {
        let expected = Next {
            state: RenderState::Queued,
            failures: 2,
            alone: false,
            deaths_alone: 0,
            run_after: None,
        };
        assert_eq!(after(&running(2, false), &Loss::HandedBack), expected);
    }

    #[test]
    fn after_a_death_in_company_it_is_tried_alone_and_two_deaths_alone_are_the_last() {
        let mut attempt = running(2, false);
        let mut states = Vec::new();
        for _ in 0..3 {
            let next = after(&attempt, &died());
            assert!(next.alone && next.failures == 2);
            states.push((next.state, next.deaths_alone));
            attempt.alone = next.alone;
            attempt.deaths_alone = next.deaths_alone;
        }
        let queued = RenderState::Queued;
        let expected = [(queued, 0), (queued, 1), (RenderState::Failed, 2)];
        assert_eq!(states, expected);
        assert_eq!(verdict(&died()).unwrap().reason, "QUARANTINED");
    }

    #[test]
    fn what_was_too_much_for_the_memory_is_tried_alone() {
        let error = error(OUT_OF_MEMORY);
        let loss = Loss::Failed {
            error,
            retryable: true,
        };
        let next = after(&running(0, false), &loss);
        assert!(next.alone);
        assert_eq!((next.state, next.failures), (RenderState::Queued, 1));
        assert!(!after(&running(0, false), &failed(true)).alone);
    }

    #[test]
    fn a_cancel_that_nobody_asked_for_is_a_hand_back() {
        assert_eq!(
            after(&running(0, false), &Loss::Cancelled).state,
            RenderState::Queued
        );
        let ending = ending(&running(0, false), Loss::Cancelled);
        assert_eq!(ending.outcome, AttemptOutcome::HandedBack);
    }

    #[test]
    fn nothing_cancelled_goes_back_to_the_queue() {
        for loss in [
            Loss::Cancelled,
            Loss::HandedBack,
            failed(true),
            failed(false),
            died(),
        ] {
            assert_eq!(
                after(&running(0, true), &loss).state,
                RenderState::Cancelled
            );
        }
    }

    #[test]
    fn waits_double_up_to_the_longest_and_half_of_them_is_chance() {
        let id = Uuid::from_u128(0x0192_0000_0000_7000_8000_1234_5678_9abc);
        let bounds = [(1, 2), (2, 4), (3, 8), (6, 60), (i32::MAX, 60)];
        for (failures, full) in bounds {
            let wait = POLICY.wait(id, failures);
            assert!(wait >= TimeDelta::seconds(full) / 2, "{failures}: {wait}");
            assert!(wait <= TimeDelta::seconds(full), "{failures}: {wait}");
        }
        let other = POLICY.wait(Uuid::from_u128(id.as_u128() ^ 0xff00_0000), 1);
        assert_ne!(POLICY.wait(id, 1), other);
    }
}
