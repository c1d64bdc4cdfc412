//! A stage: servers of the test's own, and all services in this process.

use std::{path::PathBuf, sync::OnceLock, time::Duration};

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use likeness_api::{ApiArgs, Server};
use likeness_blob::BlobArgs;
use likeness_dispatch::{Dispatch, DispatchArgs};
use likeness_enroll::{Enroll, EnrollArgs};
use likeness_queue::QueueArgs;
use likeness_render::{ComputeArgs, Render, RenderArgs};
use likeness_runtime::Lifecycle;
use likeness_test_support::{TestContext, fixture};
use likeness_wire::v1::{
    self, admin_service_client::AdminServiceClient, identity_service_client::IdentityServiceClient,
    render_service_client::RenderServiceClient, watch_render_response::Event,
};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

pub const OPERATOR_KEY: &str = "operator-key-of-the-tests";
pub const SEALING_KEYS: &str = "test:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
/// More than anything here takes; a test that waits longer hangs.
pub const PATIENCE: Duration = Duration::from_mins(2);

/// Adds a key to each call.
#[derive(Clone)]
pub struct Bearer(MetadataValue<Ascii>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request
            .metadata_mut()
            .insert("authorization", self.0.clone());
        Ok(request)
    }
}

pub type Keyed = InterceptedService<Channel, Bearer>;

/// The pocket bundle, made once for all tests.
pub fn pocket() -> PathBuf {
    static POCKET: OnceLock<PathBuf> = OnceLock::new();
    POCKET
        .get_or_init(|| {
            let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("pocket");
            likeness_bundle::pocket::make(&dir, 0).unwrap();
            dir
        })
        .clone()
}

pub fn astronaut() -> Vec<u8> {
    std::fs::read(fixture("astronaut.png")).unwrap()
}

/// The servers' addresses as every service takes them.
#[derive(Clone)]
pub struct Settings {
    pub database_url: String,
    pub queue: QueueArgs,
    pub blob: BlobArgs,
    pub bundle: PathBuf,
    pub webhook_any_address: bool,
}

impl Settings {
    pub fn of(context: &TestContext) -> Self {
        Self::with(context, pocket())
    }

    pub fn with(context: &TestContext, bundle: PathBuf) -> Self {
        let s3 = context.s3();
        Self {
            database_url: context.database_url().to_owned(),
            queue: QueueArgs::new(context.nats_url(), context.namespace().parse().unwrap()),
            blob: BlobArgs {
                s3_endpoint: Some(s3.endpoint.clone()),
                s3_region: "us-east-1".to_owned(),
                s3_bucket: context.bucket().to_owned(),
                s3_access_key: s3.access_key.clone(),
                s3_secret_key: s3.secret_key.clone(),
                s3_path_style: true,
                s3_public_endpoint: None,
            },
            bundle,
            webhook_any_address: false,
        }
    }

    pub fn api(&self) -> ApiArgs {
        ApiArgs {
            listen: "127.0.0.1:0".parse().unwrap(),
            database_url: self.database_url.clone(),
            database_connections: 4,
            operator_key: OPERATOR_KEY.to_owned(),
            webhook_any_address: self.webhook_any_address,
            queue: self.queue.clone(),
            blob: self.blob.clone(),
        }
    }

    pub fn dispatch(&self) -> DispatchArgs {
        DispatchArgs {
            database_url: self.database_url.clone(),
            database_connections: 4,
            sealing_keys: SEALING_KEYS.to_owned(),
            lease_seconds: 30,
            webhook_any_address: self.webhook_any_address,
            queue: self.queue.clone(),
            blob: self.blob.clone(),
        }
    }

    pub fn enroll(&self) -> EnrollArgs {
        EnrollArgs {
            database_url: self.database_url.clone(),
            sealing_keys: SEALING_KEYS.to_owned(),
            bundle: self.bundle.clone(),
            queue: self.queue.clone(),
            blob: self.blob.clone(),
        }
    }

