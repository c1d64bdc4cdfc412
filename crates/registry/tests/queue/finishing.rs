//! One effect for each render, whatever its workers report.

use likeness_domain::{
    AttemptOutcome, ErrorKind, RenderState,
    render::{RenderTimings, RenderedImage, Strength},
};
use likeness_registry::renders::{self, Finish, NewRender, Outcome, StoredImage};

use crate::world::{POLICY, World, at, failed, image, succeeded};

#[tokio::test]
async fn a_success_stores_the_images() {
    let world = World::new().await;
    let grant = world.running(at(0)).await;
    let finish = world.finish(&grant, &succeeded(), at(9)).await;
    assert_eq!(finish, Finish::Applied(RenderState::Succeeded));
    let render = world.render(grant.render.id).await;
    assert_eq!(render.state, RenderState::Succeeded);
    assert_eq!(
        render.images,
        [StoredImage {
            attempt: 1,
            image: image(7)
        }]
    );
    assert!((render.timings.unwrap().sampling - 1.5).abs() < 1e-9);
    assert_eq!(
        (render.begun_at, render.finished_at),
        (Some(at(0)), Some(at(9)))
    );
    let attempt = world.attempts(grant.render.id).await.remove(0);
    assert_eq!(attempt.outcome, Some(AttemptOutcome::Succeeded));
    assert_eq!(attempt.became, Some(RenderState::Succeeded));
    assert!(world.erasures().await.is_empty());
}

#[tokio::test]
async fn a_repeated_report_gets_the_same_answer() {
    let world = World::new().await;
    let grant = world.running(at(0)).await;
    let id = grant.render.id;
    assert_eq!(
        world.finish(&grant, &failed(true), at(1)).await,
        Finish::Applied(RenderState::Queued)
    );
    let repeated = Finish::Repeated(RenderState::Queued);
    assert_eq!(world.finish(&grant, &failed(true), at(2)).await, repeated);
    // Still the same once another attempt has begun, and once it has ended.
    let second = world.claim_again(at(30)).await;
    assert_eq!(world.finish(&grant, &failed(true), at(31)).await, repeated);
    world.finish(&second, &succeeded(), at(32)).await;
    assert_eq!(world.finish(&grant, &failed(true), at(33)).await, repeated);
    let won = world.finish(&second, &succeeded(), at(34)).await;
    assert_eq!(won, Finish::Repeated(RenderState::Succeeded));
    let render = world.render(id).await;
    assert_eq!((render.failures, render.images.len()), (1, 1));
}

#[tokio::test]
async fn a_stale_attempt_changes_nothing() {
    let world = World::new().await;
    let first = world.running(at(0)).await;
    let id = first.render.id;
    let leader = world.lead().await;
    renders::reap(&mut *world.conn().await, &leader, &POLICY, at(30))
        .await
        .unwrap();
    assert_eq!(
        world.finish(&first, &succeeded(), at(31)).await,
        Finish::Stale(RenderState::Queued)
    );
    let second = world.claim_again(at(60)).await;
    assert_eq!(second.attempt, 2);
    let before = world.render(id).await;
    for outcome in [
        succeeded(),
        failed(false),
        Outcome::Cancelled,
        Outcome::HandedBack,
    ] {
        let finish = world.finish(&first, &outcome, at(61)).await;
        assert_eq!(finish, Finish::Stale(RenderState::Running));
    }
    assert_eq!(world.render(id).await, before);
    world.finish(&second, &succeeded(), at(62)).await;
    let stale = world.finish(&first, &succeeded(), at(63)).await;
    assert_eq!(stale, Finish::Stale(RenderState::Succeeded));
    let render = world.render(id).await;
    assert_eq!(
        render.images,
        [StoredImage {
            attempt: 2,
            image: image(7)
        }]
    );
}

#[tokio::test]
async fn a_lapsed_lease_that_nobody_noticed_does_no_harm() {
    let world = World::new().await;
    let grant = world.running(at(0)).await;
    let finish = world.finish(&grant, &succeeded(), at(100)).await;
    assert_eq!(finish, Finish::Applied(RenderState::Succeeded));
}

#[tokio::test]
async fn failures_wait_and_are_spent() {
    let world = World::new().await;
    let mut grant = world.running(at(0)).await;
    let id = grant.render.id;
    world.finish(&grant, &failed(true), at(0)).await;
    let render = world.render(id).await;
    assert_eq!(
        (render.state, render.failures, render.error),
        (RenderState::Queued, 1, None)
    );
    let run_after = render.run_after.unwrap();
    assert!(at(1) <= run_after && run_after <= at(2), "{run_after}");
    assert!(
        world.admit(1e9, 10, at(0)).await.is_empty(),
        "admitted before its time"
    );
    for seconds in [100, 200] {
        grant = world.claim_again(at(seconds)).await;
        world.finish(&grant, &failed(true), at(seconds)).await;
    }
    let render = world.render(id).await;
    assert_eq!((render.state, render.failures), (RenderState::Failed, 3));
    assert_eq!(render.error.unwrap().reason, "OUT_OF_MEMORY");
    let attempts = world.attempts(id).await;
    let outcomes: Vec<_> = attempts.iter().map(|attempt| attempt.became).collect();
    let queued = Some(RenderState::Queued);
    assert_eq!(outcomes, [queued, queued, Some(RenderState::Failed)]);
    assert_eq!(attempts[0].error.as_ref().unwrap().reason, "OUT_OF_MEMORY");
    assert!(grant.render.alone, "a smaller batch after too large a one");
}

