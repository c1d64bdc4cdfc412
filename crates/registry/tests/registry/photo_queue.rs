//! Publications, claims, leases and outcomes of photos.

use chrono::TimeDelta;
use likeness_domain::{PhotoState, photo::FaceChoice};
use likeness_registry::{
    begin, commit,
    photos::{
        self,
        queue::{self, PhotoPublication},
    },
};

use crate::world::{ENCODER, LEASE, World, at, id, no_face, quality, sealed};

const REPUBLISH: TimeDelta = TimeDelta::seconds(30);

async fn publish(world: &World, now: i64) -> Vec<PhotoPublication> {
    queue::publish_due(&mut *world.conn().await, 10, REPUBLISH, at(now))
        .await
        .unwrap()
}

async fn state(world: &World, name: &likeness_domain::names::PhotoName) -> PhotoState {
    photos::get(&mut *world.conn().await, name)
        .await
        .unwrap()
        .state
}

#[tokio::test]
async fn a_photo_is_published_until_it_is_confirmed() {
    let world = World::new().await;
    let photo = world.pending(world.identity().await).await.photo;
    let first = publish(&world, 0).await;
    assert_eq!(
        first,
        [PhotoPublication {
            photo,
            publication: 1
        }]
    );
    // It was not confirmed: the publisher may have died before it published.
    let second = publish(&world, 1).await;
    assert_eq!(
        second,
        [PhotoPublication {
            photo,
            publication: 2
        }]
    );
    let conn = &mut *world.conn().await;
    queue::mark_published(conn, &first, at(1)).await.unwrap();
    assert_eq!(
        publish(&world, 2).await,
        [PhotoPublication {
            photo,
            publication: 3
        }]
    );
    let third = [PhotoPublication {
        photo,
        publication: 3,
    }];
    queue::mark_published(conn, &third, at(2)).await.unwrap();
    assert_eq!(publish(&world, 3).await, []);
}

#[tokio::test]
async fn a_photo_that_nobody_claims_is_published_again() {
    let world = World::new().await;
    let photo = world.pending(world.identity().await).await.photo;
    let first = publish(&world, 0).await;
    queue::mark_published(&mut *world.conn().await, &first, at(0))
        .await
        .unwrap();
    assert_eq!(publish(&world, 29).await, []);
    assert_eq!(
        publish(&world, 30).await,
        [PhotoPublication {
            photo,
            publication: 2
        }]
    );
    assert_eq!(claim(&world, first[0], 31).await, None);
}

async fn claim(world: &World, publication: PhotoPublication, now: i64) -> Option<i32> {
    let PhotoPublication { photo, publication } = publication;
    let conn = &mut *world.conn().await;
    let claim = queue::claim(conn, photo, publication, "w", LEASE, at(now))
        .await
        .unwrap();
    claim.map(|claim| claim.attempt)
}

#[tokio::test]
async fn two_publishers_take_different_photos() {
    let world = World::new().await;
    let identity = world.identity().await;
    let (a, b) = (world.pending(identity).await, world.pending(identity).await);
    let mut first = begin(world.pool()).await.unwrap();
    let mut second = begin(world.pool()).await.unwrap();
    let one = queue::publish_due(&mut first, 1, REPUBLISH, at(0))
        .await
        .unwrap();
    let rest = queue::publish_due(&mut second, 10, REPUBLISH, at(0))
        .await
        .unwrap();
    commit(first).await.unwrap();
    commit(second).await.unwrap();
    let taken = [one, rest].map(|taken| taken.iter().map(|due| due.photo).collect::<Vec<_>>());
    assert_eq!(taken, [vec![a.photo], vec![b.photo]]);
}

#[tokio::test]
async fn a_claim_gives_what_the_worker_needs() {
    let world = World::new().await;
    let name = world.pending(world.identity().await).await;
    publish(&world, 0).await;
    let conn = &mut *world.conn().await;
    let claim = queue::claim(conn, name.photo, 1, "w", LEASE, at(5))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (claim.name, claim.attempt, claim.lease_until),
        (name, 1, at(65))
    );
    assert_eq!(
        (claim.face_choice, claim.content_type.as_str()),
        (FaceChoice::Largest, "image/jpeg")
    );
    assert_eq!(state(&world, &name).await, PhotoState::Running);
    assert_eq!(publish(&world, 1000).await, []);
}

