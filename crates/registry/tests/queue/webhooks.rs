//! Whom to tell that a render is over, and when.

use chrono::{DateTime, TimeDelta, Utc};
use likeness_domain::{ApiKeyId, RenderId, RenderState};
use likeness_registry::{
    keys::{self, NewApiKey},
    renders::{self, DueWebhook, NewWebhook, WebhookDelivery},
};
use uuid::Uuid;

use crate::world::{Enrolled, World, at, new_render};

async fn key(world: &World, enrolled: Enrolled) -> ApiKeyId {
    let new = NewApiKey {
        id: ApiKeyId(Uuid::now_v7()),
        tenant_id: enrolled.tenant,
        display_name: String::new(),
        secret_sha256: [9; 32],
        expire_time: None,
    };
    keys::create(&mut *world.conn().await, &new, at(0))
        .await
        .unwrap();
    new.id
}

async fn render(world: &World, enrolled: Enrolled, key: ApiKeyId) -> RenderId {
    let url = "https://app.example/hook".to_owned();
    let webhook = Some(NewWebhook { url, key });
    world
        .queue(&new_render(enrolled, |new| new.webhook = webhook))
        .await
}

async fn due(world: &World, now: DateTime<Utc>) -> Vec<DueWebhook> {
    let lease = TimeDelta::seconds(60);
    renders::take_due(&mut *world.conn().await, 2, 10, lease, now)
        .await
        .unwrap()
}

async fn cancel(world: &World, enrolled: Enrolled, id: RenderId, now: DateTime<Utc>) {
    renders::cancel(&mut *world.conn().await, enrolled.tenant, id, now)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_webhook_is_due_once_its_render_is_over() {
    let world = World::new().await;
    let key = key(&world, world.enrolled).await;
    let id = render(&world, world.enrolled, key).await;
    assert!(due(&world, at(5)).await.is_empty());
    cancel(&world, world.enrolled, id, at(6)).await;
    let webhook = due(&world, at(6)).await.remove(0);
    assert_eq!((webhook.render.render, webhook.number), (id, 1));
    assert_eq!(webhook.state, RenderState::Cancelled);
    assert_eq!(webhook.key_sha256, [9; 32]);
    // In somebody's hands; if they die, due again.
    assert!(due(&world, at(65)).await.is_empty());
    assert_eq!(due(&world, at(66)).await[0].number, 2);
}

#[tokio::test]
async fn every_try_is_kept_with_the_render_until_one_is_the_last() {
    let world = World::new().await;
    let key = key(&world, world.enrolled).await;
    let id = render(&world, world.enrolled, key).await;
    cancel(&world, world.enrolled, id, at(6)).await;
    let mut tried = Vec::new();
    for (seconds, status, next) in [
        (6, 500, Some(at(20))),
        (20, 0, Some(at(40))),
        (40, 204, None),
    ] {
        let webhook = due(&world, at(seconds)).await.remove(0);
        let (number, now) = (webhook.number, at(seconds));
        renders::delivered(&mut *world.conn().await, id, number, status, next, now)
            .await
            .unwrap();
        tried.push(WebhookDelivery { at: now, status });
        assert_eq!(world.render(id).await.deliveries, tried);
    }
    assert!(due(&world, at(100_000)).await.is_empty());
}

#[tokio::test]
async fn a_late_word_of_an_earlier_try_does_not_end_a_later_one() {
    let world = World::new().await;
    let key = key(&world, world.enrolled).await;
    let id = render(&world, world.enrolled, key).await;
    cancel(&world, world.enrolled, id, at(6)).await;
    due(&world, at(6)).await;
    due(&world, at(66)).await;
    renders::delivered(&mut *world.conn().await, id, 1, 500, None, at(67))
        .await
        .unwrap();
    assert_eq!(due(&world, at(200)).await[0].number, 3);
}

#[tokio::test]
async fn a_tenant_with_many_does_not_hold_up_the_others() {
    let world = World::new().await;
    let ours = key(&world, world.enrolled).await;
    for _ in 0..5 {
        let id = render(&world, world.enrolled, ours).await;
        cancel(&world, world.enrolled, id, at(1)).await;
    }
    let other = world.another_tenant().await;
    let theirs = key(&world, other).await;
    let id = render(&world, other, theirs).await;
    cancel(&world, other, id, at(2)).await;
    let taken = due(&world, at(3)).await;
    assert_eq!(taken.len(), 3);
    assert!(taken.iter().any(|webhook| webhook.render.render == id));
}
