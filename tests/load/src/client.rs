//! gRPC clients with a key.

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use likeness_domain::{RenderId, names::RenderName};
use likeness_wire::v1::{
    self, admin_service_client::AdminServiceClient, render_service_client::RenderServiceClient,
    watch_render_response::Event,
};
use tonic::{
    Request, Status, Streaming,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

/// Adds a key to each call.
#[derive(Clone)]
pub struct Bearer(MetadataValue<Ascii>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let metadata = request.metadata_mut();
        metadata.insert("authorization", self.0.clone());
        Ok(request)
    }
}

type Keyed = InterceptedService<Channel, Bearer>;
pub type Renders = RenderServiceClient<Keyed>;

/// A tenant with a key.
#[derive(Clone)]
pub struct Tenant {
    endpoint: String,
    key: String,
}

impl Tenant {
    /// A client with a connection of its own.
    pub fn client(&self) -> Result<Renders> {
        Ok(RenderServiceClient::new(keyed(&self.endpoint, &self.key)?))
    }
}

/// The operator's client.
pub fn operator(endpoint: &str, key: &str) -> Result<AdminServiceClient<Keyed>> {
    Ok(AdminServiceClient::new(keyed(endpoint, key)?))
}

/// A new tenant with a key.
pub async fn tenant(endpoint: &str, operator_key: &str, display_name: &str) -> Result<Tenant> {
    let mut admin = operator(endpoint, operator_key)?;
    let tenant = v1::Tenant {
        display_name: display_name.to_owned(),
        ..Default::default()
    };
    let request = v1::CreateTenantRequest {
        tenant: Some(tenant),
        ..Default::default()
    };
    let made = admin.create_tenant(request).await?.into_inner().tenant;
    let name = made.context("no tenant")?.name;
    let request = v1::CreateApiKeyRequest {
        parent: name,
        api_key: None,
    };
    let key = admin.create_api_key(request).await?.into_inner().secret;
    Ok(Tenant {
        endpoint: endpoint.to_owned(),
        key,
    })
}

fn keyed(endpoint: &str, key: &str) -> Result<Keyed> {
    let bearer: MetadataValue<Ascii> = format!("Bearer {key}").parse()?;
    let channel = Endpoint::from_shared(endpoint.to_owned())?.connect_lazy();
    Ok(InterceptedService::new(channel, Bearer(bearer)))
}

/// A request as a careful client makes it, with an id by which it can be repeated.
pub fn request() -> v1::CreateRenderRequest {
    let render = v1::Render {
        prompt: "a portrait in a garden, soft light".to_owned(),
        seed: Some(7),
        ..Default::default()
    };
    v1::CreateRenderRequest {
        render: Some(render),
        request_id: uuid::Uuid::new_v4().to_string(),
        ..Default::default()
    }
}

/// Submits one render and returns its name.
pub async fn submit(client: &mut Renders) -> Result<String> {
    let made = client.create_render(request()).await?.into_inner().render;
    Ok(made.context("no render")?.name)
}

/// The id in a render's name.
pub fn id(name: &str) -> Result<RenderId> {
    Ok(name.parse::<RenderName>()?.render)
}

pub async fn watch(client: &mut Renders, name: &str) -> Result<Streaming<v1::WatchRenderResponse>> {
    let request = v1::WatchRenderRequest {
        name: name.to_owned(),
        without_previews: true,
    };
    Ok(client.watch_render(request).await?.into_inner())
}

/// The next state that a watch tells.
pub async fn next_state(events: &mut Streaming<v1::WatchRenderResponse>) -> Result<v1::Render> {
    loop {
        let event = events.next().await.context("the watch ended early")??;
        if let Some(Event::Render(render)) = event.event {
            return Ok(render);
        }
    }
}
