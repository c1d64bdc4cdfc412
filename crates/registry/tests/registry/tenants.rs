//! Tenants.

use likeness_domain::{ErrorKind, TenantId, TenantState, page::Page};
use likeness_registry::tenants::{self, NewTenant, TenantChange, TenantLimits};

use crate::world::{UNLIMITED, World, at, id, not_found, refused};

fn new_tenant(display_name: &str) -> NewTenant {
    NewTenant {
        id: id(),
        display_name: display_name.to_owned(),
        limits: UNLIMITED,
    }
}

#[tokio::test]
async fn a_tenant_is_as_it_was_created() {
    let world = World::new().await;
    let conn = &mut *world.conn().await;
    let limits = TenantLimits {
        weight: 2.5,
        max_running: Some(1),
        max_queued: Some(2),
        max_renders_per_minute: Some(3),
        max_identities: Some(4),
    };
    let new = NewTenant {
        limits,
        ..new_tenant("third")
    };
    let tenant = tenants::create(conn, &new, at(5)).await.unwrap();
    assert_eq!((tenant.id, tenant.display_name.as_str()), (new.id, "third"));
    assert_eq!((tenant.state, tenant.limits), (TenantState::Active, limits));
    assert_eq!((tenant.version, tenant.created_at), (1, at(5)));
    assert_eq!(tenants::get(conn, new.id).await.unwrap(), tenant);
    assert!(!format!("{tenant:?}").contains("third"));
}

#[tokio::test]
async fn two_tenants_never_share_a_name() {
    let world = World::new().await;
    let conn = &mut *world.conn().await;
    let twin = tenants::create(conn, &new_tenant("first"), at(0)).await;
    refused(twin, ErrorKind::AlreadyExists, "TENANT_EXISTS");
    let change = TenantChange {
        display_name: Some("second".to_owned()),
        ..Default::default()
    };
    let renamed = tenants::update(conn, world.tenant, &change, None).await;
    refused(renamed, ErrorKind::AlreadyExists, "TENANT_EXISTS");
}

#[tokio::test]
async fn pages_follow_each_other() {
    let world = World::new().await;
    let conn = &mut *world.conn().await;
    let mut page = Page {
        size: 1,
        after: None,
    };
    for expected in [world.tenant, world.other] {
        let rows = tenants::list(conn, &page).await.unwrap();
        assert_eq!(
            rows.iter().map(|tenant| tenant.id).collect::<Vec<_>>(),
            [expected]
        );
        page.after = Some(expected.0);
    }
    assert!(tenants::list(conn, &page).await.unwrap().is_empty());
}

#[tokio::test]
async fn an_update_changes_what_it_names_and_the_version() {
    let world = World::new().await;
    let conn = &mut *world.conn().await;
    let change = TenantChange {
        state: Some(TenantState::Suspended),
        ..Default::default()
    };
    let tenant = tenants::update(conn, world.tenant, &change, Some(1))
        .await
        .unwrap();
    assert_eq!(
        (tenant.state, tenant.display_name.as_str()),
        (TenantState::Suspended, "first")
    );
    assert_eq!(tenant.version, 2);
    let limits = TenantLimits {
        max_running: Some(9),
        ..UNLIMITED
    };
    let change = TenantChange {
        limits: Some(limits),
        ..Default::default()
    };
    let tenant = tenants::update(conn, world.tenant, &change, None)
        .await
        .unwrap();
    assert_eq!(
        (tenant.limits, tenant.state),
        (limits, TenantState::Suspended)
    );
}

#[tokio::test]
async fn an_old_version_changes_nothing() {
    let world = World::new().await;
    let conn = &mut *world.conn().await;
    let change = TenantChange {
        state: Some(TenantState::Suspended),
        ..Default::default()
    };
    let stale = tenants::update(conn, world.tenant, &change, Some(7)).await;
    refused(stale, ErrorKind::Aborted, "ETAG_MISMATCH");
    let stale = tenants::delete(conn, world.tenant, Some(7), at(0)).await;
    refused(stale, ErrorKind::Aborted, "ETAG_MISMATCH");
    assert_eq!(
        tenants::get(conn, world.tenant).await.unwrap().state,
        TenantState::Active
    );
    assert!(world.erasures(at(0)).await.is_empty());
}

#[tokio::test]
async fn an_unknown_tenant_is_not_found() {
    let world = World::new().await;
    let conn = &mut *world.conn().await;
    let unknown: TenantId = id();
    not_found(tenants::get(conn, unknown).await);
    not_found(tenants::update(conn, unknown, &TenantChange::default(), None).await);
    not_found(tenants::delete(conn, unknown, None, at(0)).await);
}

#[tokio::test]
async fn a_deleted_tenant_leaves_nothing_but_its_erasures() {
    let world = World::new().await;
    let identity = world.identity().await;
    world.accepted(identity, 1.0).await;
    let conn = &mut *world.conn().await;
    tenants::delete(conn, world.tenant, Some(1), at(10))
        .await
        .unwrap();
    not_found(tenants::get(conn, world.tenant).await);
    let left = "SELECT (SELECT count(*) FROM identities) + (SELECT count(*) FROM photos)
                     + (SELECT count(*) FROM photo_coefficients)";
    let left: i64 = sqlx::query_scalar(left)
        .fetch_one(&mut *conn)
        .await
        .unwrap();
    assert_eq!(left, 0);
    let prefix = format!("tenants/{}/", world.tenant);
    assert_eq!(world.erasures(at(10)).await, [prefix.as_str()]);
    // What a running render may still upload goes once its links have ended.
    let later = world.erasures(at(10 + 3600)).await;
    assert_eq!(later, [prefix.clone(), format!("{prefix}renders/")]);
}
