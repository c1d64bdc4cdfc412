//! The server: its configuration, its stores, its services.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context as _;
use clap::Args;
use likeness_blob::{Blob, BlobArgs};
use likeness_domain::{SystemClock, webhook::Reach};
use likeness_queue::{Queue, QueueArgs};
use likeness_runtime::Lifecycle;
use likeness_wire::{
    FILE_DESCRIPTOR_SET,
    v1::{
        admin_service_server::AdminServiceServer, identity_service_server::IdentityServiceServer,
        render_service_server::RenderServiceServer, slider_service_server::SliderServiceServer,
    },
};
use tokio::net::TcpListener;
use tonic::{
    service::Routes,
    transport::{self, server::TcpIncoming},
};
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{
    admin::Admin,
    app::{App, Limits},
    auth::OperatorKey,
    identity::Identities,
    render::Renders,
    slider::Sliders,
};

/// The largest message taken in: some photos at once, or a render's start picture. More photos come through UploadPhoto.
const MAX_MESSAGE: usize = 64 << 20;

/// How long load balancers get to see NOT_SERVING before connections are drained.
const NOT_SERVING_NOTICE: Duration = Duration::from_millis(200);

/// The gRPC front's configuration.
#[derive(Args, Clone)]
pub struct ApiArgs {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, env = "LIKENESS_API_LISTEN", default_value = "127.0.0.1:7400")]
    pub listen: SocketAddr,
    /// Postgres: `postgres://user:password@host/database`.
    #[arg(long, env = "LIKENESS_DATABASE_URL", hide_env_values = true)]
    pub database_url: String,
    /// The most connections to Postgres.
    #[arg(long, env = "LIKENESS_API_DATABASE_CONNECTIONS", default_value_t = 16)]
    pub database_connections: u32,
    /// The operator's key for AdminService, at least 16 characters.
    #[arg(long, env = "LIKENESS_OPERATOR_KEY", hide_env_values = true)]
    pub operator_key: String,
    /// Let webhooks name private addresses, also over http: only where every tenant is trusted.
    #[arg(long, env = "LIKENESS_WEBHOOK_ANY_ADDRESS")]
    pub webhook_any_address: bool,
    /// The queue.
    #[command(flatten)]
    pub queue: QueueArgs,
    /// Photos and images.
    #[command(flatten)]
    pub blob: BlobArgs,
}

/// A front that listens already and serves once it is spawned.
pub struct Server {
    app: App,
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Connects to everything the configuration names.
    ///
    /// # Errors
    /// What cannot be reached, or an address that cannot be listened on.
    pub async fn from_args(args: ApiArgs) -> anyhow::Result<Self> {
        let pool =
            likeness_registry::connect(&args.database_url, args.database_connections).await?;
        likeness_registry::check_migrated(&pool).await?;
        let app = App {
            pool,
            queue: Queue::connect(&args.queue).await?,
            blob: Blob::connect(&args.blob)?,
            clock: std::sync::Arc::new(SystemClock),
            operator: OperatorKey::new(&args.operator_key)?,
            limits: Limits {
                webhooks: if args.webhook_any_address {
                    Reach::Any
                } else {
                    Reach::Public
                },
                ..Limits::default()
            },
            intake: std::sync::Arc::default(),
        };
        Self::from_services(app, args.listen).await
    }

    /// Listens, with stores that are connected already.
    ///
    /// # Errors
    /// An address that cannot be listened on.
    pub async fn from_services(app: App, listen: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(listen)
            .await
            .with_context(|| format!("cannot listen on {listen}"))?;
        let address = listener
            .local_addr()
            .context("the listener has no address")?;
        Ok(Self {
            app,
            listener,
            address,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the lifecycle's soft stop: says NOT_SERVING first, ends watches, then drains.
    pub fn spawn(self, lifecycle: &Lifecycle) {
        let soft = lifecycle.soft().clone();
        lifecycle.spawn("api", async move {
            let (health, routes) = self.routes(&soft).await?;
            tracing::info!(address = %self.address, "the api listens");
            // Or a message's last part waits for the client to acknowledge the ones before, which clients put off by 40 ms.
            let incoming = TcpIncoming::from(self.listener).with_nodelay(Some(true));
            transport::Server::builder()
                .http2_keepalive_interval(Some(Duration::from_secs(30)))
                .add_routes(routes)
                .serve_with_incoming_shutdown(incoming, async move {
                    soft.cancelled().await;
                    not_serving(&health).await;
                })
                .await
                .context("the api stopped")
        });
    }

    async fn routes(
        &self,
        soft: &tokio_util::sync::CancellationToken,
    ) -> anyhow::Result<(HealthReporter, Routes)> {
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_service_status("", ServingStatus::Serving).await;
        health
            .set_serving::<IdentityServiceServer<Identities>>()
            .await;
        health.set_serving::<RenderServiceServer<Renders>>().await;
        health.set_serving::<SliderServiceServer<Sliders>>().await;
        health.set_serving::<AdminServiceServer<Admin>>().await;
        // Clients from before gRPC 1.57, and several later ones, know the older reflection only.
        let reflected = reflection().build_v1().context("reflection v1")?;
        let reflected_older = reflection().build_v1alpha().context("reflection v1alpha")?;
        let identities = Identities {
            app: self.app.clone(),
            drain: soft.clone(),
        };
        let renders = Renders {
            app: self.app.clone(),
            drain: soft.clone(),
        };
        let routes = Routes::new(health_service)
            .add_service(reflected)
            .add_service(reflected_older)
            .add_service(
                IdentityServiceServer::new(identities).max_decoding_message_size(MAX_MESSAGE),
            )
            .add_service(RenderServiceServer::new(renders).max_decoding_message_size(MAX_MESSAGE))
            .add_service(SliderServiceServer::new(Sliders {
                app: self.app.clone(),
            }))
            .add_service(AdminServiceServer::new(Admin {
                app: self.app.clone(),
            }));
        Ok((health, routes))
    }
}

/// What reflection tells of.
fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

async fn not_serving(health: &HealthReporter) {
    health
        .set_service_status("", ServingStatus::NotServing)
        .await;
    health
        .set_not_serving::<IdentityServiceServer<Identities>>()
        .await;
    health
        .set_not_serving::<RenderServiceServer<Renders>>()
        .await;
    health
        .set_not_serving::<SliderServiceServer<Sliders>>()
        .await;
    health.set_not_serving::<AdminServiceServer<Admin>>().await;
    tokio::time::sleep(NOT_SERVING_NOTICE).await;
}
