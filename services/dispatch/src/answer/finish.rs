//! A worker reports how its attempt ended. It repeats the report until it has an answer.

use likeness_domain::Error;
use likeness_queue::{FinishReply, FinishRequest, WorkOutcome};
use likeness_registry::renders::{self, Finish, Outcome};

use super::signed;
use crate::{events, server::Dispatch};

/// Applies the outcome if its attempt is the present one and the render is not over.
///
/// # Errors
/// The database fails, there is no such render, or the report does not fit it.
pub async fn finish(dispatch: Dispatch, request: FinishRequest) -> Result<FinishReply, Error> {
    let attempt = signed("attempt", request.attempt)?;
    let outcome = outcome(request.outcome);
    let mut tx = dispatch.begin().await?;
    let now = dispatch.clock.now();
    let retry = &dispatch.policy.retry;
    let finish = renders::finish(&mut tx, request.render, attempt, &outcome, retry, now).await?;
    dispatch.commit(tx).await?;
    if let Finish::Applied(state) = finish {
        tracing::info!(render = %request.render, attempt, %state, "attempt finished");
        events::render_changed(&dispatch, request.render, state).await;
        // Its place in the window is free.
        events::wake(&dispatch).await;
    }
    Ok(match finish {
        Finish::Applied(state) => FinishReply::Applied { state },
        Finish::Repeated(state) => FinishReply::Repeated { state },
        Finish::Stale(state) => FinishReply::Stale { state },
    })
}

fn outcome(outcome: WorkOutcome) -> Outcome {
    match outcome {
        WorkOutcome::Succeeded { images, timings } => Outcome::Succeeded { images, timings },
        WorkOutcome::Cancelled => Outcome::Cancelled,
        WorkOutcome::Failed {
            reason,
            message,
            retryable,
        } => Outcome::Failed {
            reason,
            message,
            retryable,
        },
        WorkOutcome::HandedBack => Outcome::HandedBack,
    }
}
