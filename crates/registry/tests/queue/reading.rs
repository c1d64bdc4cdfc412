//! What was stored reads back.

use likeness_domain::{
    ErrorKind, IdentityId, Labels, RenderId, RenderState, page::Page, render::Priority,
};
use likeness_registry::{
    renders::{self, RenderFilter, RenderIdentity},
    stats,
};
use uuid::Uuid;

use crate::world::{POOL, World, at, new_render, succeeded};

const ALL: Page = Page {
    size: 50,
    after: None,
};

#[tokio::test]
async fn a_render_reads_back_as_it_was_created() {
    let world = World::new().await;
    let thirds = |photo| RenderIdentity {
        identity_id: IdentityId(Uuid::now_v7()),
        weight: 1.0 / 3.0,
        photo_ids: vec![photo, world.enrolled.photo],
    };
    let new = world.draft(|new| {
        new.priority = Priority::Interactive;
        new.start_time = Some(at(5));
        new.retry_of = Some(RenderId(Uuid::now_v7()));
        new.identities = (0..3).map(|_| thirds(Uuid::now_v7().into())).collect();
        new.spec.guidance = 3.1;
        new.spec.negative_prompt = Some("\"quotes\", ünïcode".to_owned());
        new.spec.seed = i64::MAX - 8;
    });
    let created = renders::create(&mut *world.conn().await, &new, at(1))
        .await
        .unwrap();
    assert_eq!(
        (created.state, created.created_at),
        (RenderState::Queued, at(1))
    );
    assert_eq!(world.render(new.id).await, created);
    assert_eq!(created.spec, new.spec);
    assert_eq!(created.identities, new.identities);
}

#[tokio::test]
async fn a_tenant_sees_only_its_own() {
    let world = World::new().await;
    let other = world.another_tenant().await;
    let id = world.queued().await;
    let mut conn = world.conn().await;
    let error = renders::get(&mut conn, other.tenant, id).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    let all = RenderFilter::default();
    assert!(
        renders::list(&mut conn, other.tenant, &all, &ALL)
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(
        renders::queued_count(&mut conn, other.tenant)
            .await
            .unwrap(),
        0
    );
}

#[tokio::test]
async fn no_render_for_a_deleted_tenant() {
    let world = World::new().await;
    let new = world.draft(|_| {});
    world
        .sql("DELETE FROM tenants WHERE id = $1", world.enrolled.tenant.0)
        .await;
    let error = renders::create(&mut *world.conn().await, &new, at(1))
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
}

#[tokio::test]
async fn lists_are_filtered_and_come_in_pages_the_newest_first() {
    let world = World::new().await;
    let tenant = world.enrolled.tenant;
    let done = world.running(at(0)).await;
    world.finish(&done, &succeeded(), at(1)).await;
    let plain = world.queue(&world.draft(|new| new.labels.clear())).await;
    let nobody = world
        .queue(&world.draft(|new| new.identities.clear()))
        .await;
    let mut conn = world.conn().await;
    let mut list = async |filter: &RenderFilter, page: Page| -> Vec<RenderId> {
        let listed = renders::list(&mut conn, tenant, filter, &page)
            .await
            .unwrap();
        listed.iter().map(|render| render.id).collect()
    };
    let all = RenderFilter::default();
    assert_eq!(list(&all, ALL).await, [nobody, plain, done.render.id]);
    assert_eq!(
        list(
            &all,
            Page {
                size: 1,
                after: None
            }
        )
        .await,
        [nobody]
    );
    let rest = Page {
        size: 9,
        after: Some(nobody.0),
    };
    assert_eq!(list(&all, rest).await, [plain, done.render.id]);
    let states = vec![RenderState::Queued, RenderState::Failed];
    assert_eq!(
        list(
            &RenderFilter {
                states,
                ..all.clone()
            },
            ALL
        )
        .await,
        [nobody, plain]
    );
    let identity = Some(world.enrolled.identity);
    let of_identity = RenderFilter {
        identity,
        ..all.clone()
    };
    assert_eq!(list(&of_identity, ALL).await, [plain, done.render.id]);
    let labels: Labels = [("album".to_owned(), "summer".to_owned())].into();
    assert_eq!(
        list(&RenderFilter { labels, ..all }, ALL).await,
        [nobody, done.render.id]
    );
}

#[tokio::test]
async fn counts_are_a_tenants_own() {
    let world = World::new().await;
    world.running(at(0)).await;
    for _ in 0..3 {
        world.queued().await;
    }
    world
        .queue(&new_render(world.another_tenant().await, |_| {}))
        .await;
    let mut conn = world.conn().await;
    let tenant = world.enrolled.tenant;
    assert_eq!(renders::queued_count(&mut conn, tenant).await.unwrap(), 3);
    assert_eq!(
        renders::created_count(&mut conn, tenant, at(0))
            .await
            .unwrap(),
        4
    );
    assert_eq!(
        renders::created_count(&mut conn, tenant, at(1))
            .await
            .unwrap(),
        0
    );
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_named() {
    let world = World::new().await;
    let id = world.queued().await;
    sqlx::query("ALTER TABLE renders DROP CONSTRAINT renders_priority_check")
        .execute(world.pool())
        .await
        .unwrap();
    world
        .sql("UPDATE renders SET priority = 9 WHERE id = $1", id.0)
        .await;
    let error = renders::get_any(&mut *world.conn().await, id)
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Internal);
    assert!(format!("{error:?}").contains(&format!("table renders, row {id}: column priority")));
}

#[tokio::test]
async fn debug_says_nothing_personal() {
    let world = World::new().await;
    let id = world.queued().await;
    let debug = format!("{:?}", world.render(id).await);
    assert!(
        !debug.contains("hill") && !debug.contains("summer"),
        "{debug}"
    );
}

#[tokio::test]
async fn statistics_count_every_state_and_pool() {
    let world = World::new().await;
    let done = world.running(at(0)).await;
    world.finish(&done, &succeeded(), at(1)).await;
    world.running(at(1)).await;
    world.dispatched().await;
    world.queued().await;
    let stats = stats::queue(&mut *world.conn().await, at(0), at(90))
        .await
        .unwrap();
    let count = |state| {
        stats
            .renders
            .iter()
            .find(|(counted, _)| *counted == state)
            .unwrap()
            .1
    };
    for state in [
        RenderState::Succeeded,
        RenderState::Running,
        RenderState::Dispatched,
    ] {
        assert_eq!(count(state), 1, "{state}");
    }
    assert_eq!(
        (count(RenderState::Queued), count(RenderState::Failed)),
        (1, 0)
    );
    assert_eq!(stats.oldest_queued.unwrap().as_secs(), 90);
    assert_eq!(stats.pending_photos, 0);
    let pool = &stats.pools[0];
    assert_eq!(
        (
            pool.pool.as_str(),
            pool.queued,
            pool.dispatched,
            pool.running
        ),
        (POOL, 1, 1, 1)
    );
}
