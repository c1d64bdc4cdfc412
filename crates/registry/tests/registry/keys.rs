//! API keys.

use chrono::{DateTime, Utc};
use likeness_domain::{ApiKeyId, ErrorKind, TenantId, TenantState, key::PresentedKey, page::Page};
use likeness_registry::{
    keys::{self, NewApiKey},
    tenants::{self, TenantChange},
};

use crate::world::{World, at, id, not_found, refused};

async fn key(world: &World, expire_time: Option<DateTime<Utc>>) -> PresentedKey {
    let key = PresentedKey::generate(id()).unwrap();
    let new = new_key(&key, world.tenant, expire_time);
    keys::create(&mut *world.conn().await, &new, at(0))
        .await
        .unwrap();
    key
}

fn new_key(
    key: &PresentedKey,
    tenant_id: TenantId,
    expire_time: Option<DateTime<Utc>>,
) -> NewApiKey {
    NewApiKey {
        id: key.id,
        tenant_id,
        display_name: "backend".to_owned(),
        secret_sha256: key.secret_digest(),
        expire_time,
    }
}

async fn owner(world: &World, key: &PresentedKey, now: DateTime<Utc>) -> Option<TenantId> {
    keys::authenticate(&mut *world.conn().await, key, now)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_key_is_its_tenants() {
    let world = World::new().await;
    let key = key(&world, None).await;
    assert_eq!(owner(&world, &key, at(0)).await, Some(world.tenant));
    let read = PresentedKey::parse(&key.reveal()).unwrap();
    assert_eq!(
        owner(&world, &read, at(1_000_000)).await,
        Some(world.tenant)
    );
}

#[tokio::test]
async fn an_unknown_key_and_a_wrong_secret_are_nobodys() {
    let world = World::new().await;
    let key = key(&world, None).await;
    let unknown = PresentedKey::generate(id()).unwrap();
    assert_eq!(owner(&world, &unknown, at(0)).await, None);
    let guess = PresentedKey::generate(key.id).unwrap();
    assert_eq!(owner(&world, &guess, at(0)).await, None);
}

#[tokio::test]
async fn a_key_ends_at_its_time() {
    let world = World::new().await;
    let key = key(&world, Some(at(100))).await;
    assert_eq!(owner(&world, &key, at(99)).await, Some(world.tenant));
    assert_eq!(owner(&world, &key, at(100)).await, None);
}

#[tokio::test]
async fn a_revoked_key_stays_revoked() {
    let world = World::new().await;
    let key = key(&world, None).await;
    let conn = &mut *world.conn().await;
    let revoked = keys::revoke(conn, world.tenant, key.id, at(5))
        .await
        .unwrap();
    assert_eq!(revoked.revoked_at, Some(at(5)));
    let again = keys::revoke(conn, world.tenant, key.id, at(9))
        .await
        .unwrap();
    assert_eq!(again, revoked);
    assert_eq!(owner(&world, &key, at(0)).await, None);
}

#[tokio::test]
async fn nobody_revokes_another_tenants_key() {
    let world = World::new().await;
    let key = key(&world, None).await;
    let conn = &mut *world.conn().await;
    not_found(keys::revoke(conn, world.other, key.id, at(5)).await);
    not_found(keys::revoke(conn, world.tenant, id::<ApiKeyId>(), at(5)).await);
    assert_eq!(owner(&world, &key, at(5)).await, Some(world.tenant));
}

#[tokio::test]
async fn a_suspended_tenant_is_told_so_but_only_with_its_key() {
    let world = World::new().await;
    let key = key(&world, None).await;
    let conn = &mut *world.conn().await;
    let change = TenantChange {
        state: Some(TenantState::Suspended),
        ..Default::default()
    };
    tenants::update(conn, world.tenant, &change, None)
        .await
        .unwrap();
    let answer = keys::authenticate(conn, &key, at(0)).await;
    refused(answer, ErrorKind::PermissionDenied, "TENANT_SUSPENDED");
    let guess = PresentedKey::generate(key.id).unwrap();
    assert_eq!(keys::authenticate(conn, &guess, at(0)).await.unwrap(), None);
}

#[tokio::test]
async fn a_tenants_keys_are_listed_in_pages() {
    let world = World::new().await;
    let (first, second) = (key(&world, None).await, key(&world, Some(at(9))).await);
    let conn = &mut *world.conn().await;
    let page = Page {
        size: 1,
        after: None,
    };
    let rows = keys::list(conn, world.tenant, &page).await.unwrap();
    assert_eq!(
        rows.iter().map(|key| key.id).collect::<Vec<_>>(),
        [first.id]
    );
    let rest = Page {
        size: 9,
        after: Some(first.id.0),
    };
    let rows = keys::list(conn, world.tenant, &rest).await.unwrap();
    assert_eq!(rows[0].id, second.id);
    assert_eq!((rows.len(), rows[0].expire_time), (1, Some(at(9))));
    assert!(
        keys::list(conn, world.other, &rest)
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn a_key_needs_a_tenant() {
    let world = World::new().await;
    let key = PresentedKey::generate(id()).unwrap();
    let new = new_key(&key, id(), None);
    not_found(keys::create(&mut *world.conn().await, &new, at(0)).await);
}
