//! Which renders go into the window, and in which order.

use likeness_domain::{RenderId, RenderState, render::Priority};
use likeness_registry::{
    bundles,
    renders::{self, NewRender, Publication},
};

use crate::world::{Enrolled, LEASE, POOL, World, at, new_render};

fn ids(publications: &[Publication]) -> Vec<RenderId> {
    publications
        .iter()
        .map(|publication| publication.render)
        .collect()
}

async fn queue_many(
    world: &World,
    enrolled: Enrolled,
    count: usize,
    change: impl Fn(&mut NewRender),
) -> Vec<RenderId> {
    let mut queued = Vec::new();
    for _ in 0..count {
        queued.push(world.queue(&new_render(enrolled, &change)).await);
    }
    queued
}

#[tokio::test]
async fn admission_stops_when_the_room_is_full() {
    let world = World::new().await;
    let queued = queue_many(&world, world.enrolled, 5, |new| new.cost_seconds = 2.0).await;
    assert!(world.admit(0.0, 10, at(1)).await.is_empty());
    let admitted = world.admit(6.0, 10, at(1)).await;
    assert_eq!(ids(&admitted), queued[..3]);
    assert!(
        admitted
            .iter()
            .all(|one| one.publication == 1 && one.pool == POOL)
    );
    let window = renders::window(&mut *world.conn().await, POOL)
        .await
        .unwrap();
    assert_eq!((window.dispatched, window.running), (3, 0));
    assert!((window.seconds - 6.0).abs() < 1e-6);
}

#[tokio::test]
async fn a_render_longer_than_the_room_still_gets_in() {
    let world = World::new().await;
    let queued = queue_many(&world, world.enrolled, 2, |new| new.cost_seconds = 600.0).await;
    assert_eq!(ids(&world.admit(0.5, 10, at(1)).await), queued[..1]);
}

#[tokio::test]
async fn no_more_rows_than_asked() {
    let world = World::new().await;
    let queued = queue_many(&world, world.enrolled, 5, |_| {}).await;
    assert_eq!(ids(&world.admit(1e9, 2, at(1)).await), queued[..2]);
    assert_eq!(ids(&world.admit(1e9, 10, at(2)).await), queued[2..]);
    assert!(world.admit(1e9, 10, at(3)).await.is_empty());
}

#[tokio::test]
async fn two_tenants_share_alike_however_long_their_queues() {
    let world = World::new().await;
    let other = world.another_tenant().await;
    queue_many(&world, world.enrolled, 30, |_| {}).await;
    queue_many(&world, other, 3, |_| {}).await;
    let admitted = world.admit(8.0, 100, at(1)).await;
    let others = admitted
        .iter()
        .filter(|one| one.tenant == other.tenant)
        .count();
    assert_eq!((admitted.len(), others), (8, 3));
    // The newcomer is not behind the long queue.
    assert!(admitted[..2].iter().any(|one| one.tenant == other.tenant));
}

#[tokio::test]
async fn seconds_count_and_not_renders() {
    let world = World::new().await;
    let other = world.another_tenant().await;
    queue_many(&world, world.enrolled, 20, |new| new.cost_seconds = 1.0).await;
    queue_many(&world, other, 20, |new| new.cost_seconds = 4.0).await;
    let admitted = world.admit(16.0, 100, at(1)).await;
    let others = admitted
        .iter()
        .filter(|one| one.tenant == other.tenant)
        .count();
    assert_eq!((admitted.len() - others, others), (8, 2));
}

#[tokio::test]
async fn what_is_at_work_counts_in_later_rounds() {
    let world = World::new().await;
    let other = world.another_tenant().await;
    queue_many(&world, world.enrolled, 10, |_| {}).await;
    world.admit(4.0, 100, at(1)).await;
    queue_many(&world, other, 10, |_| {}).await;
    let admitted = world.admit(4.0, 100, at(2)).await;
    assert!(admitted.iter().all(|one| one.tenant == other.tenant));
}

