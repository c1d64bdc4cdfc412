//! One leader at a time, and no word from an old one.

use chrono::TimeDelta;
use likeness_domain::ErrorKind;
use likeness_registry::{leaders, renders};

use crate::world::{POLICY, POOL, World, at};

const TTL: TimeDelta = TimeDelta::seconds(10);

#[tokio::test]
async fn a_leader_renews_and_keeps_its_epoch() {
    let world = World::new().await;
    let mut conn = world.conn().await;
    let first = leaders::acquire(&mut conn, "r", "a", TTL, at(0))
        .await
        .unwrap()
        .unwrap();
    let again = leaders::acquire(&mut conn, "r", "a", TTL, at(5))
        .await
        .unwrap()
        .unwrap();
    assert_eq!((first.epoch, again.epoch), (1, 1));
    assert_eq!(again.lease_until, at(15));
}

#[tokio::test]
async fn nobody_takes_over_while_the_lease_lives() {
    let world = World::new().await;
    let mut conn = world.conn().await;
    leaders::acquire(&mut conn, "r", "a", TTL, at(0))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        leaders::acquire(&mut conn, "r", "b", TTL, at(9))
            .await
            .unwrap(),
        None
    );
    let other_role = leaders::acquire(&mut conn, "s", "b", TTL, at(9))
        .await
        .unwrap();
    assert!(other_role.is_some());
}

#[tokio::test]
async fn a_lapsed_lease_passes_on_with_the_next_epoch() {
    let world = World::new().await;
    let mut conn = world.conn().await;
    leaders::acquire(&mut conn, "r", "a", TTL, at(0))
        .await
        .unwrap()
        .unwrap();
    let next = leaders::acquire(&mut conn, "r", "b", TTL, at(10))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(next.epoch, 2);
    // The old one's own lapsed lease is no better than another's.
    assert_eq!(
        leaders::acquire(&mut conn, "r", "a", TTL, at(11))
            .await
            .unwrap(),
        None
    );
    let back = leaders::acquire(&mut conn, "r", "a", TTL, at(20))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(back.epoch, 3);
}

#[tokio::test]
async fn a_released_role_is_free_at_once() {
    let world = World::new().await;
    let mut conn = world.conn().await;
    let first = leaders::acquire(&mut conn, "r", "a", TTL, at(0))
        .await
        .unwrap()
        .unwrap();
    leaders::release(&mut conn, &first, at(1)).await.unwrap();
    let next = leaders::acquire(&mut conn, "r", "b", TTL, at(1))
        .await
        .unwrap()
        .unwrap();
    leaders::release(&mut conn, &first, at(2)).await.unwrap();
    leaders::check(&mut conn, &next, at(3)).await.unwrap();
}

#[tokio::test]
async fn an_old_leader_can_do_nothing() {
    let world = World::new().await;
    world.queued().await;
    let mut conn = world.conn().await;
    let old = leaders::acquire(&mut conn, "r", "a", TTL, at(0))
        .await
        .unwrap()
        .unwrap();
    leaders::acquire(&mut conn, "r", "b", TTL, at(10))
        .await
        .unwrap()
        .unwrap();
    // Its own clock still says that its lease lives.
    let refusals = [
        renders::admit(&mut conn, &old, POOL, 1e9, 10, at(9))
            .await
            .map(|rows| rows.len()),
        renders::republish_due(&mut conn, &old, TTL, TTL, 10, at(9))
            .await
            .map(|rows| rows.len()),
        renders::reap(&mut conn, &old, &POLICY, at(9))
            .await
            .map(|rows| rows.len()),
        renders::expire(&mut conn, &old, 10, at(9))
            .await
            .map(|rows| rows.len()),
    ];
    for refusal in refusals {
        let error = refusal.unwrap_err();
        assert_eq!(
            (error.kind, error.reason),
            (ErrorKind::Aborted, "NOT_LEADER")
        );
    }
    assert_eq!(
        renders::window(&mut conn, POOL).await.unwrap().dispatched,
        0
    );
}

#[tokio::test]
async fn a_lapsed_leader_stops_even_without_a_successor() {
    let world = World::new().await;
    let mut conn = world.conn().await;
    let leader = leaders::acquire(&mut conn, "r", "a", TTL, at(0))
        .await
        .unwrap()
        .unwrap();
    let error = leaders::check(&mut conn, &leader, at(10))
        .await
        .unwrap_err();
    assert_eq!(error.reason, "NOT_LEADER");
}

#[tokio::test]
async fn a_takeover_waits_for_what_the_leader_has_begun() {
    let world = World::new().await;
    let mut conn = world.conn().await;
    let leader = leaders::acquire(&mut conn, "r", "a", TTL, at(0))
        .await
        .unwrap()
        .unwrap();
    let mut begun = world.pool().begin().await.unwrap();
    leaders::check(&mut begun, &leader, at(9)).await.unwrap();
    sqlx::query("SET lock_timeout = '50ms'")
        .execute(&mut *conn)
        .await
        .unwrap();
    let error = leaders::acquire(&mut conn, "r", "b", TTL, at(10))
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    begun.commit().await.unwrap();
    assert!(
        leaders::acquire(&mut conn, "r", "b", TTL, at(10))
            .await
            .unwrap()
            .is_some()
    );
}

#[tokio::test]
async fn a_leader_that_stands_still_in_its_transaction_is_thrown_out() {
    let world = World::new().await;
    let mut conn = world.conn().await;
    let leader = leaders::acquire(&mut conn, "r", "a", TTL, at(0))
        .await
        .unwrap()
        .unwrap();
    let mut begun = world.pool().begin().await.unwrap();
    leaders::check(&mut begun, &leader, at(9)).await.unwrap();
    // Waits for the lock, which falls when the server ends the idle session.
    assert!(
        leaders::acquire(&mut conn, "r", "b", TTL, at(10))
            .await
            .unwrap()
            .is_some()
    );
    assert!(begun.commit().await.is_err());
}
