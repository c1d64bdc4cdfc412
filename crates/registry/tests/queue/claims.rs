//! Who may work on a render.

use likeness_domain::{AttemptOutcome, RenderId, RenderState};
use likeness_registry::renders::{self, Claimed, Publication, Refusal, Renewal};
use uuid::Uuid;

use crate::world::{LEASE, World, at, claim_on, failed, succeeded};

fn refused(claimed: &Claimed) -> Option<Refusal> {
    match claimed {
        Claimed::Granted(_) => None,
        Claimed::Refused(refusal) => Some(*refusal),
    }
}

#[tokio::test]
async fn a_claim_begins_an_attempt_under_a_lease() {
    let world = World::new().await;
    let publication = world.dispatched().await;
    let grant = world.claim(&publication, at(5)).await;
    assert_eq!((grant.attempt, grant.lease_until), (1, at(5) + LEASE));
    assert_eq!(grant.render.state, RenderState::Running);
    assert_eq!(grant.render.begun_at, Some(at(5)));
    assert_eq!(grant.render.identities[0].photo_ids, [world.enrolled.photo]);
    let attempts = world.attempts(publication.render).await;
    assert_eq!(
        (attempts.len(), attempts[0].attempt, attempts[0].publication),
        (1, 1, 1)
    );
    assert_eq!(
        (attempts[0].worker.as_str(), attempts[0].outcome),
        ("worker", None)
    );
}

#[tokio::test]
async fn of_two_claims_one_wins() {
    let world = World::new().await;
    let Publication {
        render,
        publication,
        ..
    } = world.dispatched().await;
    let claim = || async {
        let mut transaction = world.pool().begin().await.unwrap();
        let claimed = claim_on(&mut transaction, render, publication, at(1)).await;
        transaction.commit().await.unwrap();
        claimed
    };
    let (one, other) = tokio::join!(claim(), claim());
    let mut results = [refused(&one), refused(&other)];
    results.sort_by_key(Option::is_some);
    assert_eq!(results, [None, Some(Refusal::NotDispatched)]);
    assert_eq!(world.attempts(render).await.len(), 1);
}

#[tokio::test]
async fn a_stale_publication_is_refused_and_the_new_one_granted() {
    let world = World::new().await;
    let first = world.dispatched().await;
    let leader = world.lead().await;
    let again =
        renders::republish_due(&mut *world.conn().await, &leader, LEASE, LEASE, 10, at(60)).await;
    let again = again.unwrap().pop().unwrap();
    assert_eq!((first.publication, again.publication), (1, 2));
    let stale = world.try_claim(&first, at(61)).await;
    assert_eq!(refused(&stale), Some(Refusal::StalePublication));
    assert_eq!(world.state(first.render).await, RenderState::Dispatched);
    assert_eq!(world.claim(&again, at(62)).await.attempt, 1);
}

#[tokio::test]
async fn what_is_not_dispatched_cannot_be_claimed() {
    let world = World::new().await;
    let grant = world.running(at(1)).await;
    let id = grant.render.id;
    let publication = Publication {
        render: id,
        tenant: world.enrolled.tenant,
        publication: 1,
        pool: String::new(),
        alone: false,
        kind: String::new(),
    };
    // Back in the queue, then at its end.
    world.finish(&grant, &failed(true), at(2)).await;
    assert_eq!(world.state(id).await, RenderState::Queued);
    let queued = world.try_claim(&publication, at(3)).await;
    assert_eq!(refused(&queued), Some(Refusal::NotDispatched));
    let grant = world.claim_again(at(30)).await;
    world.finish(&grant, &succeeded(), at(31)).await;
    let ended = world
        .try_claim(
            &Publication {
                publication: 2,
                ..publication
            },
            at(32),
        )
        .await;
    assert_eq!(refused(&ended), Some(Refusal::NotDispatched));
}

#[tokio::test]
async fn a_deleted_render_is_gone() {
    let world = World::new().await;
    let mut conn = world.conn().await;
    let claimed = claim_on(&mut conn, RenderId(Uuid::now_v7()), 1, at(1)).await;
    assert_eq!(refused(&claimed), Some(Refusal::Gone));
}

#[tokio::test]
async fn a_claim_past_the_expire_time_ends_the_render() {
    let world = World::new().await;
    let publication = world.dispatched().await;
    let claimed = world.try_claim(&publication, at(3600)).await;
    assert_eq!(refused(&claimed), Some(Refusal::Expired));
    let render = world.render(publication.render).await;
    assert_eq!(
        (render.state, render.finished_at),
        (RenderState::Expired, Some(at(3600)))
    );
    assert!(world.attempts(publication.render).await.is_empty());
}

#[tokio::test]
async fn nobody_is_shown_without_consent() {
    let changes = [
        "UPDATE identities SET consent_revoked_at = created_at WHERE id = $1",
        "UPDATE identities SET consent_reference = NULL, consent_granted_at = NULL WHERE id = $1",
    ];
    for change in changes {
        let world = World::new().await;
        let publication = world.dispatched().await;
        world.sql(change, world.enrolled.identity.0).await;
        let claimed = world.try_claim(&publication, at(1)).await;
        assert_eq!(refused(&claimed), Some(Refusal::NoConsent));
        let render = world.render(publication.render).await;
        assert_eq!(render.state, RenderState::Failed);
        assert_eq!(render.error.unwrap().reason, "CONSENT_REVOKED");
    }
}

