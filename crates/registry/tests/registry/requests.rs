//! Requests that come more than once.

use likeness_domain::{ErrorKind, TenantId};
use likeness_registry::{
    begin, commit,
    idempotency::{self, IdempotencyKey, Replay},
};
use uuid::Uuid;

use crate::world::{World, at, refused};

const DAY: i64 = 24 * 3600;

fn key(tenant: Option<TenantId>, payload: u8) -> IdempotencyKey<'static> {
    IdempotencyKey {
        tenant,
        method: "CreateRender",
        request_id: "r-1",
        payload_sha256: [payload; 32],
    }
}

#[tokio::test]
async fn the_same_request_returns_what_the_first_one_made() {
    let world = World::new().await;
    let (key, made) = (key(Some(world.tenant), 1), [Uuid::now_v7(), Uuid::now_v7()]);
    let conn = &mut *world.conn().await;
    assert_eq!(
        idempotency::begin(conn, &key, at(0)).await.unwrap(),
        Replay::New
    );
    idempotency::record(conn, &key, &made).await.unwrap();
    for now in [0, DAY - 1] {
        let replay = idempotency::begin(conn, &key, at(now)).await.unwrap();
        assert_eq!(replay, Replay::Same(made.to_vec()));
    }
}

#[tokio::test]
async fn another_request_under_the_same_id_is_refused() {
    let world = World::new().await;
    let conn = &mut *world.conn().await;
    idempotency::begin(conn, &key(None, 1), at(0))
        .await
        .unwrap();
    let other = idempotency::begin(conn, &key(None, 2), at(DAY - 1)).await;
    refused(other, ErrorKind::AlreadyExists, "REQUEST_ID_REUSED");
}

#[tokio::test]
async fn tenants_operators_and_methods_do_not_share_ids() {
    let world = World::new().await;
    let conn = &mut *world.conn().await;
    let keys = [
        key(None, 1),
        key(Some(world.tenant), 2),
        key(Some(world.other), 3),
        IdempotencyKey {
            method: "CreateIdentity",
            ..key(None, 4)
        },
    ];
    for key in keys {
        assert_eq!(
            idempotency::begin(conn, &key, at(0)).await.unwrap(),
            Replay::New
        );
    }
}

#[tokio::test]
async fn an_id_is_free_again_after_a_day() {
    let world = World::new().await;
    let (old, new) = (key(None, 1), key(None, 2));
    let conn = &mut *world.conn().await;
    idempotency::begin(conn, &old, at(0)).await.unwrap();
    idempotency::record(conn, &old, &[Uuid::now_v7()])
        .await
        .unwrap();
    assert_eq!(
        idempotency::begin(conn, &new, at(DAY)).await.unwrap(),
        Replay::New
    );
    assert_eq!(
        idempotency::begin(conn, &new, at(DAY)).await.unwrap(),
        Replay::Same(vec![])
    );
}

#[tokio::test]
async fn a_twin_at_the_same_time_waits_and_sees_the_first_ones_work() {
    let world = World::new().await;
    let (key, made) = (key(Some(world.tenant), 1), Uuid::now_v7());
    let mut first = begin(world.pool()).await.unwrap();
    assert_eq!(
        idempotency::begin(&mut first, &key, at(0)).await.unwrap(),
        Replay::New
    );
    let pool = world.pool().clone();
    let twin = tokio::spawn(async move {
        let mut twin = begin(&pool).await.unwrap();
        idempotency::begin(&mut twin, &key, at(0)).await.unwrap()
    });
    world.someone_waits().await;
    idempotency::record(&mut first, &key, &[made])
        .await
        .unwrap();
    commit(first).await.unwrap();
    assert_eq!(twin.await.unwrap(), Replay::Same(vec![made]));
}

#[tokio::test]
async fn a_twin_of_a_request_that_failed_is_new() {
    let world = World::new().await;
    let key = key(Some(world.tenant), 1);
    let mut first = begin(world.pool()).await.unwrap();
    idempotency::begin(&mut first, &key, at(0)).await.unwrap();
    let pool = world.pool().clone();
    let twin = tokio::spawn(async move {
        let mut twin = begin(&pool).await.unwrap();
        idempotency::begin(&mut twin, &key, at(0)).await.unwrap()
    });
    world.someone_waits().await;
    first.rollback().await.unwrap();
    assert_eq!(twin.await.unwrap(), Replay::New);
}

#[tokio::test]
async fn old_ids_are_swept() {
    let world = World::new().await;
    let conn = &mut *world.conn().await;
    idempotency::begin(conn, &key(None, 1), at(0))
        .await
        .unwrap();
    idempotency::begin(conn, &key(Some(world.tenant), 1), at(1))
        .await
        .unwrap();
    assert_eq!(idempotency::sweep(conn, at(DAY - 1)).await.unwrap(), 0);
    assert_eq!(idempotency::sweep(conn, at(DAY)).await.unwrap(), 1);
    assert_eq!(idempotency::sweep(conn, at(DAY)).await.unwrap(), 0);
}

#[tokio::test]
async fn several_ids_are_taken_at_once_and_each_is_answered_for_itself() {
    let world = World::new().await;
    let named = |request_id, payload| IdempotencyKey {
        request_id,
        ..key(Some(world.tenant), payload)
    };
    let (made, other) = (Uuid::now_v7(), Uuid::now_v7());
    let mut tx = begin(world.pool()).await.unwrap();
    let asked = [(named("a", 1), made), (named("b", 1), other)];
    let replays = idempotency::begin_all(&mut tx, &asked, at(0))
        .await
        .unwrap();
    assert!(replays.iter().all(|one| matches!(one, Ok(Replay::New))));
    commit(tx).await.unwrap();

    let conn = &mut *world.conn().await;
    let asked = [
        (named("c", 1), Uuid::now_v7()),
        (named("a", 1), Uuid::now_v7()),
        (named("b", 2), Uuid::now_v7()),
    ];
    let replays = idempotency::begin_all(conn, &asked, at(1)).await.unwrap();
    assert!(matches!(&replays[0], Ok(Replay::New)));
    assert!(matches!(&replays[1], Ok(Replay::Same(ids)) if *ids == [made]));
    assert!(matches!(&replays[2], Err(error) if error.reason == "REQUEST_ID_REUSED"));
    // What is older than a day is taken over.
    let again = [(named("a", 3), other)];
    let replays = idempotency::begin_all(conn, &again, at(DAY)).await.unwrap();
    assert!(matches!(&replays[0], Ok(Replay::New)));
}