#[tokio::test]
async fn only_the_present_publication_of_a_waiting_photo_is_claimed() {
    let world = World::new().await;
    let identity = world.identity().await;
    let photo = world.pending(identity).await.photo;
    let refused = world.insert(identity, id(), Some(no_face())).await.photo;
    publish(&world, 0).await;
    publish(&world, 0).await;
    for (photo, publication) in [(photo, 1), (photo, 3), (refused, 0), (id(), 1)] {
        assert_eq!(
            claim(&world, PhotoPublication { photo, publication }, 1).await,
            None
        );
    }
    let present = PhotoPublication {
        photo,
        publication: 2,
    };
    assert_eq!(claim(&world, present, 1).await, Some(1));
    assert_eq!(claim(&world, present, 1).await, None);
}

#[tokio::test]
async fn of_two_claims_at_once_one_is_granted() {
    let world = World::new().await;
    let photo = world.pending(world.identity().await).await.photo;
    publish(&world, 0).await;
    let mut first = begin(world.pool()).await.unwrap();
    assert!(
        queue::claim(&mut first, photo, 1, "a", LEASE, at(1))
            .await
            .unwrap()
            .is_some()
    );
    let pool = world.pool().clone();
    let second = tokio::spawn(async move {
        let mut second = begin(&pool).await.unwrap();
        queue::claim(&mut second, photo, 1, "b", LEASE, at(1))
            .await
            .unwrap()
    });
    world.someone_waits().await;
    commit(first).await.unwrap();
    assert_eq!(second.await.unwrap(), None);
}

#[tokio::test]
async fn a_lease_is_renewed_while_it_holds_and_by_its_attempt_alone() {
    let world = World::new().await;
    let (name, attempt) = world.running(world.identity().await, at(0)).await;
    let conn = &mut *world.conn().await;
    assert!(
        queue::renew(conn, name.photo, attempt, LEASE, at(59))
            .await
            .unwrap()
    );
    assert!(
        !queue::renew(conn, name.photo, attempt + 1, LEASE, at(60))
            .await
            .unwrap()
    );
    assert!(
        queue::reap(conn, 3, REPUBLISH, at(118))
            .await
            .unwrap()
            .is_empty()
    );
    assert!(
        !queue::renew(conn, name.photo, attempt, LEASE, at(119))
            .await
            .unwrap()
    );
}

#[tokio::test]
async fn an_accepted_photo_has_its_report() {
    let world = World::new().await;
    let name = world.accepted(world.identity().await, 1.0).await;
    let photo = photos::get(&mut *world.conn().await, &name).await.unwrap();
    assert_eq!(
        (photo.state, photo.quality),
        (PhotoState::Accepted, Some(quality()))
    );
    assert_eq!((photo.attempt, photo.finished_at), (1, Some(at(1))));
}

#[tokio::test]
async fn a_rejected_photo_says_why_and_what_was_measured() {
    let world = World::new().await;
    let identity = world.identity().await;
    for measured in [None, Some(quality())] {
        let (name, attempt) = world.running(identity, at(0)).await;
        let conn = &mut *world.conn().await;
        let report = measured.as_ref();
        assert!(
            queue::reject(conn, name.photo, attempt, &no_face(), report, at(2))
                .await
                .unwrap()
        );
        let photo = photos::get(conn, &name).await.unwrap();
        assert_eq!(
            (photo.state, photo.rejection),
            (PhotoState::Rejected, Some(no_face()))
        );
        assert_eq!((photo.quality, photo.finished_at), (measured, Some(at(2))));
    }
}

