//! Identities.

use likeness_domain::{ErrorKind, IdentityState, Labels, TenantId, page::Page};
use likeness_registry::{
    begin, commit,
    identities::{self, Consent, IdentityChange, IdentityFilter, NewIdentity},
    tenants::{self, TenantChange, TenantLimits},
};

use crate::world::{UNLIMITED, World, at, consent, id, new_identity, no_face, not_found, refused};

const ALL: Page = Page {
    size: 100,
    after: None,
};

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

async fn limit(world: &World, max_identities: i32) {
    let limits = TenantLimits {
        max_identities: Some(max_identities),
        ..UNLIMITED
    };
    let change = TenantChange {
        limits: Some(limits),
        ..Default::default()
    };
    tenants::update(&mut *world.conn().await, world.tenant, &change, None)
        .await
        .unwrap();
}

#[tokio::test]
async fn an_identity_is_as_it_was_created() {
    let world = World::new().await;
    let conn = &mut *world.conn().await;
    let new = NewIdentity {
        display_name: "Ada".to_owned(),
        labels: labels(&[("plan", "pro")]),
        ..new_identity(Some("user-7"))
    };
    let identity = identities::create(conn, world.tenant, &new, at(3))
        .await
        .unwrap();
    assert_eq!((identity.id, identity.tenant_id), (new.id, world.tenant));
    assert_eq!(identity.external_id.as_deref(), Some("user-7"));
    assert_eq!(
        (identity.display_name.as_str(), &identity.labels),
        ("Ada", &new.labels)
    );
    assert_eq!(
        (identity.consent.clone(), identity.has_consent()),
        (Some(consent()), true)
    );
    assert_eq!(
        (identity.version, identity.created_at, identity.updated_at),
        (1, at(3), at(3))
    );
    assert_eq!(identity.state(), IdentityState::Empty);
    assert_eq!(
        identities::get(conn, world.tenant, new.id).await.unwrap(),
        identity
    );
    let shown = format!("{identity:?}");
    assert!(!shown.contains("Ada") && !shown.contains("user-7") && !shown.contains("form"));
}

#[tokio::test]
async fn nothing_crosses_tenants() {
    let world = World::new().await;
    let identity = world.identity().await;
    let conn = &mut *world.conn().await;
    let change = IdentityChange::default();
    not_found(identities::get(conn, world.other, identity).await);
    not_found(identities::lock(conn, world.other, identity).await);
    not_found(identities::update(conn, world.other, identity, &change, None, at(1)).await);
    not_found(identities::delete(conn, world.other, identity, None, at(1)).await);
    let filter = IdentityFilter::default();
    assert!(
        identities::list(conn, world.other, &filter, &ALL)
            .await
            .unwrap()
            .is_empty()
    );
    let unknown: TenantId = id();
    not_found(identities::create(conn, unknown, &new_identity(None), at(0)).await);
}

#[tokio::test]
async fn an_external_id_is_one_identitys_in_its_tenant() {
    let world = World::new().await;
    let conn = &mut *world.conn().await;
    identities::create(conn, world.tenant, &new_identity(Some("a")), at(0))
        .await
        .unwrap();
    let twin = identities::create(conn, world.tenant, &new_identity(Some("a")), at(0)).await;
    refused(twin, ErrorKind::AlreadyExists, "EXTERNAL_ID_EXISTS");
    identities::create(conn, world.other, &new_identity(Some("a")), at(0))
        .await
        .unwrap();
    let other = world.identity().await;
    let change = IdentityChange {
        external_id: Some(Some("a".to_owned())),
        ..Default::default()
    };
    let renamed = identities::update(conn, world.tenant, other, &change, None, at(1)).await;
    refused(renamed, ErrorKind::AlreadyExists, "EXTERNAL_ID_EXISTS");
}

#[tokio::test]
async fn a_tenant_has_no_more_identities_than_it_may() {
    let world = World::new().await;
    limit(&world, 1).await;
    let first = world.identity().await;
    let conn = &mut *world.conn().await;
    let second = identities::create(conn, world.tenant, &new_identity(None), at(0)).await;
    refused(second, ErrorKind::ResourceExhausted, "MAX_IDENTITIES");
    identities::delete(conn, world.tenant, first, None, at(0))
        .await
        .unwrap();
    identities::create(conn, world.tenant, &new_identity(None), at(0))
        .await
        .unwrap();
}