#[tokio::test]
async fn weights_divide_the_seconds() {
    let world = World::new().await;
    let heavy = world.another_tenant().await;
    world
        .sql(
            "UPDATE tenants SET weight = 3 WHERE id = $1",
            heavy.tenant.0,
        )
        .await;
    queue_many(&world, world.enrolled, 20, |_| {}).await;
    queue_many(&world, heavy, 20, |_| {}).await;
    let admitted = world.admit(12.0, 100, at(1)).await;
    let heavies = admitted
        .iter()
        .filter(|one| one.tenant == heavy.tenant)
        .count();
    assert_eq!((admitted.len(), heavies), (12, 9));
}

#[tokio::test]
async fn ties_go_to_the_least_recently_served() {
    let world = World::new().await;
    let tenants = [
        world.enrolled,
        world.another_tenant().await,
        world.another_tenant().await,
    ];
    for tenant in tenants {
        queue_many(&world, tenant, 4, |_| {}).await;
    }
    let mut served = Vec::new();
    for second in 0..6 {
        let admitted = world.admit(1.0, 1, at(second)).await;
        served.push(admitted[0].tenant);
        // Done at once, so that nobody has anything at work and every round is a tie.
        let (tenant, id) = (admitted[0].tenant, admitted[0].render);
        renders::cancel(&mut *world.conn().await, tenant, id, at(1))
            .await
            .unwrap();
    }
    assert_eq!(served[..3], served[3..]);
    served.sort();
    served.dedup();
    assert_eq!(served.len(), 3);
}

#[tokio::test]
async fn a_tenants_own_go_by_priority_then_age() {
    let world = World::new().await;
    let with = |priority| world.draft(move |new: &mut NewRender| new.priority = priority);
    let bulk = world.queue(&with(Priority::Bulk)).await;
    let normal = world.queue(&with(Priority::Normal)).await;
    let later = world.queue(&with(Priority::Normal)).await;
    let interactive = world.queue(&with(Priority::Interactive)).await;
    let admitted = world.admit(1e9, 10, at(1)).await;
    assert_eq!(ids(&admitted), [interactive, normal, later, bulk]);
}

#[tokio::test]
async fn what_is_not_due_or_has_expired_stays() {
    let world = World::new().await;
    let scheduled = world
        .queue(&world.draft(|new| new.start_time = Some(at(50))))
        .await;
    world
        .queue(&world.draft(|new| new.expire_time = at(10)))
        .await;
    assert!(world.admit(1e9, 10, at(10)).await.is_empty());
    assert_eq!(ids(&world.admit(1e9, 10, at(50)).await), [scheduled]);
}

#[tokio::test]
async fn tenants_whose_renders_are_not_due_do_not_stand_in_the_way() {
    let world = World::new().await;
    for _ in 0..3 {
        let idle = world.another_tenant().await;
        queue_many(&world, idle, 2, |new| new.start_time = Some(at(50))).await;
    }
    let busy = queue_many(&world, world.enrolled, 2, |_| {}).await;
    // This one has work already, so that the others would come first.
    assert_eq!(ids(&world.admit(1e9, 1, at(1)).await), busy[..1]);
    assert_eq!(ids(&world.admit(1e9, 1, at(2)).await), busy[1..]);
}

#[tokio::test]
async fn suspended_tenants_wait() {
    let world = World::new().await;
    let id = world.queued().await;
    let tenant = world.enrolled.tenant.0;
    world
        .sql(
            "UPDATE tenants SET state = 'SUSPENDED' WHERE id = $1",
            tenant,
        )
        .await;
    assert!(world.admit(1e9, 10, at(1)).await.is_empty());
    world
        .sql("UPDATE tenants SET state = 'ACTIVE' WHERE id = $1", tenant)
        .await;
    assert_eq!(ids(&world.admit(1e9, 10, at(1)).await), [id]);
}