    pub fn render(&self) -> RenderArgs {
        RenderArgs {
            bundle: self.bundle.clone(),
            max_batch: None,
            compute: ComputeArgs::default(),
            queue: self.queue.clone(),
        }
    }
}

/// All services of one test.
pub struct Stage {
    pub settings: Settings,
    pub endpoint: String,
    pub lifecycle: Lifecycle,
    /// The render worker's own life: stopped, it drains.
    pub worker: Lifecycle,
    // Last, so that the servers outlive the services.
    pub context: TestContext,
}

impl Stage {
    /// Starts everything and waits until a render worker has announced its bundle.
    pub async fn start() -> Result<Self> {
        Self::start_with(pocket()).await
    }

    /// The same with another bundle.
    pub async fn start_with(bundle: PathBuf) -> Result<Self> {
        let context = TestContext::new().await?;
        let settings = Settings::with(&context, bundle);
        Self::start_as(context, settings).await
    }

    /// The same, with webhooks that may call this machine.
    pub async fn start_calling_any_address() -> Result<Self> {
        let context = TestContext::new().await?;
        let settings = Settings {
            webhook_any_address: true,
            ..Settings::of(&context)
        };
        Self::start_as(context, settings).await
    }

    async fn start_as(context: TestContext, settings: Settings) -> Result<Self> {
        let lifecycle = Lifecycle::new();
        let worker = lifecycle.child();
        Dispatch::from_args(settings.dispatch())
            .await?
            .spawn(&lifecycle);
        Render::from_args(settings.render()).await?.spawn(&worker);
        Enroll::from_args(settings.enroll())
            .await?
            .spawn(&lifecycle);
        let server = Server::from_args(settings.api()).await?;
        let endpoint = format!("http://{}", server.address());
        server.spawn(&lifecycle);
        let stage = Self {
            settings,
            endpoint,
            lifecycle,
            worker,
            context,
        };
        stage.workers(1).await?;
        Ok(stage)
    }

    /// Waits until so many render workers are live.
    pub async fn workers(&self, count: usize) -> Result<()> {
        let mut admin = self.admin().await?;
        eventually(async || {
            let request = v1::ListWorkersRequest::default();
            let workers = admin.list_workers(request).await?.into_inner().workers;
            let renders = workers
                .iter()
                .filter(|worker| worker.kind() == v1::WorkerKind::Render && !worker.draining);
            Ok((renders.count() == count).then_some(()))
        })
        .await
    }

    pub async fn admin(&self) -> Result<AdminServiceClient<Keyed>> {
        Ok(AdminServiceClient::new(
            keyed(&self.endpoint, OPERATOR_KEY).await?,
        ))
    }

    /// A new tenant with a key.
    pub async fn tenant(&self, display_name: &str) -> Result<App> {
        tenant(&self.endpoint, display_name).await
    }
}

/// A new tenant with a key, at any endpoint.
pub async fn tenant(endpoint: &str, display_name: &str) -> Result<App> {
    tenant_with(endpoint, OPERATOR_KEY, display_name).await
}

/// A new tenant with a key, made with any operator's key.
pub async fn tenant_with(endpoint: &str, operator_key: &str, display_name: &str) -> Result<App> {
    let mut admin = AdminServiceClient::new(keyed(endpoint, operator_key).await?);
    let tenant = v1::Tenant {
        display_name: display_name.to_owned(),
        ..Default::default()
    };
    let request = v1::CreateTenantRequest {
        tenant: Some(tenant),
        ..Default::default()
    };
    let tenant = admin
        .create_tenant(request)
        .await?
        .into_inner()
        .tenant
        .unwrap();
    let request = v1::CreateApiKeyRequest {
        parent: tenant.name.clone(),
        api_key: None,
    };
    let key = admin.create_api_key(request).await?.into_inner().secret;
    App::new(endpoint, tenant.name, key).await
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.lifecycle.stop();
        self.lifecycle.hard().cancel();
    }
}