#[tokio::test]
async fn two_creations_never_both_take_the_last_place() {
    let world = World::new().await;
    limit(&world, 1).await;
    let mut first = begin(world.pool()).await.unwrap();
    identities::create(&mut first, world.tenant, &new_identity(None), at(0))
        .await
        .unwrap();
    let (pool, tenant) = (world.pool().clone(), world.tenant);
    let second = tokio::spawn(async move {
        let mut second = begin(&pool).await.unwrap();
        identities::create(&mut second, tenant, &new_identity(None), at(0)).await
    });
    world.someone_waits().await;
    commit(first).await.unwrap();
    refused(
        second.await.unwrap(),
        ErrorKind::ResourceExhausted,
        "MAX_IDENTITIES",
    );
}

#[tokio::test]
async fn lists_filter_by_external_id_and_labels() {
    let world = World::new().await;
    let conn = &mut *world.conn().await;
    let mut created = Vec::new();
    for (external_id, pairs) in [
        ("a", &[("plan", "pro"), ("city", "Ulm")][..]),
        ("b", &[("plan", "pro")][..]),
        ("c", &[][..]),
    ] {
        let new = NewIdentity {
            labels: labels(pairs),
            ..new_identity(Some(external_id))
        };
        created.push(
            identities::create(conn, world.tenant, &new, at(0))
                .await
                .unwrap()
                .id,
        );
    }
    let cases = [
        (None, labels(&[]), &created[..]),
        (Some("b"), labels(&[]), &created[1..2]),
        (None, labels(&[("plan", "pro")]), &created[..2]),
        (
            None,
            labels(&[("plan", "pro"), ("city", "Ulm")]),
            &created[..1],
        ),
        (Some("c"), labels(&[("plan", "pro")]), &[]),
        (Some("z"), labels(&[]), &[]),
    ];
    for (external_id, labels, expected) in cases {
        let filter = IdentityFilter {
            external_id: external_id.map(str::to_owned),
            labels,
        };
        let rows = identities::list(conn, world.tenant, &filter, &ALL)
            .await
            .unwrap();
        assert_eq!(rows.iter().map(|row| row.id).collect::<Vec<_>>(), expected);
    }
    let second = Page {
        size: 1,
        after: Some(created[0].0),
    };
    let filter = IdentityFilter::default();
    let rows = identities::list(conn, world.tenant, &filter, &second)
        .await
        .unwrap();
    assert_eq!(
        rows.iter().map(|row| row.id).collect::<Vec<_>>(),
        &created[1..2]
    );
}

#[tokio::test]
async fn an_update_changes_what_it_names() {
    let world = World::new().await;
    let conn = &mut *world.conn().await;
    let new = new_identity(Some("a"));
    let old = identities::create(conn, world.tenant, &new, at(0))
        .await
        .unwrap();
    let change = IdentityChange {
        display_name: Some("Ada".to_owned()),
        labels: Some(labels(&[("plan", "pro")])),
        ..Default::default()
    };
    let renamed = identities::update(conn, world.tenant, old.id, &change, Some(1), at(9))
        .await
        .unwrap();
    assert_eq!(
        (renamed.display_name.as_str(), renamed.labels.len()),
        ("Ada", 1)
    );
    assert_eq!(
        (&renamed.external_id, &renamed.consent),
        (&old.external_id, &old.consent)
    );
    assert_eq!(
        (renamed.version, renamed.created_at, renamed.updated_at),
        (2, at(0), at(9))
    );
    let change = IdentityChange {
        external_id: Some(None),
        consent: Some(None),
        ..Default::default()
    };
    let cleared = identities::update(conn, world.tenant, old.id, &change, None, at(9))
        .await
        .unwrap();
    assert_eq!((cleared.external_id, cleared.consent), (None, None));
    assert_eq!(cleared.display_name, "Ada");
}

#[tokio::test]
async fn revoked_consent_is_no_consent() {
    let world = World::new().await;
    let identity = world.identity().await;
    let conn = &mut *world.conn().await;
    let revoked = Consent {
        revoked_at: Some(at(5)),
        ..consent()
    };
    let change = IdentityChange {
        consent: Some(Some(revoked.clone())),
        ..Default::default()
    };
    let identity = identities::update(conn, world.tenant, identity, &change, None, at(5))
        .await
        .unwrap();
    assert!(!identity.has_consent());
    assert_eq!(identity.consent, Some(revoked));
}

