//! What the queue offers beside single renders.

use anyhow::{Context as _, Result};
use likeness_wire::v1;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::stage::{App, Stage, eventually, reason, small};

/// A render that shows nobody.
fn nobody() -> v1::Render {
    v1::Render {
        identities: Vec::new(),
        ..small(&v1::Identity::default())
    }
}

async fn create_batch(app: &mut App, renders: Vec<v1::Render>) -> Result<Vec<v1::Render>, Status> {
    let requests = renders.into_iter().map(|render| v1::CreateRenderRequest {
        render: Some(render),
        ..Default::default()
    });
    let request = v1::BatchCreateRendersRequest {
        parent: String::new(),
        requests: requests.collect(),
    };
    let created = app.renders.batch_create_renders(request).await?;
    Ok(created.into_inner().renders)
}

async fn count(app: &mut App) -> Result<usize> {
    let request = v1::ListRendersRequest::default();
    let listed = app.renders.list_renders(request).await?;
    Ok(listed.into_inner().renders.len())
}

async fn limit_backlog(stage: &Stage, app: &App, most: i32) -> Result<()> {
    let limits = v1::TenantLimits {
        max_queued: Some(most),
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
    Ok(())
}

async fn pause(stage: &Stage) -> Result<()> {
    let mut admin = stage.admin().await?;
    let stats = admin.get_queue_stats(v1::GetQueueStatsRequest {}).await?;
    let pool = stats.into_inner().pools.remove(0).pool;
    let request = v1::PausePoolRequest { pool, paused: true };
    admin.pause_pool(request).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_taken_in_whole_or_not_at_all() -> Result<()> {
    let stage = Stage::start().await?;
    let mut app = stage.tenant("busy app").await?;
    // So that what is taken in stays in the queue.
    pause(&stage).await?;
    let created = create_batch(&mut app, vec![nobody(), nobody(), nobody()]).await?;
    assert_eq!((created.len(), count(&mut app).await?), (3, 3));

    let wrong = v1::Render {
        width: Some(63),
        ..nobody()
    };
    let refused = create_batch(&mut app, vec![nobody(), wrong])
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let details = refused.get_error_details();
    let field = &details
        .bad_request()
        .context("no field is named")?
        .field_violations[0]
        .field;
    assert!(field.starts_with("requests[1]."), "{field}");
    assert_eq!(count(&mut app).await?, 3);

    limit_backlog(&stage, &app, 4).await?;
    let refused = create_batch(&mut app, vec![nobody(), nobody()])
        .await
        .unwrap_err();
    let expected = (Code::ResourceExhausted, "BACKLOG_FULL".to_owned());
    assert_eq!((refused.code(), reason(&refused)), expected);
    assert!(refused.get_error_details().retry_info().is_some());
    assert_eq!(count(&mut app).await?, 3);
    create_batch(&mut app, vec![nobody()]).await?;
    Ok(())
}

/// The names that requests under these ids were answered with, all of them sent at once.
async fn create_at_once(app: &App, ids: &[&str]) -> Vec<Result<String, Status>> {
    let creating = ids.iter().map(|id| {
        let mut app = app.clone();
        let request = v1::CreateRenderRequest {
            render: Some(nobody()),
            request_id: (*id).to_owned(),
            ..Default::default()
        };
        async move {
            let made = app.renders.create_render(request).await?.into_inner();
            Ok(made.render.unwrap_or_default().name)
        }
    });
    futures::future::join_all(creating).await
}

#[tokio::test(flavor = "multi_thread")]
async fn renders_that_come_together_are_each_their_own() -> Result<()> {
    let stage = Stage::start().await?;
    let mut app = stage.tenant("busy app").await?;
    let mut other = stage.tenant("other app").await?;
    let limited = stage.tenant("limited app").await?;
    pause(&stage).await?;
    limit_backlog(&stage, &limited, 3).await?;
    let ids: Vec<String> = (0..40).map(|number| format!("{}", number % 30)).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let wrong = async {
        let mut app = app.clone();
        let wrong = v1::Render {
            width: Some(63),
            ..nobody()
        };
        let refusals = (0..5).map(|_| {
            let (mut app, wrong) = (app.clone(), wrong.clone());
            async move { app.create(wrong).await.unwrap_err().code() }
        });
        let codes = futures::future::join_all(refusals).await;
        app.create(nobody()).await.map(|_| codes)
    };
    let (own, others, few, codes) = tokio::join!(
        create_at_once(&app, &ids),
        create_at_once(&other, &ids),
        create_at_once(&limited, &ids[..10]),
        wrong,
    );
    // Twins were told of one render, and nobody of another's.
    let mut all = std::collections::BTreeSet::new();
    for (app, made) in [(&app, own), (&other, others)] {
        let names: Vec<String> = made.into_iter().collect::<Result<_, _>>()?;
        for (number, name) in names.iter().enumerate() {
            assert!(name.starts_with(&app.tenant), "{name}");
            assert_eq!(name, &names[number % 30]);
            all.insert(name.clone());
        }
    }
    assert_eq!(all.len(), 60);
    assert_eq!(few.iter().filter(|one| one.is_ok()).count(), 3);
    assert!(codes?.iter().all(|code| *code == Code::InvalidArgument));
    assert_eq!((count(&mut app).await?, count(&mut other).await?), (31, 30));
    Ok(())
}

/// Answers one request with 204, and returns its head and body.
async fn one_call(listener: TcpListener) -> Result<(String, serde_json::Value)> {
    let (stream, _) = listener.accept().await?;
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        anyhow::ensure!(stream.read_line(&mut head).await? > 0, "{head}");
    }
    let head = head.to_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.context("no length")?.parse()?];
    stream.read_exact(&mut body).await?;
    let answer = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
    stream.write_all(answer).await?;
    Ok((head, serde_json::from_slice(&body)?))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_hears_of_the_end_and_the_render_shows_that_it_did() -> Result<()> {
    let stage = Stage::start_calling_any_address().await?;
    let mut app = stage.tenant("patient app").await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/hook?token=ours", listener.local_addr()?);
    let called = tokio::spawn(one_call(listener));
    let told = v1::Render {
        webhook: Some(v1::Webhook { url }),
        ..nobody()
    };
    let render = app.picture(told).await?.render;
    let (head, body) = called.await??;
    assert!(head.starts_with("post /hook?token=ours http/1.1"), "{head}");
    for header in [
        "webhook-id: ",
        "webhook-timestamp: ",
        "webhook-signature: v1,",
    ] {
        assert!(head.contains(header), "{header} is missing: {head}");
    }
    assert_eq!(body["data"]["render"], render.name);
    assert_eq!(body["data"]["state"], "SUCCEEDED");
    let deliveries = eventually(async || {
        let deliveries = app.get(&render.name).await?.webhook_deliveries;
        Ok((!deliveries.is_empty()).then_some(deliveries))
    });
    let deliveries = deliveries.await?;
    let statuses: Vec<i32> = deliveries.iter().map(|one| one.status).collect();
    assert_eq!(statuses, [204]);
    Ok(())
}