#[tokio::test]
async fn a_stale_attempt_changes_nothing() {
    let world = World::new().await;
    let (name, stale) = world.running(world.identity().await, at(0)).await;
    let conn = &mut *world.conn().await;
    let reaped = queue::reap(conn, 3, TimeDelta::zero(), at(60))
        .await
        .unwrap();
    assert_eq!(reaped, [(name, PhotoState::Pending)]);
    let due = publish(&world, 60).await;
    assert_eq!(claim(&world, due[0], 60).await, Some(stale + 1));
    let sealed = sealed(&name, ENCODER, 1.0);
    let accepted = queue::accept(conn, name.photo, stale, &quality(), &sealed, at(61)).await;
    let rejected = queue::reject(conn, name.photo, stale, &no_face(), None, at(61)).await;
    let retried = queue::retry(conn, name.photo, stale, at(99), 3, at(61)).await;
    assert_eq!(
        (accepted.unwrap(), rejected.unwrap(), retried.unwrap()),
        (false, false, None)
    );
    assert_eq!(state(&world, &name).await, PhotoState::Running);
    let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM photo_coefficients")
        .fetch_one(&mut *conn)
        .await
        .unwrap();
    assert_eq!(kept, 0);
}

#[tokio::test]
async fn an_outcome_is_undone_with_its_transaction() {
    let world = World::new().await;
    let (name, attempt) = world.running(world.identity().await, at(0)).await;
    let sealed = sealed(&name, ENCODER, 1.0);
    let mut undone = begin(world.pool()).await.unwrap();
    queue::accept(&mut undone, name.photo, attempt, &quality(), &sealed, at(1))
        .await
        .unwrap();
    drop(undone);
    assert_eq!(state(&world, &name).await, PhotoState::Running);
}

#[tokio::test]
async fn a_failed_attempt_waits_its_time_and_the_last_one_ends_it() {
    let world = World::new().await;
    let (name, attempt) = world.running(world.identity().await, at(0)).await;
    let conn = &mut *world.conn().await;
    let retried = queue::retry(conn, name.photo, attempt, at(20), 2, at(10))
        .await
        .unwrap();
    assert_eq!(retried, Some(PhotoState::Pending));
    // An old message that comes once more must not bring it forward.
    assert_eq!(
        claim(
            &world,
            PhotoPublication {
                photo: name.photo,
                publication: 1
            },
            19
        )
        .await,
        None
    );
    assert_eq!(publish(&world, 19).await, []);
    let due = publish(&world, 20).await;
    assert_eq!(claim(&world, due[0], 20).await, Some(2));
    let retried = queue::retry(conn, name.photo, 2, at(40), 2, at(30))
        .await
        .unwrap();
    assert_eq!(retried, Some(PhotoState::Failed));
    let photo = photos::get(conn, &name).await.unwrap();
    assert_eq!(
        (photo.state, photo.finished_at),
        (PhotoState::Failed, Some(at(30)))
    );
    assert_eq!(publish(&world, 1000).await, []);
}

#[tokio::test]
async fn lapsed_leases_are_reaped_and_the_last_one_ends_the_photo() {
    let world = World::new().await;
    let identity = world.identity().await;
    let (name, _) = world.running(identity, at(0)).await;
    let (living, _) = world.running(identity, at(30)).await;
    let conn = &mut *world.conn().await;
    assert!(
        queue::reap(conn, 2, REPUBLISH, at(59))
            .await
            .unwrap()
            .is_empty()
    );
    let reaped = queue::reap(conn, 2, REPUBLISH, at(60)).await.unwrap();
    assert_eq!(reaped, [(name, PhotoState::Pending)]);
    assert_eq!(state(&world, &living).await, PhotoState::Running);
    assert_eq!(publish(&world, 89).await, []);
    let due = publish(&world, 90).await;
    queue::renew(conn, living.photo, 1, TimeDelta::days(1), at(89))
        .await
        .unwrap();
    assert_eq!(claim(&world, due[0], 90).await, Some(2));
    let reaped = queue::reap(conn, 2, REPUBLISH, at(150)).await.unwrap();
    assert_eq!(reaped, [(name, PhotoState::Failed)]);
}
