//! Renders with sliders: whose consent and whose photos they need. And what comes back beside the pictures.

use likeness_domain::{ErrorKind, RenderId, RenderState, SliderId, render::RenderTimings};
use likeness_registry::renders::{
    self, Claimed, NewRender, Outcome, Publication, Refusal, RenderSlider,
};
use uuid::Uuid;

use crate::world::{Enrolled, POLICY, World, at, failed, image};

/// A slider from one person to another.
fn slider(before: Enrolled, after: Enrolled, scale: f32) -> RenderSlider {
    RenderSlider {
        slider_id: SliderId(Uuid::now_v7()),
        scale,
        before_identity: before.identity,
        before_photos: vec![before.photo],
        after_identity: after.identity,
        after_photos: vec![after.photo],
    }
}

/// Another person of the first tenant.
async fn another(world: &World) -> Enrolled {
    let moved = world.another_tenant().await;
    for (statement, id) in [
        (
            "UPDATE identities SET tenant_id = $2 WHERE id = $1",
            moved.identity.0,
        ),
        (
            "UPDATE photos SET tenant_id = $2 WHERE id = $1",
            moved.photo.0,
        ),
    ] {
        sqlx::query(statement)
            .bind(id)
            .bind(world.enrolled.tenant.0)
            .execute(world.pool())
            .await
            .unwrap();
    }
    Enrolled {
        tenant: world.enrolled.tenant,
        ..moved
    }
}

/// A render with a slider between two people whom it does not show, with both of them.
async fn sliding(world: &World) -> (NewRender, [Enrolled; 2]) {
    let people = [another(world).await, another(world).await];
    let new = world.draft(|new| {
        new.sliders = vec![
            slider(people[0], people[1], 0.7),
            slider(people[1], people[0], -0.25),
        ];
    });
    (new, people)
}

async fn dispatched(world: &World, new: &NewRender) -> Publication {
    world.queue(new).await;
    world.admit(1e9, 1000, at(0)).await.remove(0)
}

async fn refused(world: &World, publication: &Publication) -> (Refusal, String) {
    let Claimed::Refused(refusal) = world.try_claim(publication, at(1)).await else {
        panic!("granted");
    };
    let render = world.render(publication.render).await;
    assert_eq!(render.state, RenderState::Failed);
    (refusal, render.error.unwrap().reason)
}

#[tokio::test]
async fn sliders_are_stored_in_their_order_and_come_with_the_claim() {
    let world = World::new().await;
    let (new, _) = sliding(&world).await;
    let publication = dispatched(&world, &new).await;
    assert_eq!(world.render(new.id).await.sliders, new.sliders);
    let grant = world.claim(&publication, at(1)).await;
    assert_eq!(grant.render.sliders, new.sliders);
    assert!(grant.render.stacks());
    world.finish(&grant, &failed(false), at(2)).await;
    let mut tx = world.pool().begin().await.unwrap();
    let fresh_id = || RenderId(Uuid::now_v7());
    let made = renders::requeue(&mut tx, &[new.id], fresh_id, at(3)).await;
    assert_eq!(made.unwrap()[0].sliders, new.sliders, "and when made anew");
}

#[tokio::test]
async fn a_slider_needs_the_consent_of_both_its_ends() {
    for end in [0, 1] {
        let world = World::new().await;
        let (new, people) = sliding(&world).await;
        let publication = dispatched(&world, &new).await;
        let revoke = "UPDATE identities SET consent_revoked_at = created_at WHERE id = $1";
        world.sql(revoke, people[end].identity.0).await;
        let expected = (Refusal::NoConsent, "CONSENT_REVOKED".to_owned());
        assert_eq!(refused(&world, &publication).await, expected);
    }
}

#[tokio::test]
async fn a_sliders_photos_must_still_be_there() {
    let world = World::new().await;
    let (new, people) = sliding(&world).await;
    let publication = dispatched(&world, &new).await;
    world
        .sql("DELETE FROM photos WHERE id = $1", people[1].photo.0)
        .await;
    let expected = (Refusal::CoefficientsGone, "COEFFICIENTS_GONE".to_owned());
    assert_eq!(refused(&world, &publication).await, expected);
}

#[tokio::test]
async fn a_deleted_person_stops_the_renders_that_slide_to_or_from_them() {
    for end in [0, 1] {
        let world = World::new().await;
        let (new, people) = sliding(&world).await;
        world.queue(&new).await;
        let plain = world.queued().await;
        let (conn, tenant) = (&mut *world.conn().await, world.enrolled.tenant);
        let identity = people[end].identity;
        let settled = renders::fail_of_identity(conn, tenant, identity, at(5)).await;
        assert_eq!(settled.unwrap().len(), 1);
        let stopped = world.render(new.id).await;
        assert_eq!(stopped.error.unwrap().reason, "IDENTITY_DELETED");
        assert_eq!(world.state(plain).await, RenderState::Queued);
    }
}

fn likened(seed: i64, likeness: Option<f32>) -> Outcome {
    let mut image = image(seed);
    image.likeness = likeness;
    Outcome::Succeeded {
        images: vec![image],
        timings: RenderTimings::default(),
    }
}

#[tokio::test]
async fn a_likeness_is_stored_with_its_image_and_may_be_absent() {
    let world = World::new().await;
    for likeness in [Some(0.625), Some(-1.0), None] {
        let grant = world.running(at(0)).await;
        world.finish(&grant, &likened(7, likeness), at(1)).await;
        let render = world.render(grant.render.id).await;
        assert_eq!(render.images[0].image.likeness, likeness);
    }
    let grant = world.running(at(0)).await;
    for wrong in [1.5, -1.001] {
        let (id, outcome) = (grant.render.id, likened(7, Some(wrong)));
        let mut conn = world.conn().await;
        let error = renders::finish(&mut conn, id, grant.attempt, &outcome, &POLICY, at(1)).await;
        assert_eq!(error.unwrap_err().kind, ErrorKind::InvalidArgument);
    }
}

#[tokio::test]
async fn an_image_comes_from_one_of_its_candidates() {
    let world = World::new().await;
    let new = world.draft(|new| new.spec.best_of = 3);
    let publication = dispatched(&world, &new).await;
    let grant = world.claim(&publication, at(1)).await;
    let mut conn = world.conn().await;
    for wrong in [6, 10] {
        let (id, outcome) = (new.id, likened(wrong, None));
        let error = renders::finish(&mut conn, id, grant.attempt, &outcome, &POLICY, at(1)).await;
        assert_eq!(error.unwrap_err().kind, ErrorKind::InvalidArgument);
    }
    world.finish(&grant, &likened(9, Some(0.5)), at(2)).await;
    assert_eq!(world.render(new.id).await.images[0].image.seed, 9);
}
