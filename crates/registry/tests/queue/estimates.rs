//! What is ahead of a render.

use likeness_domain::render::Priority;
use likeness_registry::{
    renders::{self, NewRender, Queue},
    workers,
};

use crate::world::{Enrolled, POOL, World, at, new_render, presence, succeeded};

async fn ahead(world: &World, enrolled: Enrolled, priority: Priority) -> Queue {
    let mut conn = world.conn().await;
    renders::queue_ahead(&mut conn, enrolled.tenant, POOL, priority, at(0))
        .await
        .unwrap()
}

#[tokio::test]
async fn an_empty_pool_has_nothing_ahead() {
    let world = World::new().await;
    let queue = ahead(&world, world.enrolled, Priority::Normal).await;
    let expected = Queue {
        place: 0,
        seconds: 0.0,
        pace: 1.0,
        workers: 0,
    };
    assert_eq!(queue, expected);
    let mut conn = world.conn().await;
    workers::seen(&mut conn, &presence("w1", POOL), at(0))
        .await
        .unwrap();
    assert_eq!(
        ahead(&world, world.enrolled, Priority::Normal)
            .await
            .workers,
        1
    );
}

#[tokio::test]
async fn a_long_queue_of_another_counts_as_far_as_it_goes_first() {
    let world = World::new().await;
    for _ in 0..2 {
        world.queued().await;
    }
    world.admit(1.0, 1, at(1)).await;
    let other = world.another_tenant().await;
    for _ in 0..20 {
        world.queue(&new_render(other, |_| {})).await;
    }
    let bulk = |new: &mut NewRender| new.priority = Priority::Bulk;
    world.queue(&world.draft(bulk)).await;
    // One at work, one of its own, and as many of the other's.
    let queue = ahead(&world, world.enrolled, Priority::Normal).await;
    assert_eq!(queue.place, 4);
    assert!((queue.seconds - 4.0).abs() < 1e-6);
    let queue = ahead(&world, world.enrolled, Priority::Bulk).await;
    assert_eq!(queue.place, 6);
    // The newcomer is behind one of each at most.
    let newcomer = world.another_tenant().await;
    assert_eq!(ahead(&world, newcomer, Priority::Normal).await.place, 3);
}

#[tokio::test]
async fn the_pace_is_what_attempts_took_of_late() {
    let world = World::new().await;
    let grant = world.running(at(0)).await;
    world.finish(&grant, &succeeded(), at(2)).await;
    // Estimated at 1 s, and the device was busy for 0.25 + 1.5 s.
    let queue = ahead(&world, world.enrolled, Priority::Normal).await;
    assert!((queue.pace - 1.75).abs() < 1e-6, "{queue:?}");
}