pub async fn keyed(endpoint: &str, key: &str) -> Result<Keyed> {
    let bearer: MetadataValue<Ascii> = format!("Bearer {key}").parse()?;
    // Lazy, so that a client outlives a restart of the api.
    let channel = Endpoint::from_shared(endpoint.to_owned())?.connect_lazy();
    Ok(InterceptedService::new(channel, Bearer(bearer)))
}

/// A tenant's view of the api.
#[derive(Clone)]
pub struct App {
    pub tenant: String,
    pub key: String,
    pub identities: IdentityServiceClient<Keyed>,
    pub renders: RenderServiceClient<Keyed>,
}

impl App {
    pub async fn new(endpoint: &str, tenant: String, key: String) -> Result<Self> {
        let channel = keyed(endpoint, &key).await?;
        let identities =
            IdentityServiceClient::new(channel.clone()).max_encoding_message_size(64 << 20);
        Ok(Self {
            tenant,
            key,
            identities,
            renders: RenderServiceClient::new(channel),
        })
    }

    /// A new identity with consent and without photos.
    pub async fn identity(&mut self) -> Result<v1::Identity> {
        let consent = v1::Consent {
            reference: "form 7".to_owned(),
            ..Default::default()
        };
        let identity = v1::Identity {
            consent: Some(consent),
            ..Default::default()
        };
        let request = v1::CreateIdentityRequest {
            identity: Some(identity),
            ..Default::default()
        };
        Ok(self
            .identities
            .create_identity(request)
            .await?
            .into_inner()
            .identity
            .unwrap())
    }

    /// Adds photos and waits until each has reached a last state.
    pub async fn enrol(&mut self, identity: &str, photos: Vec<Vec<u8>>) -> Result<Vec<v1::Photo>> {
        self.enrol_choosing(identity, photos, v1::FaceChoice::Only)
            .await
    }

    pub async fn enrol_choosing(
        &mut self,
        identity: &str,
        photos: Vec<Vec<u8>>,
        face: v1::FaceChoice,
    ) -> Result<Vec<v1::Photo>> {
        let request = v1::AddPhotosRequest {
            parent: identity.to_owned(),
            photos: photos.into_iter().map(Into::into).collect(),
            face: face.into(),
            request_id: String::new(),
        };
        let added = self
            .identities
            .add_photos(request)
            .await?
            .into_inner()
            .photos;
        let mut settled = Vec::new();
        for photo in added {
            settled.push(self.settled(&photo.name).await?);
        }
        Ok(settled)
    }

    async fn settled(&mut self, name: &str) -> Result<v1::Photo> {
        eventually(async || {
            let request = v1::GetPhotoRequest {
                name: name.to_owned(),
            };
            let photo = self
                .identities
                .get_photo(request)
                .await?
                .into_inner()
                .photo
                .unwrap();
            let waiting = [v1::PhotoState::Pending, v1::PhotoState::Running];
            Ok((!waiting.contains(&photo.state())).then_some(photo))
        })
        .await
    }

    /// An identity that is READY, from the fixture photo.
    pub async fn astronaut(&mut self) -> Result<v1::Identity> {
        let identity = self.identity().await?;
        let photos = self.enrol(&identity.name, vec![astronaut()]).await?;
        anyhow::ensure!(photos[0].state() == v1::PhotoState::Accepted, "{photos:?}");
        Ok(identity)
    }

    pub async fn create(&mut self, render: v1::Render) -> Result<v1::Render, Status> {
        let request = v1::CreateRenderRequest {
            render: Some(render),
            ..Default::default()
        };
        Ok(self
            .renders
            .create_render(request)
            .await?
            .into_inner()
            .render
            .unwrap())
    }

    pub async fn get(&mut self, name: &str) -> Result<v1::Render, Status> {
        let request = v1::GetRenderRequest {
            name: name.to_owned(),
        };
        Ok(self
            .renders
            .get_render(request)
            .await?
            .into_inner()
            .render
            .unwrap())
    }

