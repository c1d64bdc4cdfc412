//! Finishing: what a worker reports of its attempt.

use chrono::{DateTime, Utc};
use likeness_domain::{
    AttemptOutcome, Error, RenderId, RenderState,
    render::{RenderSpec, RenderTimings, RenderedImage},
};
use sqlx::{PgConnection, types::Json};

use super::{
    RenderError, RetryPolicy,
    attempts::{Ending, close},
    read::state_of,
    settle::{Loss, Running, lose},
};
use crate::error::database;

/// How an attempt ended, as its worker reports it.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The images are in storage.
    Succeeded {
        /// In order.
        images: Vec<RenderedImage>,
        /// Where the time went.
        timings: RenderTimings,
    },
    /// It stopped because the render was cancelled.
    Cancelled,
    /// It failed.
    Failed {
        /// UPPER_SNAKE, for programs.
        reason: String,
        /// For people; nothing personal in it.
        message: String,
        /// Another attempt may succeed.
        retryable: bool,
    },
    /// The worker gives it back unharmed; it does not count as a failure.
    HandedBack,
}

/// What came of a report, with the state that the render reached by this attempt, or stands in if the report is stale.
/// The worker is done with the render in each case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The outcome was applied.
    Applied(RenderState),
    /// This attempt had reported already: the answer that it got then.
    Repeated(RenderState),
    /// The attempt had lost the render before; nothing changed.
    Stale(RenderState),
}

/// Applies an attempt's outcome, in the caller's transaction, if the attempt is the render's current one and the render
/// still runs. A lapsed lease that nobody has noticed yet does no harm. A finished render stays so even if cancelling
/// was asked for; any other outcome is then CANCELLED.
///
/// # Errors
/// `NotFound` if the render has been deleted, `InvalidArgument` for images that are not what the render asked for; the
/// database fails or holds what cannot be read.
pub async fn finish(
    conn: &mut PgConnection,
    render: RenderId,
    attempt: i32,
    outcome: &Outcome,
    policy: &RetryPolicy,
    now: DateTime<Utc>,
) -> Result<Finish, Error> {
    let row = sqlx::query!(
        r#"SELECT state, attempt, failures, alone, deaths_alone,
               cancel_requested_at IS NOT NULL AS "cancel_requested!",
               spec AS "spec: Json<RenderSpec>"
           FROM renders WHERE id = $1 FOR UPDATE"#,
        render.0
    )
    .fetch_optional(&mut *conn)
    .await
    .map_err(database)?
    .ok_or_else(|| Error::not_found("render", render))?;
    let state = state_of(&row.state, render.0)?;
    if state != RenderState::Running || row.attempt != attempt {
        return answered(conn, render, attempt, state).await;
    }
    let running = Running {
        id: render.0,
        attempt,
        failures: row.failures,
        alone: row.alone,
        deaths_alone: row.deaths_alone,
        cancel_requested: row.cancel_requested,
    };
    let state = match outcome {
        Outcome::Succeeded { images, timings } => {
            check_images(&row.spec.0, images)?;
            win(conn, &running, images, timings, now).await?
        }
        Outcome::Cancelled => lose(conn, &running, Loss::Cancelled, policy, now).await?,
        Outcome::HandedBack => lose(conn, &running, Loss::HandedBack, policy, now).await?,
        Outcome::Failed {
            reason,
            message,
            retryable,
        } => {
            let error = RenderError {
                reason: reason.clone(),
                message: message.clone(),
            };
            let loss = Loss::Failed {
                error,
                retryable: *retryable,
            };
            lose(conn, &running, loss, policy, now).await?
        }
    };
    Ok(Finish::Applied(state))
}

/// The answer that this attempt's report got, if it made one.
async fn answered(
    conn: &mut PgConnection,
    render: RenderId,
    attempt: i32,
    state: RenderState,
) -> Result<Finish, Error> {
    // LOST and EXPIRED are no worker's reports.
    let became = sqlx::query_scalar!(
        r#"SELECT became AS "became!" FROM render_attempts
           WHERE render_id = $1 AND attempt = $2
               AND outcome IN ('SUCCEEDED', 'FAILED', 'CANCELLED', 'HANDED_BACK')"#,
        render.0,
        attempt
    )
    .fetch_optional(conn)
    .await
    .map_err(database)?;
    Ok(match became {
        Some(became) => Finish::Repeated(state_of(&became, render.0)?),
        None => Finish::Stale(state),
    })
}

/// Checks that a report holds the images that the render asked for.
fn check_images(spec: &RenderSpec, images: &[RenderedImage]) -> Result<(), Error> {
    if images.len() != spec.image_count as usize {
        let expected = format!(
            "expected {} images, found {}",
            spec.image_count,
            images.len()
        );
        return Err(Error::invalid_field("images", expected));
    }
    for (position, image) in images.iter().enumerate() {
        check_image(spec, position, image)
            .map_err(|expected| Error::invalid_field(format!("images[{position}]"), expected))?;
    }
    Ok(())
}

fn check_image(
    spec: &RenderSpec,
    position: usize,
    image: &RenderedImage,
) -> Result<(), &'static str> {
    let is_digest = |text: &str| {
        text.len() == 64
            && text
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    if (image.width, image.height) != (spec.width, spec.height) {
        return Err("expected the size that the render asked for");
    }
    if image.format != spec.output_format {
        return Err("expected the format that the render asked for");
    }
    let mut seeds = (0..spec.best_of).map(|candidate| spec.seed_of(position as u32, candidate));
    if !seeds.any(|seed| seed == image.seed) {
        return Err("expected the seed of one of the image's candidates");
    }
    if image
        .likeness
        .is_some_and(|likeness| !(-1.0..=1.0).contains(&likeness))
    {
        return Err("expected a likeness from -1 to 1, or none");
    }
    if image.size_bytes == 0 || image.size_bytes > i64::MAX as u64 {
        return Err("expected a file with bytes in it");
    }
    if !is_digest(&image.sha256) {
        return Err("expected a SHA-256 in lower-case hex");
    }
    Ok(())
}

/// Makes an attempt's images the render's.
async fn win(
    conn: &mut PgConnection,
    running: &Running,
    images: &[RenderedImage],
    timings: &RenderTimings,
    now: DateTime<Utc>,
) -> Result<RenderState, Error> {
    sqlx::query!(
        "WITH won AS (
             UPDATE renders SET state = 'SUCCEEDED', timings = $2, finished_at = $3, worker = NULL,
                 lease_until = NULL
             WHERE id = $1 RETURNING id, attempt)
         INSERT INTO render_images (render_id, position, attempt, format, width, height, size_bytes,
                                    sha256, seed, likeness)
         SELECT won.id, i.position - 1, won.attempt, i.format, i.width, i.height, i.size_bytes,
                i.sha256, i.seed, i.likeness
         FROM won, ROWS FROM (jsonb_to_recordset($4)
             AS (format text, width integer, height integer, size_bytes bigint, sha256 text,
                 seed bigint, likeness real)) WITH ORDINALITY
             AS i (format, width, height, size_bytes, sha256, seed, likeness, position)",
        running.id,
        Json(timings) as _,
        now,
        Json(images) as _
    )
    .execute(&mut *conn)
    .await
    .map_err(database)?;
    let became = RenderState::Succeeded;
    let ending = Ending {
        outcome: AttemptOutcome::Succeeded,
        became,
        error: None,
        device_seconds: Some(timings.synthesis + timings.merge + timings.sampling),
    };
    close(conn, running.id, running.attempt, &ending, now).await?;
    Ok(became)
}
