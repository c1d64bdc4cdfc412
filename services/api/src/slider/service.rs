//! The service's methods: who calls, then the handler.

use likeness_domain::TenantId;
use likeness_wire::v1::{self, slider_service_server::SliderService};
use tonic::{Request, Response, Status};

use super::sliders;
use crate::{
    app::App,
    auth,
    reply::{refuse, reply},
};

/// SliderService.
pub struct Sliders {
    /// What handlers work with.
    pub app: App,
}

impl Sliders {
    async fn tenant<T>(&self, request: &Request<T>) -> Result<TenantId, Status> {
        auth::tenant(&self.app, request.metadata())
            .await
            .map_err(refuse)
    }
}

#[tonic::async_trait]
impl SliderService for Sliders {
    async fn create_slider(
        &self,
        request: Request<v1::CreateSliderRequest>,
    ) -> Result<Response<v1::CreateSliderResponse>, Status> {
        let tenant = self.tenant(&request).await?;
        reply(sliders::create(&self.app, tenant, request.into_inner()).await)
    }

    async fn get_slider(
        &self,
        request: Request<v1::GetSliderRequest>,
    ) -> Result<Response<v1::GetSliderResponse>, Status> {
        let tenant = self.tenant(&request).await?;
        reply(sliders::get(&self.app, tenant, &request.into_inner()).await)
    }

    async fn list_sliders(
        &self,
        request: Request<v1::ListSlidersRequest>,
    ) -> Result<Response<v1::ListSlidersResponse>, Status> {
        let tenant = self.tenant(&request).await?;
        reply(sliders::list(&self.app, tenant, &request.into_inner()).await)
    }

    async fn delete_slider(
        &self,
        request: Request<v1::DeleteSliderRequest>,
    ) -> Result<Response<v1::DeleteSliderResponse>, Status> {
        let tenant = self.tenant(&request).await?;
        reply(sliders::delete(&self.app, tenant, &request.into_inner()).await)
    }
}
