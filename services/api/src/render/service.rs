//! The service's methods: who calls, then the handler.

use std::pin::Pin;

use futures::Stream;
use likeness_domain::TenantId;
use likeness_wire::v1::{self, render_service_server::RenderService};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{batch, create, renders, watch};
use crate::{
    app::App,
    auth::{self, Caller},
    reply::{refuse, reply},
};

/// RenderService.
pub struct Renders {
    /// What handlers work with.
    pub app: App,
    /// Ends watches, so that a drain does not wait for them.
    pub drain: CancellationToken,
}

impl Renders {
    async fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        auth::caller(&self.app, request.metadata())
            .await
            .map_err(refuse)
    }

    async fn tenant<T>(&self, request: &Request<T>) -> Result<TenantId, Status> {
        auth::tenant(&self.app, request.metadata())
            .await
            .map_err(refuse)
    }
}

#[tonic::async_trait]
impl RenderService for Renders {
    async fn create_render(
        &self,
        request: Request<v1::CreateRenderRequest>,
    ) -> Result<Response<v1::CreateRenderResponse>, Status> {
        let caller = self.caller(&request).await?;
        reply(create::create(&self.app, caller, request.into_inner()).await)
    }

    async fn batch_create_renders(
        &self,
        request: Request<v1::BatchCreateRendersRequest>,
    ) -> Result<Response<v1::BatchCreateRendersResponse>, Status> {
        let caller = self.caller(&request).await?;
        reply(batch::create(&self.app, caller, request.into_inner()).await)
    }

    async fn get_render(
        &self,
        request: Request<v1::GetRenderRequest>,
    ) -> Result<Response<v1::GetRenderResponse>, Status> {
        let tenant = self.tenant(&request).await?;
        reply(renders::get(&self.app, tenant, &request.into_inner()).await)
    }

    async fn list_renders(
        &self,
        request: Request<v1::ListRendersRequest>,
    ) -> Result<Response<v1::ListRendersResponse>, Status> {
        let tenant = self.tenant(&request).await?;
        reply(renders::list(&self.app, tenant, &request.into_inner()).await)
    }

    async fn cancel_render(
        &self,
        request: Request<v1::CancelRenderRequest>,
    ) -> Result<Response<v1::CancelRenderResponse>, Status> {
        let tenant = self.tenant(&request).await?;
        reply(renders::cancel(&self.app, tenant, &request.into_inner()).await)
    }

    type WatchRenderStream =
        Pin<Box<dyn Stream<Item = Result<v1::WatchRenderResponse, Status>> + Send>>;

    async fn watch_render(
        &self,
        request: Request<v1::WatchRenderRequest>,
    ) -> Result<Response<Self::WatchRenderStream>, Status> {
        let tenant = self.tenant(&request).await?;
        let request = request.into_inner();
        reply(watch::start(self.app.clone(), tenant, &request, self.drain.clone()).await)
    }

    async fn list_models(
        &self,
        request: Request<v1::ListModelsRequest>,
    ) -> Result<Response<v1::ListModelsResponse>, Status> {
        self.tenant(&request).await?;
        reply(renders::models(&self.app).await)
    }
}