#[tokio::test]
async fn no_tenant_has_more_at_work_than_allowed() {
    let world = World::new().await;
    let tenant = world.enrolled.tenant;
    world
        .sql("UPDATE tenants SET max_running = 2 WHERE id = $1", tenant.0)
        .await;
    let queued = queue_many(&world, world.enrolled, 4, |_| {}).await;
    assert_eq!(ids(&world.admit(1e9, 10, at(1)).await), queued[..2]);
    assert!(world.admit(1e9, 10, at(2)).await.is_empty());
    renders::cancel(&mut *world.conn().await, tenant, queued[0], at(3))
        .await
        .unwrap();
    assert_eq!(ids(&world.admit(1e9, 10, at(4)).await), queued[2..3]);
}

#[tokio::test]
async fn a_paused_pool_admits_nothing() {
    let world = World::new().await;
    let id = world.queued().await;
    let mut conn = world.conn().await;
    bundles::set_paused(&mut conn, POOL, true).await.unwrap();
    assert!(world.admit(1e9, 10, at(1)).await.is_empty());
    let work = renders::pools_with_work(&mut conn).await.unwrap();
    assert_eq!(
        (work[0].pool.as_str(), work[0].paused, work[0].queued),
        (POOL, true, 1)
    );
    bundles::set_paused(&mut conn, POOL, false).await.unwrap();
    assert_eq!(ids(&world.admit(1e9, 10, at(1)).await), [id]);
    assert!(
        renders::pools_with_work(&mut conn)
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn a_render_that_is_being_cancelled_is_passed_over() {
    let world = World::new().await;
    let queued = queue_many(&world, world.enrolled, 2, |_| {}).await;
    let mut cancelling = world.pool().begin().await.unwrap();
    renders::cancel(&mut cancelling, world.enrolled.tenant, queued[0], at(1))
        .await
        .unwrap();
    assert_eq!(ids(&world.admit(1e9, 10, at(1)).await), queued[1..]);
    cancelling.commit().await.unwrap();
    assert_eq!(world.state(queued[0]).await, RenderState::Cancelled);
}

#[tokio::test]
async fn admissions_at_once_admit_each_render_once() {
    let world = World::new().await;
    let queued = queue_many(&world, world.enrolled, 20, |_| {}).await;
    let (one, other) = tokio::join!(world.admit(1e9, 100, at(1)), world.admit(1e9, 100, at(1)));
    let mut all = [ids(&one), ids(&other)].concat();
    all.sort();
    assert_eq!(all, queued);
}

#[tokio::test]
async fn what_is_not_confirmed_or_not_claimed_is_published_again() {
    let world = World::new().await;
    let leader = world.lead().await;
    let first = world.dispatched().await;
    let mut conn = world.conn().await;
    let (unconfirmed, unclaimed) = (LEASE, LEASE * 4);
    let due = async |conn: &mut _, seconds| {
        renders::republish_due(conn, &leader, unconfirmed, unclaimed, 10, at(seconds))
            .await
            .unwrap()
    };
    assert!(due(&mut conn, 29).await.is_empty());
    let second = due(&mut conn, 30).await;
    assert_eq!(
        (ids(&second), second[0].publication),
        (vec![first.render], 2)
    );
    // A late confirmation of the first says nothing of the second.
    renders::mark_published(&mut conn, &[first], at(31))
        .await
        .unwrap();
    renders::mark_published(&mut conn, &second, at(40))
        .await
        .unwrap();
    assert!(due(&mut conn, 159).await.is_empty());
    assert_eq!(due(&mut conn, 160).await[0].publication, 3);
}

#[tokio::test]
async fn what_runs_is_not_published_again() {
    let world = World::new().await;
    let leader = world.lead().await;
    world.running(at(0)).await;
    let mut conn = world.conn().await;
    let due = renders::republish_due(&mut conn, &leader, LEASE, LEASE, 10, at(600))
        .await
        .unwrap();
    assert!(due.is_empty());
}

#[tokio::test]
async fn bulk_does_not_starve_behind_a_tenants_own_higher_priorities() {
    let world = World::new().await;
    let with = |priority| world.draft(move |new: &mut NewRender| new.priority = priority);
    let bulk = world.queue(&with(Priority::Bulk)).await;
    let another = world.queue(&with(Priority::Bulk)).await;
    for _ in 0..6 {
        world.queue(&with(Priority::Interactive)).await;
    }
    let patience = renders::PATIENCE.num_seconds();
    let before = world.admit(1.0, 10, at(patience - 1)).await;
    assert!(before[0].render != bulk, "it has not waited long enough");
    assert_eq!(ids(&world.admit(1.0, 10, at(patience)).await), [bulk]);
    // One at a time: while it is at work, its tenant's higher priorities go first again.
    let next = ids(&world.admit(3.0, 10, at(patience)).await);
    assert!(next.len() == 3 && !next.contains(&another));
}

#[tokio::test]
async fn renders_that_can_be_painted_together_are_published_next_to_each_other() {
    let world = World::new().await;
    let mut queued = Vec::new();
    for width in [64, 128, 64, 128] {
        let sized = |new: &mut NewRender| new.spec.width = width;
        queued.push(world.queue(&world.draft(sized)).await);
    }
    let admitted = ids(&world.admit(1e9, 10, at(1)).await);
    assert_eq!(admitted, [queued[0], queued[2], queued[1], queued[3]]);
}

#[tokio::test]
async fn what_was_dispatched_to_a_pool_without_workers_waits_in_the_queue_again() {
    let world = World::new().await;
    let leader = world.lead().await;
    let first = world.dispatched().await;
    let mut conn = world.conn().await;
    let withdraw = async |conn: &mut _, seconds, live_since| {
        let (older_than, live_since) = (at(seconds - 30), at(live_since));
        renders::withdraw(conn, &leader, older_than, live_since, 10, at(seconds))
            .await
            .unwrap()
    };
    assert_eq!(withdraw(&mut conn, 29, 0).await, 0, "not long enough");
    likeness_registry::workers::seen(&mut conn, &crate::world::presence("w1", POOL), at(10))
        .await
        .unwrap();
    assert_eq!(withdraw(&mut conn, 40, 10).await, 0, "a worker is there");
    assert_eq!(withdraw(&mut conn, 41, 11).await, 1);
    assert_eq!(world.state(first.render).await, RenderState::Queued);
    // The prompt that is still in the stream is worth nothing.
    let refused = world.try_claim(&first, at(50)).await;
    let not_dispatched = renders::Claimed::Refused(renders::Refusal::NotDispatched);
    assert_eq!(refused, not_dispatched);
    assert_eq!(world.admit(1e9, 10, at(60)).await[0].publication, 2);
}

#[tokio::test]
async fn a_limit_of_none_at_work_pauses_a_tenant() {
    let world = World::new().await;
    let id = world.queued().await;
    let tenant = world.enrolled.tenant.0;
    world
        .sql("UPDATE tenants SET max_running = 0 WHERE id = $1", tenant)
        .await;
    assert!(world.admit(1e9, 10, at(1)).await.is_empty());
    world
        .sql(
            "UPDATE tenants SET max_running = NULL WHERE id = $1",
            tenant,
        )
        .await;
    assert_eq!(ids(&world.admit(1e9, 10, at(2)).await), [id]);
}

#[tokio::test]
async fn a_long_queue_delays_anothers_first_by_one_window_at_most() {
    let world = World::new().await;
    queue_many(&world, world.enrolled, 60, |_| {}).await;
    let full = world.admit(10.0, 100, at(1)).await;
    let other = world.another_tenant().await;
    let first = queue_many(&world, other, 1, |_| {}).await;
    // Whatever room there is next is the newcomer's, however long the other has waited.
    renders::cancel(
        &mut *world.conn().await,
        world.enrolled.tenant,
        full[0].render,
        at(2),
    )
    .await
    .unwrap();
    assert_eq!(ids(&world.admit(1.0, 100, at(2)).await), first);
}
