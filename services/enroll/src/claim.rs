//! One photo: claim, fetch, enrol, store. A prompt is acknowledged only when Postgres knows what became of the photo.

use anyhow::Context as _;
use likeness_blob::ObjectKey;
use likeness_domain::{
    Error, PhotoState,
    photo::{QualityReport, Rejection, RejectionReason},
};
use likeness_queue::{Delivery, IdentityEvent, PhotoPrompt};
use likeness_registry::{
    PgConnection, SealingContext, begin, coefficients, commit, embeddings,
    photos::queue::{self, PhotoClaim},
};
use tokio::time::Duration;

use crate::{
    engine::{Enrolled, Verdict},
    server::Enroll,
};

/// The largest original read back: above what the front takes in.
const MAX_ORIGINAL: usize = 64 << 20;

/// Works on one prompt. What fails is logged and tried again by the queue.
pub async fn work_on(enroll: &Enroll, prompt: Delivery<PhotoPrompt>) {
    let message = *prompt.message();
    let done = match claim(enroll, &message).await {
        Ok(Some(claim)) => settle(enroll, &claim).await,
        // Somebody else has it, or it is done.
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    let told = match done {
        Ok(()) => prompt.ack().await,
        Err(error) => {
            tracing::warn!(photo = %message.photo, ?error, "a photo waits for another attempt");
            prompt.nak(Duration::from_secs(1)).await
        }
    };
    if let Err(error) = told {
        tracing::debug!(%error, "a prompt was not acknowledged; it will come again");
    }
}

async fn claim(enroll: &Enroll, prompt: &PhotoPrompt) -> Result<Option<PhotoClaim>, Error> {
    let publication = i32::try_from(prompt.publication).map_err(Error::internal)?;
    let mut tx = begin(&enroll.pool).await?;
    let now = enroll.clock.now();
    let claim = queue::claim(
        &mut tx,
        prompt.photo,
        publication,
        &enroll.worker,
        enroll.lease,
        now,
    )
    .await?;
    commit(tx).await?;
    Ok(claim)
}

/// Enrols the photo while its lease is kept alive, and stores the verdict.
async fn settle(enroll: &Enroll, claim: &PhotoClaim) -> Result<(), Error> {
    notify(enroll, claim).await;
    let verdict = tokio::select! {
        verdict = examine(enroll, claim) => verdict,
        () = keep_lease(enroll, claim) => {
            tracing::warn!(photo = %claim.name.photo, "the lease was lost");
            return Ok(());
        }
    };
    match verdict {
        Ok(Verdict::Accepted(enrolled)) => accept(enroll, claim, &enrolled).await?,
        Ok(Verdict::Rejected { rejection, quality }) => {
            reject(enroll, claim, &rejection, quality.as_ref()).await?;
        }
        Err(error) => retry(enroll, claim, &error).await?,
    }
    notify(enroll, claim).await;
    Ok(())
}

async fn examine(enroll: &Enroll, claim: &PhotoClaim) -> anyhow::Result<Verdict> {
    let name = claim.name;
    let key = ObjectKey::PhotoOriginal {
        tenant: name.tenant,
        identity: name.identity,
        photo: name.photo,
    };
    let bytes = enroll
        .blob
        .get(&key, MAX_ORIGINAL)
        .await
        .context("reading the original")?;
    enroll.engine.enroll(bytes, claim.face_choice).await
}

/// Ends when the lease is lost.
async fn keep_lease(enroll: &Enroll, claim: &PhotoClaim) {
    let interval = (enroll.lease / 3)
        .to_std()
        .unwrap_or(Duration::from_secs(1));
    loop {
        tokio::time::sleep(interval).await;
        if let Ok(false) = renew(enroll, claim).await {
            return;
        }
    }
}

async fn renew(enroll: &Enroll, claim: &PhotoClaim) -> Result<bool, Error> {
    let mut tx = begin(&enroll.pool).await?;
    let now = enroll.clock.now();
    let held = queue::renew(&mut tx, claim.name.photo, claim.attempt, enroll.lease, now).await?;
    commit(tx).await?;
    Ok(held)
}

/// Accepts the photo, or refuses it where it may not show the person of the identity's other photos.
async fn accept(enroll: &Enroll, claim: &PhotoClaim, enrolled: &Enrolled) -> Result<(), Error> {
    let mut tx = begin(&enroll.pool).await?;
    let others =
        embeddings::of_other_photos(&mut tx, &enroll.keys, &claim.name, &enroll.encoder).await?;
    let quality = QualityReport {
        same_person: enrolled.embedding.cosine_to_mean(&others),
        ..enrolled.quality.clone()
    };
    let current = match doubt(quality.same_person, enroll.same_person) {
        None => store(enroll, &mut tx, claim, enrolled, &quality).await?,
        Some(rejection) => {
            let (photo, attempt) = (claim.name.photo, claim.attempt);
            let now = enroll.clock.now();
            queue::reject(&mut tx, photo, attempt, &rejection, Some(&quality), now).await?
        }
    };
    if current {
        commit(tx).await?;
    } else {
        tracing::warn!(photo = %claim.name.photo, "a stale attempt was dropped");
    }
    Ok(())
}

/// Stores an accepted photo's report, coefficients of both kinds and embedding; `false` for a stale attempt.
async fn store(
    enroll: &Enroll,
    conn: &mut PgConnection,
    claim: &PhotoClaim,
    enrolled: &Enrolled,
    quality: &QualityReport,
) -> Result<bool, Error> {
    let name = claim.name;
    let context = SealingContext {
        tenant: name.tenant,
        identity: name.identity,
        photo: name.photo,
        encoder: &enroll.encoder,
    };
    let sealed = enroll.keys.seal(&context, &enrolled.coefficients)?;
    let embedding = enroll.keys.seal_embedding(&context, &enrolled.embedding)?;
    let base = enrolled.base.as_ref();
    let base = base.map(|base| enroll.keys.seal_base(&context, base));
    let base = base.transpose()?;
    let (attempt, now) = (claim.attempt, enroll.clock.now());
    let current = queue::accept(conn, name.photo, attempt, quality, &sealed, now).await?;
    if current {
        embeddings::insert(conn, name.photo, &enroll.encoder, &embedding).await?;
    }
    if let Some(base) = base.filter(|_| current) {
        coefficients::insert_base(conn, name.photo, &base, now).await?;
    }
    Ok(current)
}

/// Why the face may be somebody else's, if the cosine to the other photos' mean says so.
fn doubt(cosine: Option<f32>, least: f32) -> Option<Rejection> {
    let found = cosine.filter(|cosine| *cosine < least)?;
    Some(Rejection {
        reason: RejectionReason::SamePersonDoubtful,
        message: format!(
            "the face's likeness to the identity's other photos is {found:.2}, at least {least:.2} is needed; send a \
             photo of the same person, or delete the photo that shows somebody else"
        ),
    })
}

async fn reject(
    enroll: &Enroll,
    claim: &PhotoClaim,
    rejection: &Rejection,
    quality: Option<&QualityReport>,
) -> Result<(), Error> {
    let (photo, attempt) = (claim.name.photo, claim.attempt);
    let mut tx = begin(&enroll.pool).await?;
    let now = enroll.clock.now();
    queue::reject(&mut tx, photo, attempt, rejection, quality, now).await?;
    commit(tx).await
}

async fn retry(enroll: &Enroll, claim: &PhotoClaim, error: &anyhow::Error) -> Result<(), Error> {
    tracing::error!(photo = %claim.name.photo, attempt = claim.attempt, "{error:#}");
    let now = enroll.clock.now();
    let wait = queue::BACKOFF * claim.attempt;
    let mut tx = begin(&enroll.pool).await?;
    let state = queue::retry(
        &mut tx,
        claim.name.photo,
        claim.attempt,
        now + wait,
        queue::MAX_ATTEMPTS,
        now,
    )
    .await?;
    commit(tx).await?;
    if state == Some(PhotoState::Failed) {
        tracing::error!(photo = %claim.name.photo, "a photo was given up");
    }
    Ok(())
}

async fn notify(enroll: &Enroll, claim: &PhotoClaim) {
    let topic = enroll.queue.subjects().identity_event(claim.name.identity);
    if let Err(error) = enroll.queue.publish_event(&topic, &IdentityEvent {}).await {
        tracing::debug!(%error, "a hint was not sent");
    }
}
