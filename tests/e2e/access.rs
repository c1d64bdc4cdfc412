//! Who may see what.

use anyhow::Result;
use likeness_wire::v1;
use tonic::{Code, Status};

use crate::stage::{App, Stage, keyed, reason, small};

#[tokio::test(flavor = "multi_thread")]
async fn two_tenants_cannot_see_each_other() -> Result<()> {
    let stage = Stage::start().await?;
    let mut ours = stage.tenant("our app").await?;
    let mut theirs = stage.tenant("their app").await?;
    let identity = ours.astronaut().await?;
    let render = ours.picture(small(&identity)).await?.render;
    let photos = v1::ListPhotosRequest {
        parent: identity.name.clone(),
        ..Default::default()
    };
    let photo = ours
        .identities
        .list_photos(photos.clone())
        .await?
        .into_inner()
        .photos
        .remove(0);

    for status in their_attempts(&mut theirs, &identity, &photo, &render).await {
        assert_eq!(status.code(), Code::NotFound, "{status:?}");
    }
    let listed = theirs
        .identities
        .list_identities(v1::ListIdentitiesRequest::default())
        .await?;
    assert!(listed.into_inner().identities.is_empty());
    let listed = theirs
        .renders
        .list_renders(v1::ListRendersRequest::default())
        .await?;
    assert!(listed.into_inner().renders.is_empty());
    // Ours are untouched.
    assert_eq!(
        ours.get(&render.name).await?.state(),
        v1::RenderState::Succeeded
    );
    assert_eq!(
        ours.identities
            .list_photos(photos)
            .await?
            .into_inner()
            .photos
            .len(),
        1
    );
    Ok(())
}

/// Everything that another tenant may try by name: all of it must fail alike.
async fn their_attempts(
    theirs: &mut App,
    identity: &v1::Identity,
    photo: &v1::Photo,
    render: &v1::Render,
) -> Vec<Status> {
    let name = identity.name.clone();
    let parent = name.clone();
    let identities = &mut theirs.identities;
    let update = v1::UpdateIdentityRequest {
        identity: Some(identity.clone()),
        update_mask: None,
    };
    let add = v1::AddPhotosRequest {
        parent: name.clone(),
        photos: vec![vec![1].into()],
        ..Default::default()
    };
    let parents = v1::ListIdentitiesRequest {
        parent: name.split("/identities").next().unwrap().to_owned(),
        ..Default::default()
    };
    let mut statuses = vec![
        identities
            .get_identity(v1::GetIdentityRequest { name: name.clone() })
            .await
            .err(),
        identities.update_identity(update).await.err(),
        identities
            .delete_identity(v1::DeleteIdentityRequest {
                name: name.clone(),
                ..Default::default()
            })
            .await
            .err(),
        identities.add_photos(add).await.err(),
        identities
            .list_photos(v1::ListPhotosRequest {
                parent,
                ..Default::default()
            })
            .await
            .err(),
        identities
            .get_photo(v1::GetPhotoRequest {
                name: photo.name.clone(),
            })
            .await
            .err(),
        identities
            .delete_photo(v1::DeletePhotoRequest {
                name: photo.name.clone(),
            })
            .await
            .err(),
        identities
            .watch_identity(v1::WatchIdentityRequest { name })
            .await
            .err(),
        identities.list_identities(parents).await.err(),
    ];
    let watch = v1::WatchRenderRequest {
        name: render.name.clone(),
        ..Default::default()
    };
    statuses.extend([
        theirs.get(&render.name).await.err(),
        theirs.cancel(&render.name).await.err(),
        theirs.create(small(identity)).await.err(),
        theirs.renders.watch_render(watch).await.err(),
    ]);
    statuses
        .into_iter()
        .map(|status| status.expect("every attempt must fail"))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_valid_key_opens_the_door() -> Result<()> {
    let stage = Stage::start().await?;
    let app = stage.tenant("photo app").await?;
    let wrong = format!("{}0", &app.key[..app.key.len() - 1]);
    let other = format!("{}1", &app.key[..app.key.len() - 1]);
    // One of the two differs from the right key for certain.
    let forged = if wrong == app.key { other } else { wrong };
    for key in ["", "nonsense", forged.as_str(), crate::stage::OPERATOR_KEY] {
        let mut thief = App::new(&stage.endpoint, app.tenant.clone(), key.to_owned()).await?;
        let request = v1::ListRendersRequest::default();
        let status = thief.renders.list_renders(request).await.unwrap_err();
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::Unauthenticated, "INVALID_KEY")
        );
    }
    // A tenant's key administers nothing.
    let channel = keyed(&stage.endpoint, &app.key).await?;
    let mut admin = v1::admin_service_client::AdminServiceClient::new(channel);
    let status = admin
        .list_tenants(v1::ListTenantsRequest::default())
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_and_a_suspended_tenant_are_out_at_once() -> Result<()> {
    let stage = Stage::start().await?;
    let mut admin = stage.admin().await?;
    let mut app = stage.tenant("photo app").await?;
    let list = v1::ListRendersRequest::default();
    app.renders.list_renders(list.clone()).await?;

    let tenant = v1::Tenant {
        name: app.tenant.clone(),
        state: v1::TenantState::Suspended.into(),
        ..Default::default()
    };
    let mask = prost_types::FieldMask {
        paths: vec!["state".to_owned()],
    };
    let suspend = v1::UpdateTenantRequest {
        tenant: Some(tenant),
        update_mask: Some(mask),
    };
    admin.update_tenant(suspend).await?;
    let status = app.renders.list_renders(list.clone()).await.unwrap_err();
    assert_eq!(reason(&status), "TENANT_SUSPENDED");

    let mut other = stage.tenant("other app").await?;
    let keys = v1::ListApiKeysRequest {
        parent: other.tenant.clone(),
        ..Default::default()
    };
    let key = admin
        .list_api_keys(keys)
        .await?
        .into_inner()
        .api_keys
        .remove(0);
    admin
        .revoke_api_key(v1::RevokeApiKeyRequest { name: key.name })
        .await?;
    let status = other.renders.list_renders(list).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_over_its_rate_is_told_when_to_come_back() -> Result<()> {
    use tonic_types::StatusExt as _;
    let stage = Stage::start().await?;
    let mut app = stage.tenant("eager app").await?;
    let limits = v1::TenantLimits {
        max_renders_per_minute: Some(1),
        ..Default::default()
    };
    let tenant = v1::Tenant {
        name: app.tenant.clone(),
        limits: Some(limits),
        ..Default::default()
    };
    let mask = prost_types::FieldMask {
        paths: vec!["limits".to_owned()],
    };
    let request = v1::UpdateTenantRequest {
        tenant: Some(tenant),
        update_mask: Some(mask),
    };
    stage.admin().await?.update_tenant(request).await?;
    let nobody = v1::Render {
        identities: Vec::new(),
        ..small(&v1::Identity::default())
    };
    app.create(nobody.clone()).await?;
    let status = app.create(nobody).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::ResourceExhausted, "RATE_EXCEEDED")
    );
    assert!(status.get_error_details().retry_info().is_some());
    Ok(())
}
