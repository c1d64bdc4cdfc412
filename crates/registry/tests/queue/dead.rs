//! Dead letters and what is made of them.

use likeness_domain::{ErrorKind, RenderId, RenderState, page::Page};
use likeness_registry::renders::{self, DeadFilter, NewRender, Render};
use uuid::Uuid;

use crate::world::{World, at, failed, new_render};

async fn page(world: &World, filter: &DeadFilter) -> Vec<RenderId> {
    let page = Page::from_request(0, "").unwrap();
    let dead = renders::dead(&mut *world.conn().await, filter, &page).await;
    dead.unwrap().iter().map(|dead| dead.render.id).collect()
}

/// A render that has FAILED for good.
async fn dead(world: &World, new: &NewRender) -> RenderId {
    let id = world.queue(new).await;
    let grant = world.claim_again(at(1)).await;
    assert_eq!(grant.render.id, id);
    world.finish(&grant, &failed(false), at(2)).await;
    id
}

async fn requeue(world: &World, ids: &[RenderId]) -> Result<Vec<Render>, likeness_domain::Error> {
    let mut transaction = world.pool().begin().await.unwrap();
    let fresh_id = || RenderId(Uuid::now_v7());
    let made = renders::requeue(&mut transaction, ids, fresh_id, at(100)).await?;
    transaction.commit().await.unwrap();
    Ok(made)
}

#[tokio::test]
async fn the_dead_are_listed_with_their_history() {
    let world = World::new().await;
    let first = dead(&world, &world.draft(|_| {})).await;
    let theirs = new_render(world.another_tenant().await, |_| {});
    let second = dead(&world, &theirs).await;
    world.queued().await;
    assert_eq!(page(&world, &DeadFilter::default()).await, [second, first]);
    let ours = DeadFilter {
        tenant: Some(world.enrolled.tenant),
        ..DeadFilter::default()
    };
    assert_eq!(page(&world, &ours).await, [first]);
    let other = DeadFilter {
        reason: Some("QUARANTINED".to_owned()),
        ..DeadFilter::default()
    };
    assert!(page(&world, &other).await.is_empty());
    let all = Page::from_request(0, "").unwrap();
    let listed = renders::dead(&mut *world.conn().await, &ours, &all).await;
    let attempts = &listed.unwrap()[0].attempts;
    assert_eq!(attempts[0].error.as_ref().unwrap().reason, "OUT_OF_MEMORY");
}

#[tokio::test]
async fn a_dead_render_is_made_anew_once() {
    let world = World::new().await;
    let old = dead(&world, &world.draft(|_| {})).await;
    let made = requeue(&world, &[old]).await.unwrap().remove(0);
    let old = world.render(old).await;
    assert_eq!(made.retry_of, Some(old.id));
    assert_eq!(
        (made.state, made.attempt, made.failures),
        (RenderState::Queued, 0, 0)
    );
    assert_eq!(
        (&made.spec, &made.identities, &made.labels),
        (&old.spec, &old.identities, &old.labels)
    );
    // As much time as the first one had.
    assert_eq!(made.expire_time, at(3700));
    let again = requeue(&world, &[old.id]).await.unwrap().remove(0);
    assert_eq!(again.id, made.id);
    let left = renders::requeueable(&mut *world.conn().await, &DeadFilter::default(), 10).await;
    assert!(left.unwrap().is_empty());
    assert_eq!(world.claim_again(at(101)).await.render.id, made.id);
}

#[tokio::test]
async fn requeues_at_once_make_one_render() {
    let world = World::new().await;
    let old = dead(&world, &world.draft(|_| {})).await;
    let ids = [old];
    let (one, other) = tokio::join!(requeue(&world, &ids), requeue(&world, &ids));
    let made: Vec<_> = [one.unwrap(), other.unwrap()].concat();
    assert!(made.iter().all(|render| render.id == made[0].id));
}

#[tokio::test]
async fn what_has_not_failed_or_lacks_its_picture_is_not_made_anew() {
    let world = World::new().await;
    let starting = world.draft(|new| {
        new.spec.init_strength = likeness_domain::render::Strength::try_from(0.5).ok();
    });
    let from_picture = dead(&world, &starting).await;
    let alive = world.queued().await;
    let unknown = RenderId(Uuid::now_v7());
    for (id, kind, reason) in [
        (alive, ErrorKind::FailedPrecondition, "NOT_FAILED"),
        (
            from_picture,
            ErrorKind::FailedPrecondition,
            "START_PICTURE_GONE",
        ),
        (unknown, ErrorKind::NotFound, "NOT_FOUND"),
    ] {
        let error = requeue(&world, &[id]).await.unwrap_err();
        assert_eq!((error.kind, error.reason), (kind, reason));
    }
    let left = renders::requeueable(&mut *world.conn().await, &DeadFilter::default(), 10).await;
    assert!(left.unwrap().is_empty());
}
