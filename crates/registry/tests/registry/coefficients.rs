//! Coefficients of accepted photos.

use likeness_domain::ErrorKind;
use likeness_registry::{SealingContext, coefficients, photos};

use crate::world::{ENCODER, OTHER_ENCODER, World, at, id, key_ring, refused, stored};

#[tokio::test]
async fn only_accepted_photos_with_this_encoders_coefficients_are_ready() {
    let world = World::new().await;
    let identity = world.identity().await;
    let first = world.accepted(identity, 1.0).await.photo;
    world.pending(identity).await;
    world.accepted(world.identity().await, 1.0).await;
    let second = world.accepted(identity, 2.0).await.photo;
    let conn = &mut *world.conn().await;
    let ready = coefficients::ready_photos(conn, identity, ENCODER)
        .await
        .unwrap();
    assert_eq!(ready, [first, second]);
    assert!(
        coefficients::ready_photos(conn, identity, OTHER_ENCODER)
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn coefficients_open_in_the_order_that_was_asked() {
    let world = World::new().await;
    let identity = world.identity().await;
    let first = world.accepted(identity, 1.0).await.photo;
    let second = world.accepted(identity, 2.0).await.photo;
    let conn = &mut *world.conn().await;
    for (photos, expected) in [
        (vec![first, second], [1.0, 2.0]),
        (vec![second, first], [2.0, 1.0]),
    ] {
        let opened =
            coefficients::load(conn, &key_ring(), world.tenant, identity, &photos, ENCODER)
                .await
                .unwrap();
        assert_eq!(opened, expected.map(stored));
    }
}

#[tokio::test]
async fn what_is_gone_or_anothers_is_said_to_be_gone() {
    let world = World::new().await;
    let (identity, other) = (world.identity().await, world.identity().await);
    let name = world.accepted(identity, 1.0).await;
    let deleted = world.accepted(identity, 2.0).await;
    let conn = &mut *world.conn().await;
    photos::delete(conn, &deleted, at(5)).await.unwrap();
    for (tenant, identity, photo, encoder) in [
        (world.tenant, identity, deleted.photo, ENCODER),
        (world.tenant, identity, id(), ENCODER),
        (world.tenant, identity, name.photo, OTHER_ENCODER),
        (world.tenant, other, name.photo, ENCODER),
        (world.other, identity, name.photo, ENCODER),
    ] {
        let opened =
            coefficients::load(conn, &key_ring(), tenant, identity, &[photo], encoder).await;
        refused(opened, ErrorKind::FailedPrecondition, "COEFFICIENTS_GONE");
    }
}

#[tokio::test]
async fn sealed_bytes_that_were_moved_to_another_row_do_not_open() {
    let world = World::new().await;
    let identity = world.identity().await;
    let first = world.accepted(identity, 1.0).await.photo;
    world.accepted(identity, 2.0).await;
    world
        .execute(
            "UPDATE photo_coefficients SET sealed = other.sealed FROM photo_coefficients other
             WHERE other.photo_id <> photo_coefficients.photo_id",
        )
        .await;
    let conn = &mut *world.conn().await;
    let keys = key_ring();
    let opened = coefficients::load(conn, &keys, world.tenant, identity, &[first], ENCODER).await;
    let error = opened.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Internal);
    assert!(format!("{error:?}").contains(&first.to_string()));
}

#[tokio::test]
async fn base_coefficients_are_kept_beside_the_others_and_go_with_their_photo() {
    let world = World::new().await;
    let identity = world.identity().await;
    let name = world.accepted(identity, 1.0).await;
    let without = world.accepted(identity, 2.0).await;
    let context = SealingContext {
        tenant: world.tenant,
        identity,
        photo: name.photo,
        encoder: ENCODER,
    };
    let sealed = key_ring().seal_base(&context, &stored(9.0)).unwrap();
    let conn = &mut *world.conn().await;
    coefficients::insert_base(conn, name.photo, &sealed, at(2))
        .await
        .unwrap();
    let both = [name.photo, without.photo];
    assert!(
        coefficients::have_base(conn, &both[..1], ENCODER)
            .await
            .unwrap()
    );
    assert!(
        !coefficients::have_base(conn, &both[..1], OTHER_ENCODER)
            .await
            .unwrap()
    );
    assert!(!coefficients::have_base(conn, &both, ENCODER).await.unwrap());
    assert!(coefficients::have_all(conn, &both, ENCODER).await.unwrap());
    let keys = key_ring();
    let tenant = world.tenant;
    let opened = coefficients::load_base(conn, &keys, tenant, identity, &both[..1], ENCODER).await;
    assert_eq!(opened.unwrap(), [stored(9.0)]);
    let gone = coefficients::load_base(conn, &keys, tenant, identity, &both, ENCODER).await;
    refused(gone, ErrorKind::FailedPrecondition, "COEFFICIENTS_GONE");
    photos::delete(conn, &name, at(5)).await.unwrap();
    assert!(!coefficients::have_all(conn, &both, ENCODER).await.unwrap());
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM photo_base_coefficients")
        .fetch_one(conn)
        .await
        .unwrap();
    assert_eq!(left, 0);
}
