//! The ledger of GPU time.

use likeness_registry::{
    renders::Outcome,
    usage::{self, Usage},
};

use crate::world::{World, at, failed, succeeded};

async fn sum(world: &World, from: i64, until: i64) -> Usage {
    let tenant = world.enrolled.tenant;
    usage::sum(&mut *world.conn().await, tenant, at(from), at(until))
        .await
        .unwrap()
}

#[tokio::test]
async fn delivered_work_is_told_from_repeated_and_aborted_work() {
    let world = World::new().await;
    let grant = world.running(at(0)).await;
    world.finish(&grant, &failed(true), at(4)).await;
    let grant = world.claim_again(at(100)).await;
    world.finish(&grant, &Outcome::HandedBack, at(102)).await;
    let grant = world.claim_again(at(200)).await;
    world.finish(&grant, &succeeded(), at(203)).await;
    // Again, as a worker that got no answer does.
    world.finish(&grant, &succeeded(), at(204)).await;
    let expected = Usage {
        delivered: 1.75,
        wasted: 6.0,
    };
    assert_eq!(sum(&world, 0, 300).await, expected);
    assert_eq!(
        sum(&world, 0, 203).await,
        Usage {
            delivered: 0.0,
            ..expected
        }
    );
    let last = Usage {
        delivered: 1.75,
        wasted: 0.0,
    };
    assert_eq!(sum(&world, 203, 204).await, last);
    let other = world.another_tenant().await;
    let theirs = usage::sum(&mut *world.conn().await, other.tenant, at(0), at(300)).await;
    assert_eq!(theirs.unwrap(), Usage::default());
}

#[tokio::test]
async fn a_bill_outlives_its_tenant() {
    let world = World::new().await;
    let grant = world.running(at(0)).await;
    world.finish(&grant, &succeeded(), at(2)).await;
    let tenant = world.enrolled.tenant.0;
    world.sql("DELETE FROM tenants WHERE id = $1", tenant).await;
    assert!((sum(&world, 0, 10).await.delivered - 1.75).abs() < 1e-9);
}
