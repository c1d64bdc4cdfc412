//! Stopping on request.

use likeness_domain::{AttemptOutcome, ErrorKind, RenderId, RenderState};
use likeness_registry::renders::{self, Finish, Outcome, Render};

use crate::world::{POLICY, World, at, failed, new_render, succeeded};

async fn cancel(world: &World, id: RenderId, seconds: i64) -> Render {
    let mut conn = world.conn().await;
    renders::cancel(&mut conn, world.enrolled.tenant, id, at(seconds))
        .await
        .unwrap()
}

#[tokio::test]
async fn what_waits_is_cancelled_at_once() {
    let world = World::new().await;
    let queued = world.queued().await;
    let render = cancel(&world, queued, 1).await;
    assert_eq!(
        (render.state, render.finished_at),
        (RenderState::Cancelled, Some(at(1)))
    );
    assert_eq!(render.cancel_requested_at, Some(at(1)));
    assert!(world.admit(1e9, 10, at(2)).await.is_empty());

    let publication = world.dispatched().await;
    assert_eq!(
        cancel(&world, publication.render, 2).await.state,
        RenderState::Cancelled
    );
    let claimed = world.try_claim(&publication, at(3)).await;
    assert!(matches!(
        claimed,
        renders::Claimed::Refused(renders::Refusal::NotDispatched)
    ));
}

#[tokio::test]
async fn what_runs_is_marked_and_keeps_its_place_until_its_worker_confirms() {
    let world = World::new().await;
    let grant = world.running(at(0)).await;
    let render = cancel(&world, grant.render.id, 1).await;
    assert_eq!(render.state, RenderState::Running);
    assert_eq!(render.cancel_requested_at, Some(at(1)));
    let again = cancel(&world, grant.render.id, 2).await;
    assert_eq!(again.cancel_requested_at, Some(at(1)));
    let finish = world.finish(&grant, &Outcome::Cancelled, at(3)).await;
    assert_eq!(finish, Finish::Applied(RenderState::Cancelled));
    let attempt = world.attempts(grant.render.id).await.remove(0);
    assert_eq!(attempt.outcome, Some(AttemptOutcome::Cancelled));
}

#[tokio::test]
async fn what_has_ended_stays_as_it_is() {
    let world = World::new().await;
    let outcomes = [
        (succeeded(), RenderState::Succeeded),
        (failed(false), RenderState::Failed),
    ];
    for (outcome, state) in outcomes {
        let grant = world.running(at(0)).await;
        world.finish(&grant, &outcome, at(1)).await;
        let before = world.render(grant.render.id).await;
        assert_eq!(cancel(&world, grant.render.id, 2).await, before);
        assert_eq!(before.state, state);
    }
    let cancelled = world.queued().await;
    let before = cancel(&world, cancelled, 3).await;
    assert_eq!(cancel(&world, cancelled, 4).await, before);
}

#[tokio::test]
async fn another_tenants_render_is_not_found() {
    let world = World::new().await;
    let other = world.another_tenant().await;
    let id = world.queued().await;
    let mut conn = world.conn().await;
    let error = renders::cancel(&mut conn, other.tenant, id, at(1))
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    assert_eq!(world.state(id).await, RenderState::Queued);
}

#[tokio::test]
async fn a_cancelled_render_is_never_tried_again() {
    for outcome in [failed(true), failed(false), Outcome::HandedBack] {
        let world = World::new().await;
        let grant = world.running(at(0)).await;
        cancel(&world, grant.render.id, 1).await;
        let finish = world.finish(&grant, &outcome, at(2)).await;
        assert_eq!(finish, Finish::Applied(RenderState::Cancelled));
        assert_eq!(world.render(grant.render.id).await.error, None);
    }
}

#[tokio::test]
async fn a_cancel_that_comes_too_late_leaves_the_images() {
    let world = World::new().await;
    let grant = world.running(at(0)).await;
    cancel(&world, grant.render.id, 1).await;
    let finish = world.finish(&grant, &succeeded(), at(2)).await;
    assert_eq!(finish, Finish::Applied(RenderState::Succeeded));
    assert_eq!(cancel(&world, grant.render.id, 3).await.images.len(), 1);
}

#[tokio::test]
async fn cancel_and_finish_at_once_have_one_winner() {
    let world = World::new().await;
    for _ in 0..10 {
        let grant = world.running(at(0)).await;
        let id = grant.render.id;
        let outcome = succeeded();
        let (asked, finish) =
            tokio::join!(cancel(&world, id, 1), world.finish(&grant, &outcome, at(1)));
        assert_eq!(finish, Finish::Applied(RenderState::Succeeded));
        assert!(matches!(
            asked.state,
            RenderState::Running | RenderState::Succeeded
        ));
        let end = world.render(id).await;
        assert_eq!((end.state, end.images.len()), (RenderState::Succeeded, 1));
    }
}

#[tokio::test]
async fn cancel_and_claim_at_once_have_one_winner() {
    let world = World::new().await;
    for _ in 0..10 {
        let publication = world.dispatched().await;
        let (asked, claimed) = tokio::join!(
            cancel(&world, publication.render, 1),
            world.try_claim(&publication, at(1))
        );
        let granted = matches!(claimed, renders::Claimed::Granted(_));
        let expected = if granted {
            RenderState::Running
        } else {
            RenderState::Cancelled
        };
        assert_eq!(asked.state, expected);
        assert_eq!(world.state(publication.render).await, expected);
    }
}

#[tokio::test]
async fn an_identitys_deletion_stops_all_that_shows_it_and_nothing_else() {
    let world = World::new().await;
    let running = world.running(at(0)).await.render.id;
    let dispatched = world.dispatched().await.render;
    let queued = world.queued().await;
    let others = world
        .queue(&new_render(world.another_tenant().await, |_| {}))
        .await;
    let (tenant, identity) = (world.enrolled.tenant, world.enrolled.identity);
    let mut transaction = world.pool().begin().await.unwrap();
    let settled = renders::fail_of_identity(&mut transaction, tenant, identity, at(5))
        .await
        .unwrap();
    transaction.commit().await.unwrap();
    let mut states: Vec<_> = settled.iter().map(|s| (s.render.render, s.state)).collect();
    states.sort();
    let failed = RenderState::Failed;
    let expected = [
        (running, RenderState::Running),
        (dispatched, failed),
        (queued, failed),
    ];
    assert_eq!(states, expected);
    assert_eq!(
        world.render(queued).await.error.unwrap().reason,
        "IDENTITY_DELETED"
    );
    assert_eq!(world.render(running).await.cancel_requested_at, Some(at(5)));
    assert_eq!(world.state(others).await, RenderState::Queued);
    let leader = world.lead().await;
    let reaped = renders::reap(&mut *world.conn().await, &leader, &POLICY, at(60))
        .await
        .unwrap();
    assert_eq!(reaped[0].state, RenderState::Cancelled);
}
