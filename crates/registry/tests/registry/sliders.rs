//! Sliders, and that none outlives what it is made from.

use likeness_domain::{ErrorKind, IdentityId, SliderId, names::PhotoName, page::Page};
use likeness_registry::{
    begin, commit, identities, photos,
    sliders::{self, NewSlider, Slider, SliderEnd, SliderSource},
    tenants,
};

use crate::world::{ENCODER, OTHER_ENCODER, World, at, id, not_found, refused, sealed};

fn photo_end(name: &PhotoName) -> SliderEnd {
    SliderEnd {
        identity: name.identity,
        photo: Some(name.photo),
        photos: vec![name.photo],
    }
}

fn identity_end(identity: IdentityId, photos: &[&PhotoName]) -> SliderEnd {
    SliderEnd {
        identity,
        photo: None,
        photos: photos.iter().map(|name| name.photo).collect(),
    }
}

fn new_slider(world: &World, before: SliderEnd, after: SliderEnd) -> NewSlider {
    NewSlider {
        id: id(),
        tenant_id: world.tenant,
        display_name: "age".to_owned(),
        before,
        after,
    }
}

async fn create(world: &World, before: SliderEnd, after: SliderEnd) -> Slider {
    let new = new_slider(world, before, after);
    sliders::create(&mut *world.conn().await, &new, at(3))
        .await
        .unwrap()
}

async fn listed(world: &World) -> Vec<SliderId> {
    let page = Page::from_request(0, "").unwrap();
    let rows = sliders::list(&mut *world.conn().await, world.tenant, &page).await;
    rows.unwrap().iter().map(|row| row.id).collect()
}

/// Two photos of one identity and one of another.
async fn three_photos(world: &World) -> [PhotoName; 3] {
    let (one, other) = (world.identity().await, world.identity().await);
    [
        world.accepted(one, 1.0).await,
        world.accepted(one, 2.0).await,
        world.accepted(other, 3.0).await,
    ]
}

