//! Bundles, pools and workers.

use likeness_domain::{ErrorKind, WorkerKind, bundle::BundleSummary};
use likeness_registry::{
    bundles, stats,
    workers::{self, Presence},
};

use crate::world::{POOL, World, at, bundle, digest, presence};

fn newer() -> BundleSummary {
    let models = vec!["new".to_owned(), "pocket".to_owned()];
    BundleSummary {
        digest: "c".repeat(64),
        models,
        ..bundle()
    }
}

#[tokio::test]
async fn a_bundle_reads_back_and_the_latest_is_first() {
    let world = World::new().await;
    let mut conn = world.conn().await;
    assert_eq!(
        bundles::get(&mut conn, &digest()).await.unwrap(),
        Some(bundle())
    );
    assert_eq!(
        bundles::get(&mut conn, &"0".repeat(64)).await.unwrap(),
        None
    );
    bundles::announce(&mut conn, &newer(), at(5)).await.unwrap();
    assert_eq!(bundles::list(&mut conn).await.unwrap(), [newer(), bundle()]);
    bundles::announce(&mut conn, &bundle(), at(6))
        .await
        .unwrap();
    assert_eq!(bundles::list(&mut conn).await.unwrap(), [bundle(), newer()]);
}

#[tokio::test]
async fn a_model_is_resolved_to_the_latest_bundle_that_has_a_pool() {
    let world = World::new().await;
    let mut conn = world.conn().await;
    bundles::announce(&mut conn, &newer(), at(5)).await.unwrap();
    let early = bundles::resolve(&mut conn, "pocket")
        .await
        .unwrap()
        .unwrap();
    assert_eq!((early.bundle, early.pool.as_str()), (bundle(), POOL));
    bundles::ensure_pool(&mut conn, "new.cpu", &newer().digest, "cpu", at(5))
        .await
        .unwrap();
    let mut resolve = async |model| {
        let placement = bundles::resolve(&mut conn, model).await.unwrap();
        placement.map(|found| (found.bundle.digest, found.pool, found.model))
    };
    let place = |bundle: BundleSummary, pool: &str, model: &str| {
        Some((bundle.digest, pool.to_owned(), model.to_owned()))
    };
    assert_eq!(resolve("pocket").await, place(newer(), "new.cpu", "pocket"));
    assert_eq!(resolve("other").await, place(bundle(), POOL, "other"));
    assert_eq!(resolve("").await, place(newer(), "new.cpu", "new"));
    assert_eq!(resolve("nowhere").await, None);
}

#[tokio::test]
async fn pools_at_work_are_preferred_and_paused_ones_are_the_last() {
    let world = World::new().await;
    let mut conn = world.conn().await;
    for pool in ["a.gpu", "z.gpu"] {
        bundles::ensure_pool(&mut conn, pool, &digest(), "gpu", at(0))
            .await
            .unwrap();
    }
    let pool = async |conn: &mut _| bundles::resolve(conn, "").await.unwrap().unwrap().pool;
    assert_eq!(pool(&mut conn).await, "a.gpu");
    workers::seen(&mut conn, &presence("w", "z.gpu"), at(1))
        .await
        .unwrap();
    assert_eq!(pool(&mut conn).await, "z.gpu");
    bundles::set_paused(&mut conn, "z.gpu", true).await.unwrap();
    assert_eq!(pool(&mut conn).await, "a.gpu");
    for paused in ["a.gpu", POOL] {
        bundles::set_paused(&mut conn, paused, true).await.unwrap();
    }
    assert_eq!(pool(&mut conn).await, "z.gpu");
    let error = bundles::set_paused(&mut conn, "nowhere", true)
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
}

