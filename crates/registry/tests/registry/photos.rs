//! Photos.

use likeness_domain::{PhotoState, page::Page, photo::FaceChoice};
use likeness_registry::photos::{self, NewPhoto};

use crate::world::{World, at, id, no_face, not_found};

#[tokio::test]
async fn a_new_photo_waits() {
    let world = World::new().await;
    let identity = world.identity().await;
    let name = world.pending(identity).await;
    let photo = photos::get(&mut *world.conn().await, &name).await.unwrap();
    assert_eq!((photo.name(), photo.state), (name, PhotoState::Pending));
    assert_eq!(
        (photo.face_choice, photo.content_type.as_str()),
        (FaceChoice::Largest, "image/jpeg")
    );
    assert_eq!(
        (photo.size_bytes, photo.attempt, photo.created_at),
        (1234, 0, at(0))
    );
    assert_eq!(
        (photo.quality, photo.rejection, photo.finished_at),
        (None, None, None)
    );
}

#[tokio::test]
async fn a_photo_may_be_refused_at_once() {
    let world = World::new().await;
    let identity = world.identity().await;
    let name = world.insert(identity, id(), Some(no_face())).await;
    let photo = photos::get(&mut *world.conn().await, &name).await.unwrap();
    assert_eq!(
        (photo.state, photo.rejection),
        (PhotoState::Rejected, Some(no_face()))
    );
    assert_eq!(photo.finished_at, Some(at(0)));
}

#[tokio::test]
async fn a_photo_needs_an_identity_of_its_tenant() {
    let world = World::new().await;
    let identity = world.identity().await;
    for (tenant_id, identity_id) in [(world.other, identity), (world.tenant, id())] {
        let new = NewPhoto {
            id: id(),
            tenant_id,
            identity_id,
            face_choice: FaceChoice::Only,
            content_type: "image/png".to_owned(),
            size_bytes: 1,
            sha256: [0; 32],
            rejection: None,
        };
        not_found(photos::insert(&mut *world.conn().await, &new, at(0)).await);
    }
}

#[tokio::test]
async fn a_photo_is_found_under_its_whole_name_alone() {
    let world = World::new().await;
    let (identity, other) = (world.identity().await, world.identity().await);
    let name = world.pending(identity).await;
    let conn = &mut *world.conn().await;
    let strangers = [
        likeness_domain::names::PhotoName {
            tenant: world.other,
            ..name
        },
        likeness_domain::names::PhotoName {
            identity: other,
            ..name
        },
    ];
    for stranger in strangers {
        not_found(photos::get(conn, &stranger).await);
        not_found(photos::delete(conn, &stranger, at(0)).await);
    }
    assert!(
        photos::get_many(conn, world.other, &[name.photo])
            .await
            .unwrap()
            .is_empty()
    );
    assert!(world.erasures(at(0)).await.is_empty());
}

#[tokio::test]
async fn photos_are_listed_in_pages_and_by_ids() {
    let world = World::new().await;
    let (identity, other) = (world.identity().await, world.identity().await);
    let mut names = Vec::new();
    for _ in 0..3 {
        names.push(world.pending(identity).await);
    }
    let elsewhere = world.pending(other).await;
    let conn = &mut *world.conn().await;
    let page = Page {
        size: 2,
        after: Some(names[0].photo.0),
    };
    let rows = photos::list(conn, world.tenant, identity, &page)
        .await
        .unwrap();
    assert_eq!(
        rows.iter().map(photos::Photo::name).collect::<Vec<_>>(),
        names[1..]
    );
    let ids = [elsewhere.photo, names[0].photo, id()];
    let rows = photos::get_many(conn, world.tenant, &ids).await.unwrap();
    assert_eq!(
        rows.iter().map(photos::Photo::name).collect::<Vec<_>>(),
        [names[0], elsewhere]
    );
}

#[tokio::test]
async fn a_deleted_photo_leaves_nothing_but_its_erasure() {
    let world = World::new().await;
    let identity = world.identity().await;
    let name = world.accepted(identity, 1.0).await;
    let conn = &mut *world.conn().await;
    photos::delete(conn, &name, at(7)).await.unwrap();
    not_found(photos::get(conn, &name).await);
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM photo_coefficients")
        .fetch_one(&mut *conn)
        .await
        .unwrap();
    assert_eq!(left, 0);
    assert_eq!(world.erasures(at(7)).await, [format!("{name}/")]);
    not_found(photos::delete(conn, &name, at(8)).await);
}