#[tokio::test]
async fn a_permanent_failure_is_not_repeated() {
    let world = World::new().await;
    let grant = world.running(at(0)).await;
    let finish = world.finish(&grant, &failed(false), at(1)).await;
    assert_eq!(finish, Finish::Applied(RenderState::Failed));
}

#[tokio::test]
async fn hand_backs_never_count() {
    let world = World::new().await;
    let mut grant = world.running(at(0)).await;
    for seconds in 1..5 {
        let finish = world
            .finish(&grant, &Outcome::HandedBack, at(seconds))
            .await;
        assert_eq!(finish, Finish::Applied(RenderState::Queued));
        grant = world.claim_again(at(seconds)).await;
    }
    assert_eq!((grant.attempt, grant.render.failures), (5, 0));
}

#[tokio::test]
async fn what_losing_attempts_uploaded_is_erased_once_their_links_have_ended() {
    let world = World::new().await;
    let first = world.running(at(0)).await;
    world.finish(&first, &failed(true), at(1)).await;
    let second = world.claim_again(at(30)).await;
    world.finish(&second, &succeeded(), at(31)).await;
    let name = first.render.name();
    assert_eq!(world.erasures().await, [format!("{name}/1/")]);
    let mut conn = world.conn().await;
    let soon = likeness_registry::erasures::due(&mut conn, 10, at(3600))
        .await
        .unwrap();
    let later = likeness_registry::erasures::due(&mut conn, 10, at(3601))
        .await
        .unwrap();
    assert_eq!((soon.len(), later.len()), (0, 1));
}

#[tokio::test]
async fn a_start_picture_is_erased_when_its_render_is_over() {
    let world = World::new().await;
    let half = Strength::try_from(0.5).ok();
    let starting = |new: &mut NewRender| new.spec.init_strength = half;
    let cancelled = world.queue(&world.draft(starting)).await;
    let tenant = world.enrolled.tenant;
    assert!(world.erasures().await.is_empty());
    let ended = renders::cancel(&mut *world.conn().await, tenant, cancelled, at(5)).await;
    let start = |render| format!("tenants/{tenant}/renders/{render}/start/");
    assert_eq!(ended.unwrap().state, RenderState::Cancelled);
    assert_eq!(world.erasures().await, [start(cancelled)]);

    let id = world.queue(&world.draft(starting)).await;
    let grant = world.claim_again(at(10)).await;
    assert_eq!(grant.render.spec.init_strength, half);
    world.finish(&grant, &failed(true), at(11)).await;
    assert!(
        !world.erasures().await.contains(&start(id)),
        "another attempt needs it"
    );
    let grant = world.claim_again(at(100)).await;
    world.finish(&grant, &succeeded(), at(101)).await;
    let due = likeness_registry::erasures::due(&mut *world.conn().await, 10, at(101)).await;
    assert_eq!(due.unwrap(), [start(cancelled), start(id)]);
}

#[tokio::test]
async fn images_that_were_not_asked_for_are_refused_and_nothing_changes() {
    let world = World::new().await;
    let grant = world.running(at(0)).await;
    let mut conn = world.conn().await;
    let mut wrong = vec![vec![], vec![image(7), image(8)], vec![image(8)]];
    wrong.push(vec![RenderedImage {
        width: 63,
        ..image(7)
    }]);
    wrong.push(vec![RenderedImage {
        size_bytes: 0,
        ..image(7)
    }]);
    wrong.push(vec![RenderedImage {
        sha256: "A".repeat(64),
        ..image(7)
    }]);
    for images in wrong {
        let outcome = Outcome::Succeeded {
            images,
            timings: RenderTimings::default(),
        };
        let error = renders::finish(
            &mut conn,
            grant.render.id,
            grant.attempt,
            &outcome,
            &POLICY,
            at(1),
        )
        .await
        .unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidArgument);
    }
    assert_eq!(world.render(grant.render.id).await, grant.render);
}

#[tokio::test]
async fn a_deleted_render_cannot_be_finished() {
    let world = World::new().await;
    let grant = world.running(at(0)).await;
    world
        .sql("DELETE FROM tenants WHERE id = $1", world.enrolled.tenant.0)
        .await;
    let (id, mut conn) = (grant.render.id, world.conn().await);
    let error = renders::finish(&mut conn, id, 1, &succeeded(), &POLICY, at(1))
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
}