#[tokio::test]
async fn nobody_is_shown_who_was_deleted() {
    let world = World::new().await;
    let publication = world.dispatched().await;
    world
        .sql(
            "DELETE FROM identities WHERE id = $1",
            world.enrolled.identity.0,
        )
        .await;
    let claimed = world.try_claim(&publication, at(1)).await;
    assert_eq!(refused(&claimed), Some(Refusal::NoConsent));
    let error = world.render(publication.render).await.error.unwrap();
    assert_eq!(error.reason, "IDENTITY_DELETED");
}

#[tokio::test]
async fn pinned_coefficients_must_be_there_for_the_bundles_encoder() {
    let changes = [
        "DELETE FROM photos WHERE id = $1",
        "UPDATE photo_coefficients SET encoder = repeat('0', 64) WHERE photo_id = $1",
    ];
    for change in changes {
        let world = World::new().await;
        let publication = world.dispatched().await;
        world.sql(change, world.enrolled.photo.0).await;
        let claimed = world.try_claim(&publication, at(1)).await;
        assert_eq!(refused(&claimed), Some(Refusal::CoefficientsGone));
        let error = world.render(publication.render).await.error.unwrap();
        assert_eq!(error.reason, "COEFFICIENTS_GONE");
    }
}

#[tokio::test]
async fn a_render_of_nobody_needs_no_consent() {
    let world = World::new().await;
    world
        .queue(&world.draft(|new| new.identities.clear()))
        .await;
    let admitted = world.admit(1e9, 10, at(0)).await;
    assert!(
        world
            .claim(&admitted[0], at(1))
            .await
            .render
            .identities
            .is_empty()
    );
}

#[tokio::test]
async fn consent_cannot_be_revoked_between_the_check_and_the_commit() {
    let world = World::new().await;
    let publication = world.dispatched().await;
    let mut claiming = world.pool().begin().await.unwrap();
    claim_on(
        &mut claiming,
        publication.render,
        publication.publication,
        at(1),
    )
    .await;
    let mut revoking = world.conn().await;
    sqlx::query("SET lock_timeout = '50ms'")
        .execute(&mut *revoking)
        .await
        .unwrap();
    let revoked = sqlx::query("UPDATE identities SET consent_revoked_at = created_at")
        .execute(&mut *revoking)
        .await;
    assert!(revoked.is_err());
    claiming.commit().await.unwrap();
}

#[tokio::test]
async fn a_lease_is_renewed_while_it_lives() {
    let world = World::new().await;
    let grant = world.running(at(0)).await;
    let (id, mut conn) = (grant.render.id, world.conn().await);
    let held = renders::renew(&mut conn, id, 1, LEASE, at(20))
        .await
        .unwrap();
    assert_eq!(
        held,
        Renewal::Held {
            lease_until: at(50),
            cancel: false
        }
    );
    // A renewal that comes late does not shorten it.
    let late = renders::renew(&mut conn, id, 1, LEASE, at(10))
        .await
        .unwrap();
    assert_eq!(
        late,
        Renewal::Held {
            lease_until: at(50),
            cancel: false
        }
    );
    renders::cancel(&mut conn, world.enrolled.tenant, id, at(21))
        .await
        .unwrap();
    let told = renders::renew(&mut conn, id, 1, LEASE, at(49))
        .await
        .unwrap();
    assert_eq!(
        told,
        Renewal::Held {
            lease_until: at(79),
            cancel: true
        }
    );
    assert_eq!(
        renders::renew(&mut conn, id, 1, LEASE, at(79))
            .await
            .unwrap(),
        Renewal::Lost
    );
    assert_eq!(
        renders::renew(&mut conn, id, 2, LEASE, at(50))
            .await
            .unwrap(),
        Renewal::Lost
    );
}

#[tokio::test]
async fn only_the_holder_of_a_living_lease_holds() {
    let world = World::new().await;
    let grant = world.running(at(0)).await;
    let (id, mut conn) = (grant.render.id, world.conn().await);
    assert_eq!(
        renders::holds(&mut conn, id, 1, at(29))
            .await
            .unwrap()
            .unwrap()
            .id,
        id
    );
    assert_eq!(
        renders::holds(&mut conn, id, 1, at(30)).await.unwrap(),
        None
    );
    assert_eq!(
        renders::holds(&mut conn, id, 2, at(29)).await.unwrap(),
        None
    );
    world.finish(&grant, &succeeded(), at(29)).await;
    assert_eq!(
        renders::holds(&mut conn, id, 1, at(29)).await.unwrap(),
        None
    );
    let attempts = world.attempts(id).await;
    assert_eq!(attempts[0].outcome, Some(AttemptOutcome::Succeeded));
}