#[tokio::test]
async fn a_slider_is_stored_with_its_pins_and_found_by_its_tenant_alone() {
    let world = World::new().await;
    let [first, second, third] = three_photos(&world).await;
    let before = identity_end(first.identity, &[&first, &second]);
    let made = create(&world, before.clone(), photo_end(&third)).await;
    assert_eq!((&made.before, &made.after), (&before, &photo_end(&third)));
    assert_eq!(
        (made.display_name.as_str(), made.created_at),
        ("age", at(3))
    );
    assert!(!format!("{made:?}").contains("age"));
    let conn = &mut *world.conn().await;
    assert_eq!(
        sliders::get(conn, world.tenant, made.id).await.unwrap(),
        made
    );
    not_found(sliders::get(conn, world.other, made.id).await);
    not_found(sliders::delete(conn, world.other, made.id).await);
    sliders::delete(conn, world.tenant, made.id).await.unwrap();
    not_found(sliders::delete(conn, world.tenant, made.id).await);
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM slider_photos")
        .fetch_one(conn)
        .await
        .unwrap();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn sliders_are_listed_page_by_page_the_oldest_first() {
    let world = World::new().await;
    let [first, second, third] = three_photos(&world).await;
    let mut made = Vec::new();
    for after in [&second, &third, &second] {
        made.push(create(&world, photo_end(&first), photo_end(after)).await);
    }
    let conn = &mut *world.conn().await;
    let page = Page::from_request(2, "").unwrap();
    let rows = sliders::list(conn, world.tenant, &page).await.unwrap();
    assert_eq!(rows, made[..2]);
    let token = page.next_token(&rows, |row| row.id.0);
    let page = Page::from_request(2, &token).unwrap();
    let rows = sliders::list(conn, world.tenant, &page).await.unwrap();
    assert_eq!(rows, made[2..]);
    let page = Page::from_request(0, "").unwrap();
    assert!(
        sliders::list(conn, world.other, &page)
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn both_ends_need_coefficients_of_one_encoder() {
    let world = World::new().await;
    let [first, second, third] = three_photos(&world).await;
    let source = |name: &PhotoName, of_photo: bool| SliderSource {
        identity: name.identity,
        photo: of_photo.then_some(name.photo),
    };
    let conn = &mut *world.conn().await;
    for (before, after) in [
        (source(&first, true), source(&second, true)),
        (source(&first, false), source(&third, false)),
        (source(&first, false), source(&third, true)),
    ] {
        let found = sliders::common_encoder(conn, world.tenant, before, after).await;
        assert_eq!(found.unwrap().as_deref(), Some(ENCODER));
        let theirs = sliders::common_encoder(conn, world.other, before, after).await;
        assert_eq!(theirs.unwrap(), None);
    }
    let moved = sealed(&third, OTHER_ENCODER, 3.0);
    sqlx::query("UPDATE photo_coefficients SET encoder = $2 WHERE photo_id = $1")
        .bind(third.photo.0)
        .bind(&moved.encoder)
        .execute(&mut *conn)
        .await
        .unwrap();
    let (before, after) = (source(&first, false), source(&third, false));
    let found = sliders::common_encoder(conn, world.tenant, before, after).await;
    assert_eq!(found.unwrap(), None);
}

#[tokio::test]
async fn a_slider_goes_with_any_of_its_photos_and_people() {
    let world = World::new().await;
    let [first, second, third] = three_photos(&world).await;
    let both = [&first, &second];
    let of_identities = create(
        &world,
        identity_end(first.identity, &both),
        identity_end(third.identity, &[&third]),
    )
    .await;
    let of_photos = create(&world, photo_end(&first), photo_end(&third)).await;
    let of_one = create(&world, photo_end(&first), photo_end(&second)).await;
    assert_eq!(
        listed(&world).await,
        [of_identities.id, of_photos.id, of_one.id]
    );
    photos::delete(&mut *world.conn().await, &second, at(5))
        .await
        .unwrap();
    assert_eq!(listed(&world).await, [of_photos.id]);
    let again = create(&world, photo_end(&third), photo_end(&first)).await;
    assert_eq!(listed(&world).await, [of_photos.id, again.id]);
    let mut tx = begin(world.pool()).await.unwrap();
    identities::delete(&mut tx, world.tenant, third.identity, None, at(6))
        .await
        .unwrap();
    commit(tx).await.unwrap();
    assert!(listed(&world).await.is_empty());
}

#[tokio::test]
async fn a_slider_goes_with_its_tenant() {
    let world = World::new().await;
    let [first, second, _] = three_photos(&world).await;
    create(&world, photo_end(&first), photo_end(&second)).await;
    let mut tx = begin(world.pool()).await.unwrap();
    tenants::delete(&mut tx, world.tenant, None, at(6))
        .await
        .unwrap();
    commit(tx).await.unwrap();
    assert!(listed(&world).await.is_empty());
}

#[tokio::test]
async fn a_source_that_has_just_gone_is_said_to_be_gone() {
    let world = World::new().await;
    let [first, second, third] = three_photos(&world).await;
    let of_photo = new_slider(&world, photo_end(&first), photo_end(&second));
    let of_identity = new_slider(
        &world,
        photo_end(&first),
        identity_end(third.identity, &[&third]),
    );
    let conn = &mut *world.conn().await;
    photos::delete(conn, &second, at(5)).await.unwrap();
    sqlx::query("DELETE FROM identities WHERE id = $1")
        .bind(third.identity.0)
        .execute(&mut *conn)
        .await
        .unwrap();
    for new in [of_photo, of_identity] {
        let made = sliders::create(conn, &new, at(6)).await;
        refused(made, ErrorKind::FailedPrecondition, "SOURCE_GONE");
    }
    assert!(listed(&world).await.is_empty());
}

#[tokio::test]
async fn a_photo_that_is_deleted_while_a_slider_is_made_takes_it_along() {
    let world = World::new().await;
    let [first, second, _] = three_photos(&world).await;
    let new = new_slider(&world, photo_end(&first), photo_end(&second));
    let mut making = begin(world.pool()).await.unwrap();
    sliders::create(&mut making, &new, at(5)).await.unwrap();
    let deleting = async {
        let mut tx = begin(world.pool()).await.unwrap();
        photos::delete(&mut tx, &second, at(5)).await.unwrap();
        commit(tx).await.unwrap();
    };
    let making = async {
        world.someone_waits().await;
        commit(making).await.unwrap();
    };
    tokio::join!(deleting, making);
    assert!(listed(&world).await.is_empty());
}
