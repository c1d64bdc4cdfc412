//! Erasures of stored objects.

use likeness_domain::ErrorKind;
use likeness_registry::erasures;

use crate::world::{World, at};

#[tokio::test]
async fn a_prefix_is_due_when_its_time_has_come_the_longest_due_first() {
    let world = World::new().await;
    let conn = &mut *world.conn().await;
    for (prefix, not_before) in [("tenants/b/", 5), ("tenants/a/", 9), ("tenants/c/", 1)] {
        erasures::request(conn, prefix, at(not_before))
            .await
            .unwrap();
    }
    assert_eq!(
        erasures::due(conn, 10, at(5)).await.unwrap(),
        ["tenants/c/", "tenants/b/"]
    );
    assert_eq!(erasures::due(conn, 1, at(9)).await.unwrap(), ["tenants/c/"]);
    assert!(erasures::due(conn, 10, at(0)).await.unwrap().is_empty());
}

#[tokio::test]
async fn of_two_requests_the_later_counts() {
    let world = World::new().await;
    let conn = &mut *world.conn().await;
    for not_before in [5, 9, 1] {
        erasures::request(conn, "tenants/a/", at(not_before))
            .await
            .unwrap();
    }
    assert!(erasures::due(conn, 10, at(8)).await.unwrap().is_empty());
    assert_eq!(
        erasures::due(conn, 10, at(9)).await.unwrap(),
        ["tenants/a/"]
    );
}

#[tokio::test]
async fn what_is_done_is_struck_off_unless_it_was_requested_anew() {
    let world = World::new().await;
    let conn = &mut *world.conn().await;
    erasures::request(conn, "tenants/a/", at(1)).await.unwrap();
    erasures::request(conn, "tenants/b/", at(1)).await.unwrap();
    let due = erasures::due(conn, 10, at(2)).await.unwrap();
    erasures::request(conn, "tenants/b/", at(3)).await.unwrap();
    erasures::done(conn, &due, at(2)).await.unwrap();
    assert_eq!(
        erasures::due(conn, 10, at(9)).await.unwrap(),
        ["tenants/b/"]
    );
}

#[tokio::test]
async fn nothing_outside_the_tenants_is_ever_erased() {
    let world = World::new().await;
    for prefix in ["", "/", "bundles/"] {
        let answer = erasures::request(&mut *world.conn().await, prefix, at(0)).await;
        assert_eq!(answer.unwrap_err().kind, ErrorKind::Internal);
    }
}
