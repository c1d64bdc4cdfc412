//! Face embeddings of accepted photos.

use likeness_domain::{
    IdentityId,
    embedding::FaceEmbedding,
    names::{IdentityName, PhotoName},
};
use likeness_registry::{SealingContext, embeddings, photos};

use crate::world::{ENCODER, OTHER_ENCODER, World, at, key_ring};

fn embedding(angle: f32) -> FaceEmbedding {
    FaceEmbedding::new(vec![angle.cos(), angle.sin()]).unwrap()
}

/// An accepted photo with an embedding.
async fn enrolled(world: &World, identity: IdentityId, encoder: &str, angle: f32) -> PhotoName {
    let name = world.accepted(identity, 1.0).await;
    let context = SealingContext {
        tenant: name.tenant,
        identity,
        photo: name.photo,
        encoder,
    };
    let sealed = key_ring()
        .seal_embedding(&context, &embedding(angle))
        .unwrap();
    embeddings::insert(&mut *world.conn().await, name.photo, encoder, &sealed)
        .await
        .unwrap();
    name
}

#[tokio::test]
async fn a_photo_is_compared_with_its_identitys_other_accepted_ones() {
    let world = World::new().await;
    let identity = world.identity().await;
    enrolled(&world, identity, ENCODER, 0.1).await;
    let deleted = enrolled(&world, identity, ENCODER, 0.2).await;
    enrolled(&world, identity, OTHER_ENCODER, 0.3).await;
    enrolled(&world, world.identity().await, ENCODER, 0.4).await;
    let photo = enrolled(&world, identity, ENCODER, 0.5).await;
    let conn = &mut *world.conn().await;
    photos::delete(conn, &deleted, at(5)).await.unwrap();
    let others = embeddings::of_other_photos(conn, &key_ring(), &photo, ENCODER)
        .await
        .unwrap();
    assert_eq!(others, [embedding(0.1)]);
}

#[tokio::test]
async fn an_embedding_goes_with_its_photo() {
    let world = World::new().await;
    let photo = enrolled(&world, world.identity().await, ENCODER, 0.1).await;
    let conn = &mut *world.conn().await;
    photos::delete(conn, &photo, at(5)).await.unwrap();
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM photo_embeddings")
        .fetch_one(conn)
        .await
        .unwrap();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn the_pinned_photos_of_the_tenants_own_identity_are_opened() {
    let world = World::new().await;
    let identity = world.identity().await;
    let first = enrolled(&world, identity, ENCODER, 0.1).await;
    enrolled(&world, identity, ENCODER, 0.2).await;
    let last = enrolled(&world, identity, ENCODER, 0.3).await;
    let name = IdentityName {
        tenant: world.tenant,
        identity,
    };
    let photos = [first.photo, last.photo];
    let conn = &mut *world.conn().await;
    let keys = key_ring();
    let opened = embeddings::of_photos(conn, &keys, name, &photos, ENCODER).await;
    assert_eq!(opened.unwrap(), [embedding(0.1), embedding(0.3)]);
    let theirs = IdentityName {
        tenant: world.other,
        ..name
    };
    for (name, encoder) in [(theirs, ENCODER), (name, OTHER_ENCODER)] {
        let opened = embeddings::of_photos(conn, &keys, name, &photos, encoder).await;
        assert!(opened.unwrap().is_empty());
    }
}
