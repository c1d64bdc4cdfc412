//! The contract's promises: errors, masks, etags, pages, health, reflection, and what is not built yet.

use anyhow::Result;
use futures::StreamExt as _;
use likeness_wire::v1;
use tonic::{Code, transport::Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_types::StatusExt as _;

use crate::stage::{Stage, reason, small};

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_request_names_every_wrong_field() -> Result<()> {
    let stage = Stage::start().await?;
    let mut app = stage.tenant("photo app").await?;
    let identity = app.astronaut().await?;
    let wrong = v1::Render {
        steps: Some(10_000),
        width: Some(100),
        guidance: Some(f32::NAN),
        prompt: "x".repeat(100_000),
        ..small(&identity)
    };
    let status = app.create(wrong).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::InvalidArgument, "INVALID_FIELD")
    );
    let details = status.get_error_details();
    let fields: Vec<String> = details
        .bad_request()
        .unwrap()
        .field_violations
        .iter()
        .map(|v| v.field.clone())
        .collect();
    for field in [
        "render.steps",
        "render.width",
        "render.guidance",
        "render.prompt",
    ] {
        assert!(
            fields.iter().any(|found| found == field),
            "{field} in {fields:?}"
        );
    }
    for (render, expected) in [
        (
            v1::Render {
                model: "nonsense".to_owned(),
                ..small(&identity)
            },
            "MODEL_NOT_SERVED",
        ),
        (
            v1::Render {
                base_scale: Some(0.5),
                ..small(&identity)
            },
            "BASE_NOT_SERVED",
        ),
        (
            v1::Render {
                scheduler: 99,
                ..small(&identity)
            },
            "INVALID_FIELD",
        ),
    ] {
        assert_eq!(reason(&app.create(render).await.unwrap_err()), expected);
    }
    for name in [
        "",
        "renders/x",
        "tenants/x/renders/y",
        "tenants/-/renders/-",
    ] {
        assert_eq!(
            app.get(name).await.unwrap_err().code(),
            Code::InvalidArgument,
            "{name}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn validate_only_stores_nothing() -> Result<()> {
    let stage = Stage::start().await?;
    let mut app = stage.tenant("photo app").await?;
    let identity = app.astronaut().await?;
    let request = v1::CreateRenderRequest {
        render: Some(small(&identity)),
        validate_only: true,
        ..Default::default()
    };
    let answer = app.renders.create_render(request).await?.into_inner();
    assert!(answer.estimate.unwrap().cost.is_some());
    assert_eq!(
        answer.render.unwrap().scheduler(),
        v1::Scheduler::Dpmpp2mKarras
    );
    let listed = app
        .renders
        .list_renders(v1::ListRendersRequest::default())
        .await?;
    assert!(listed.into_inner().renders.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn updates_heed_masks_and_etags() -> Result<()> {
    let stage = Stage::start().await?;
    let mut app = stage.tenant("photo app").await?;
    let identity = app.identity().await?;
    let mask = |path: &str| {
        Some(prost_types::FieldMask {
            paths: vec![path.to_owned()],
        })
    };
    let changed = v1::Identity {
        display_name: "New name".to_owned(),
        external_id: "not in the mask".to_owned(),
        ..identity.clone()
    };
    let request = v1::UpdateIdentityRequest {
        identity: Some(changed.clone()),
        update_mask: mask("display_name"),
    };
    let updated = app
        .identities
        .update_identity(request.clone())
        .await?
        .into_inner()
        .identity
        .unwrap();
    assert_eq!(
        (updated.display_name.as_str(), updated.external_id.as_str()),
        ("New name", "")
    );
    assert_ne!(updated.etag, identity.etag);

    let stale = app.identities.update_identity(request).await.unwrap_err();
    assert_eq!(
        (stale.code(), reason(&stale).as_str()),
        (Code::Aborted, "ETAG_MISMATCH")
    );
    let unknown = v1::UpdateIdentityRequest {
        identity: Some(v1::Identity {
            etag: String::new(),
            ..changed
        }),
        update_mask: mask("photo_counts"),
    };
    let status = app.identities.update_identity(unknown).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn identities_are_listed_by_page_label_and_external_id() -> Result<()> {
    let stage = Stage::start().await?;
    let mut app = stage.tenant("photo app").await?;
    for number in 0..5 {
        let identity = v1::Identity {
            external_id: format!("person {number}"),
            labels: [("parity".to_owned(), (number % 2).to_string())].into(),
            ..Default::default()
        };
        let request = v1::CreateIdentityRequest {
            identity: Some(identity),
            ..Default::default()
        };
        app.identities.create_identity(request).await?;
    }
    let mut request = v1::ListIdentitiesRequest {
        page_size: 2,
        ..Default::default()
    };
    let mut found = Vec::new();
    loop {
        let page = app
            .identities
            .list_identities(request.clone())
            .await?
            .into_inner();
        assert!(page.identities.len() <= 2);
        found.extend(
            page.identities
                .into_iter()
                .map(|identity| identity.external_id),
        );
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    assert_eq!(
        found,
        ["person 0", "person 1", "person 2", "person 3", "person 4"]
    );

    let odd = v1::ListIdentitiesRequest {
        labels: [("parity".to_owned(), "1".to_owned())].into(),
        ..Default::default()
    };
    assert_eq!(
        app.identities
            .list_identities(odd)
            .await?
            .into_inner()
            .identities
            .len(),
        2
    );
    let one = v1::ListIdentitiesRequest {
        external_id: "person 3".to_owned(),
        ..Default::default()
    };
    assert_eq!(
        app.identities
            .list_identities(one)
            .await?
            .into_inner()
            .identities
            .len(),
        1
    );
    let twin = v1::Identity {
        external_id: "person 3".to_owned(),
        ..Default::default()
    };
    let request = v1::CreateIdentityRequest {
        identity: Some(twin),
        ..Default::default()
    };
    let status = app.identities.create_identity(request).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::AlreadyExists, "EXTERNAL_ID_EXISTS")
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn health_says_not_serving_before_the_drain() -> Result<()> {
    let stage = Stage::start().await?;
    let channel = Endpoint::from_shared(stage.endpoint.clone())?
        .connect()
        .await?;
    let mut health = HealthClient::new(channel);
    let service = "likeness.v1.RenderService".to_owned();
    let mut states = health
        .watch(HealthCheckRequest { service })
        .await?
        .into_inner();
    assert_eq!(
        states.next().await.unwrap()?.status(),
        ServingStatus::Serving
    );
    stage.lifecycle.stop();
    assert_eq!(
        states.next().await.unwrap()?.status(),
        ServingStatus::NotServing
    );
    Ok(())
}

/// The names that one version of reflection lists; the versions' messages are alike but not the same types.
macro_rules! listed_services {
    ($version:ident, $channel:expr) => {{
        use tonic_reflection::pb::$version::{
            ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
            server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
        };
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let mut answers = ServerReflectionClient::new($channel)
            .server_reflection_info(futures::stream::iter([request]))
            .await?
            .into_inner();
        let Some(MessageResponse::ListServicesResponse(list)) =
            answers.next().await.unwrap()?.message_response
        else {
            anyhow::bail!("no list of services");
        };
        let names = list.service.into_iter().map(|service| service.name);
        // Each version also lists itself.
        names
            .filter(|name| !name.starts_with("grpc.reflection."))
            .collect::<Vec<String>>()
    }};
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_lists_the_services_to_old_and_new_clients() -> Result<()> {
    let stage = Stage::start().await?;
    let channel = Endpoint::from_shared(stage.endpoint.clone())?
        .connect()
        .await?;
    let names = listed_services!(v1, channel.clone());
    for service in [
        "IdentityService",
        "RenderService",
        "SliderService",
        "AdminService",
    ] {
        assert!(
            names.contains(&format!("likeness.v1.{service}")),
            "{names:?}"
        );
    }
    assert_eq!(listed_services!(v1alpha, channel), names);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_sees_workers_and_counts() -> Result<()> {
    let stage = Stage::start().await?;
    let mut app = stage.tenant("photo app").await?;
    let identity = app.astronaut().await?;
    app.picture(small(&identity)).await?;
    let mut admin = stage.admin().await?;
    let stats = admin
        .get_queue_stats(v1::GetQueueStatsRequest {})
        .await?
        .into_inner();
    let succeeded = stats
        .renders
        .iter()
        .find(|c| c.state() == v1::RenderState::Succeeded)
        .unwrap();
    assert_eq!(succeeded.count, 1);
    assert_eq!((stats.pools.len(), stats.pools[0].workers), (1, 1));
    let pool = stats.pools[0].pool.clone();
    let request = v1::PausePoolRequest { pool, paused: true };
    let paused = admin.pause_pool(request).await?.into_inner();
    assert!(paused.pool.unwrap().paused);
    let status = admin
        .list_audit_events(v1::ListAuditEventsRequest::default())
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::Unimplemented, "NOT_BUILT_YET")
    );
    Ok(())
}