    pub async fn cancel(&mut self, name: &str) -> Result<v1::Render, Status> {
        let request = v1::CancelRenderRequest {
            name: name.to_owned(),
        };
        Ok(self
            .renders
            .cancel_render(request)
            .await?
            .into_inner()
            .render
            .unwrap())
    }

    /// Every event of a render until its last state. Taken up again when the api ends the watch.
    pub async fn watch(&mut self, name: &str) -> Result<Watched> {
        let watching = async {
            let mut watched = Watched::default();
            loop {
                let request = v1::WatchRenderRequest {
                    name: name.to_owned(),
                    without_previews: false,
                };
                if let Ok(events) = self.renders.watch_render(request).await {
                    let mut events = events.into_inner();
                    while let Some(Ok(message)) = events.next().await {
                        if watched.take(message.event) {
                            return watched;
                        }
                    }
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, watching)
            .await
            .context("the render did not end")
    }

    /// Renders and waits for success.
    pub async fn picture(&mut self, render: v1::Render) -> Result<Picture> {
        let render = self.create(render).await?;
        let render = self.watch(&render.name).await?.last.unwrap();
        anyhow::ensure!(
            render.state() == v1::RenderState::Succeeded,
            "{:?}",
            render.error
        );
        let bytes = download(&render.images[0].url).await?;
        let pixels = image::load_from_memory(&bytes)?.to_rgb8();
        Ok(Picture {
            render,
            bytes,
            pixels,
        })
    }
}

pub struct Picture {
    pub render: v1::Render,
    pub bytes: Vec<u8>,
    pub pixels: image::RgbImage,
}

/// What a watch has told.
#[derive(Default)]
pub struct Watched {
    pub states: Vec<v1::RenderState>,
    pub steps: usize,
    pub previews: usize,
    pub last: Option<v1::Render>,
}

impl Watched {
    /// Whether this was the last event.
    fn take(&mut self, event: Option<Event>) -> bool {
        match event {
            Some(Event::Render(render)) => {
                self.states.push(render.state());
                self.last = Some(render);
            }
            Some(Event::Progress(_)) => self.steps += 1,
            Some(Event::Preview(_)) => self.previews += 1,
            None => {}
        }
        self.last.as_ref().is_some_and(is_over)
    }
}

pub fn is_over(render: &v1::Render) -> bool {
    let living = [
        v1::RenderState::Queued,
        v1::RenderState::Dispatched,
        v1::RenderState::Running,
    ];
    !living.contains(&render.state())
}

pub async fn download(url: &str) -> Result<Vec<u8>> {
    Ok(reqwest::get(url)
        .await?
        .error_for_status()?
        .bytes()
        .await?
        .to_vec())
}

/// A small, quick render of an identity.
pub fn small(identity: &v1::Identity) -> v1::Render {
    v1::Render {
        identities: vec![v1::WeightedIdentity {
            identity: identity.name.clone(),
            weight: None,
        }],
        prompt: "a portrait in a garden".to_owned(),
        seed: Some(7),
        steps: Some(4),
        width: Some(64),
        height: Some(64),
        ..Default::default()
    }
}

/// A render that takes many seconds: long enough to be cancelled or killed in its midst.
pub fn long(identity: &v1::Identity) -> v1::Render {
    v1::Render {
        steps: Some(150),
        width: Some(512),
        height: Some(512),
        image_count: Some(8),
        ..small(identity)
    }
}

/// Asks again until there is an answer.
pub async fn eventually<T>(mut ask: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let asking = async {
        loop {
            if let Some(answer) = ask().await? {
                return anyhow::Ok(answer);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking)
        .await
        .context("it did not come to pass")?
}

/// The reason of a refusal.
pub fn reason(status: &Status) -> String {
    likeness_wire::status::reason(status).unwrap_or_default()
}