#[tokio::test]
async fn a_pool_serves_one_bundle() {
    let world = World::new().await;
    let mut conn = world.conn().await;
    bundles::ensure_pool(&mut conn, POOL, &digest(), "cpu", at(9))
        .await
        .unwrap();
    bundles::announce(&mut conn, &newer(), at(5)).await.unwrap();
    let wrong = [(newer().digest, "cpu"), (digest(), "gpu")];
    for (digest, class) in wrong {
        let error = bundles::ensure_pool(&mut conn, POOL, &digest, class, at(9))
            .await
            .unwrap_err();
        assert_eq!(
            (error.kind, error.reason),
            (ErrorKind::FailedPrecondition, "POOL_TAKEN")
        );
    }
}

#[tokio::test]
async fn workers_are_listed_while_they_are_seen() {
    let world = World::new().await;
    let mut conn = world.conn().await;
    let grant = world.running(at(0)).await;
    let enroll = Presence {
        kind: WorkerKind::Enroll,
        pool: None,
        ..presence("enroll", "")
    };
    for worker in [&presence("worker", POOL), &presence("idle", POOL), &enroll] {
        workers::seen(&mut conn, worker, at(1)).await.unwrap();
    }
    let draining = Presence {
        draining: true,
        ..presence("idle", POOL)
    };
    workers::seen(&mut conn, &draining, at(5)).await.unwrap();
    let listed = workers::list(&mut conn, at(1), "", 10).await.unwrap();
    let found: Vec<_> = listed
        .iter()
        .map(|worker| worker.presence.id.as_str())
        .collect();
    assert_eq!(found, ["enroll", "idle", "worker"]);
    assert_eq!((&listed[1].presence, listed[1].seen_at), (&draining, at(5)));
    assert_eq!(listed[2].holding, [grant.render.name().to_string()]);
    assert_eq!(
        workers::list(&mut conn, at(1), "enroll", 1).await.unwrap(),
        listed[1..2]
    );
    assert_eq!(
        workers::list(&mut conn, at(2), "", 10).await.unwrap().len(),
        1
    );
    assert_eq!(workers::live(&mut conn, POOL, at(0)).await.unwrap(), 1);
    assert_eq!(workers::live(&mut conn, POOL, at(2)).await.unwrap(), 0);
    let stats = stats::queue(&mut conn, at(0), at(9)).await.unwrap();
    assert_eq!(stats.pools[0].workers, 1);
    assert_eq!(workers::forget(&mut conn, at(5)).await.unwrap(), 2);
}

#[tokio::test]
async fn a_worker_that_does_not_fit_its_kind_is_refused() {
    let world = World::new().await;
    let mut conn = world.conn().await;
    let wrong = [
        Presence {
            pool: None,
            ..presence("w", "")
        },
        Presence {
            kind: WorkerKind::Enroll,
            ..presence("w", POOL)
        },
        presence("", POOL),
        presence(&"x".repeat(101), POOL),
    ];
    for worker in wrong {
        let error = workers::seen(&mut conn, &worker, at(1)).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidArgument);
    }
}

#[tokio::test]
async fn a_worker_that_is_to_drain_counts_no_more_and_hears_of_it() {
    let world = World::new().await;
    let mut conn = world.conn().await;
    let presence = presence("w1", POOL);
    let asked = workers::seen(&mut conn, &presence, at(0)).await.unwrap();
    assert!(!asked);
    assert_eq!(workers::live(&mut conn, POOL, at(0)).await.unwrap(), 1);
    let worker = workers::drain(&mut conn, "w1").await.unwrap();
    assert!(worker.presence.draining);
    assert_eq!(workers::live(&mut conn, POOL, at(0)).await.unwrap(), 0);
    // Its next word of itself does not undo it.
    assert!(workers::seen(&mut conn, &presence, at(5)).await.unwrap());
    assert_eq!(workers::live(&mut conn, POOL, at(0)).await.unwrap(), 0);
    let unknown = workers::drain(&mut conn, "w2").await.unwrap_err();
    assert_eq!(unknown.kind, ErrorKind::NotFound);
}
