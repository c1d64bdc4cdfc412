//! What becomes of renders by themselves.

use chrono::TimeDelta;
use likeness_domain::{AttemptOutcome, RenderState};
use likeness_registry::renders::{self, Outcome, Settled};

use crate::world::{POLICY, World, at, new_render, succeeded};

async fn reap(world: &World, seconds: i64) -> Vec<Settled> {
    let leader = world.lead().await;
    let mut transaction = world.pool().begin().await.unwrap();
    let settled = renders::reap(&mut transaction, &leader, &POLICY, at(seconds))
        .await
        .unwrap();
    transaction.commit().await.unwrap();
    settled
}

async fn expire(world: &World, limit: i64, seconds: i64) -> Vec<Settled> {
    let leader = world.lead().await;
    let mut transaction = world.pool().begin().await.unwrap();
    let settled = renders::expire(&mut transaction, &leader, limit, at(seconds))
        .await
        .unwrap();
    transaction.commit().await.unwrap();
    settled
}

#[tokio::test]
async fn only_lapsed_leases_are_reaped() {
    let world = World::new().await;
    let grant = world.running(at(0)).await;
    assert!(reap(&world, 29).await.is_empty());
    let settled = reap(&world, 30).await;
    let expected = Settled {
        render: grant.render.name(),
        state: RenderState::Queued,
    };
    assert_eq!(settled, [expected]);
    let render = world.render(grant.render.id).await;
    assert_eq!((render.failures, render.error), (0, None));
    assert!(render.alone, "the next attempt is alone");
    assert!(render.run_after.unwrap() > at(30));
    let attempt = world.attempts(grant.render.id).await.remove(0);
    assert_eq!(attempt.outcome, Some(AttemptOutcome::Lost));
    assert_eq!(attempt.error.unwrap().reason, "WORKER_LOST");
    assert_eq!(
        world.erasures().await,
        [format!("{}/1/", grant.render.name())]
    );
    assert!(reap(&world, 31).await.is_empty());
}

#[tokio::test]
async fn after_a_death_in_company_it_is_alone_and_two_deaths_alone_quarantine_it() {
    let world = World::new().await;
    let id = world.running(at(0)).await.render.id;
    reap(&world, 30).await;
    for seconds in [100, 200] {
        let published = world.admit(1e9, 10, at(seconds)).await.remove(0);
        assert!(published.alone, "the worker hears of it before it claims");
        assert!(world.claim(&published, at(seconds)).await.render.alone);
        reap(&world, seconds + 30).await;
    }
    let render = world.render(id).await;
    assert_eq!((render.state, render.failures), (RenderState::Failed, 0));
    assert_eq!(render.error.unwrap().reason, "QUARANTINED");
    let attempts = world.attempts(id).await;
    assert!(
        attempts
            .iter()
            .all(|attempt| attempt.outcome == Some(AttemptOutcome::Lost))
    );
    assert_eq!(attempts.len(), 3);
}

#[tokio::test]
async fn what_others_renders_did_to_their_workers_is_not_counted() {
    let world = World::new().await;
    let id = world.running(at(0)).await.render.id;
    reap(&world, 30).await;
    for seconds in [100, 200, 300] {
        let grant = world.claim_again(at(seconds)).await;
        world
            .finish(&grant, &Outcome::HandedBack, at(seconds))
            .await;
    }
    let grant = world.claim_again(at(400)).await;
    world.finish(&grant, &succeeded(), at(401)).await;
    assert_eq!(world.state(id).await, RenderState::Succeeded);
}

#[tokio::test]
async fn a_cancelled_render_whose_worker_died_is_cancelled() {
    let world = World::new().await;
    let grant = world.running(at(0)).await;
    let (tenant, id) = (world.enrolled.tenant, grant.render.id);
    renders::cancel(&mut *world.conn().await, tenant, id, at(1))
        .await
        .unwrap();
    assert_eq!(reap(&world, 30).await[0].state, RenderState::Cancelled);
}

#[tokio::test]
async fn every_state_expires() {
    let world = World::new().await;
    let running = world.running(at(0)).await.render;
    let dispatched = world.dispatched().await.render;
    let queued = world.queued().await;
    assert!(expire(&world, 10, 3599).await.is_empty());
    let mut settled = expire(&world, 10, 3600).await;
    settled.sort_by_key(|settled| settled.render.render);
    let ids: Vec<_> = settled
        .iter()
        .map(|settled| settled.render.render)
        .collect();
    assert_eq!(ids, [running.id, dispatched, queued]);
    assert!(
        settled
            .iter()
            .all(|settled| settled.state == RenderState::Expired)
    );
    let attempt = world.attempts(running.id).await.remove(0);
    assert_eq!(attempt.outcome, Some(AttemptOutcome::Expired));
    assert_eq!(world.erasures().await, [format!("{}/1/", running.name())]);
    assert!(expire(&world, 10, 3601).await.is_empty());
}

#[tokio::test]
async fn expiry_takes_the_longest_overdue_first_and_no_more_than_asked() {
    let world = World::new().await;
    let late = world
        .queue(&world.draft(|new| new.expire_time = at(20)))
        .await;
    let early = world
        .queue(&world.draft(|new| new.expire_time = at(10)))
        .await;
    assert_eq!(expire(&world, 1, 30).await[0].render.render, early);
    assert_eq!(expire(&world, 1, 30).await[0].render.render, late);
}

#[tokio::test]
async fn an_expired_attempt_is_over() {
    let world = World::new().await;
    let grant = world.running(at(3599)).await;
    expire(&world, 10, 3600).await;
    let mut conn = world.conn().await;
    let renewal = renders::renew(
        &mut conn,
        grant.render.id,
        1,
        TimeDelta::seconds(30),
        at(3601),
    );
    assert_eq!(renewal.await.unwrap(), renders::Renewal::Lost);
    let finish = world
        .finish(&grant, &crate::world::succeeded(), at(3602))
        .await;
    assert_eq!(finish, renders::Finish::Stale(RenderState::Expired));
}

#[tokio::test]
async fn sweeps_pass_over_what_is_in_other_hands() {
    let world = World::new().await;
    let grant = world.running(at(0)).await;
    let mut held = world.pool().begin().await.unwrap();
    sqlx::query("SELECT FROM renders WHERE id = $1 FOR UPDATE")
        .bind(grant.render.id.0)
        .execute(&mut *held)
        .await
        .unwrap();
    assert!(reap(&world, 60).await.is_empty());
    assert!(expire(&world, 10, 7200).await.is_empty());
    held.rollback().await.unwrap();
    assert_eq!(reap(&world, 60).await.len(), 1);
    let other = new_render(world.another_tenant().await, |new| new.expire_time = at(10));
    world.queue(&other).await;
    assert_eq!(expire(&world, 10, 61).await.len(), 1);
}