#[tokio::test]
async fn an_old_version_changes_nothing() {
    let world = World::new().await;
    let id = world.identity().await;
    let conn = &mut *world.conn().await;
    let change = IdentityChange {
        consent: Some(None),
        ..Default::default()
    };
    let stale = identities::update(conn, world.tenant, id, &change, Some(2), at(1)).await;
    refused(stale, ErrorKind::Aborted, "ETAG_MISMATCH");
    let stale = identities::delete(conn, world.tenant, id, Some(2), at(1)).await;
    refused(stale, ErrorKind::Aborted, "ETAG_MISMATCH");
    assert!(
        identities::get(conn, world.tenant, id)
            .await
            .unwrap()
            .has_consent()
    );
    assert!(world.erasures(at(1)).await.is_empty());
}

#[tokio::test]
async fn its_state_follows_from_its_photos() {
    let world = World::new().await;
    let identity = world.identity().await;
    let conn = &mut *world.conn().await;
    world.insert(identity, id(), Some(no_face())).await;
    let refused = identities::get(conn, world.tenant, identity).await.unwrap();
    assert_eq!(
        (refused.state(), refused.counts.rejected),
        (IdentityState::Empty, 1)
    );
    world.running(identity, at(0)).await;
    let waiting = identities::get(conn, world.tenant, identity).await.unwrap();
    assert_eq!(
        (waiting.state(), waiting.counts.pending),
        (IdentityState::Enrolling, 1)
    );
    world.accepted(identity, 1.0).await;
    let ready = identities::get(conn, world.tenant, identity).await.unwrap();
    assert_eq!(
        (ready.state(), ready.counts.accepted),
        (IdentityState::Ready, 1)
    );
    assert_eq!(ready.version, 1);
}

#[tokio::test]
async fn a_deleted_identity_leaves_nothing_but_its_erasure() {
    let world = World::new().await;
    let (gone, stays) = (world.identity().await, world.identity().await);
    world.accepted(gone, 1.0).await;
    world.accepted(stays, 1.0).await;
    let conn = &mut *world.conn().await;
    identities::delete(conn, world.tenant, gone, Some(1), at(5))
        .await
        .unwrap();
    not_found(identities::get(conn, world.tenant, gone).await);
    let left = "SELECT (SELECT count(*) FROM photos) + (SELECT count(*) FROM photo_coefficients)";
    let left: i64 = sqlx::query_scalar(left)
        .fetch_one(&mut *conn)
        .await
        .unwrap();
    assert_eq!(left, 2);
    let prefix = format!("tenants/{}/identities/{gone}/", world.tenant);
    assert_eq!(world.erasures(at(5)).await, [prefix]);
}

#[tokio::test]
async fn a_lock_holds_off_a_deletion() {
    let world = World::new().await;
    let identity = world.identity().await;
    let mut checking = begin(world.pool()).await.unwrap();
    identities::lock(&mut checking, world.tenant, identity)
        .await
        .unwrap();
    let (pool, tenant) = (world.pool().clone(), world.tenant);
    let deletion = tokio::spawn(async move {
        let mut deleting = begin(&pool).await.unwrap();
        identities::delete(&mut deleting, tenant, identity, None, at(0))
            .await
            .unwrap();
        commit(deleting).await.unwrap();
    });
    world.someone_waits().await;
    commit(checking).await.unwrap();
    deletion.await.unwrap();
    not_found(identities::get(&mut *world.conn().await, tenant, identity).await);
}

#[tokio::test]
async fn a_row_that_nobody_wrote_is_named_but_not_shown() {
    let world = World::new().await;
    let id = world.identity().await;
    world
        .execute(r#"UPDATE identities SET labels = '{"secret": 7}'"#)
        .await;
    let conn = &mut *world.conn().await;
    let error = identities::get(conn, world.tenant, id).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Internal);
    let shown = format!("{error:?}");
    assert!(
        shown.contains(&format!("table identities, row {id}: column labels")),
        "{shown}"
    );
    assert!(!shown.contains("secret"));
}

#[tokio::test]
async fn text_that_postgres_cannot_hold_is_a_bad_argument() {
    let world = World::new().await;
    let new = new_identity(Some("a\0b"));
    let conn = &mut *world.conn().await;
    let answer = identities::create(conn, world.tenant, &new, at(0)).await;
    refused(answer, ErrorKind::InvalidArgument, "INVALID_TEXT");
}
