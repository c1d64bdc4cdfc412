//! The service's methods: who calls, then the handler.

use std::pin::Pin;

use futures::Stream;
use likeness_wire::v1::{self, identity_service_server::IdentityService};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{identities, photos, upload, watch};
use crate::{
    app::App,
    auth,
    reply::{refuse, reply},
};

/// IdentityService.
pub struct Identities {
    /// What handlers work with.
    pub app: App,
    /// Ends watches, so that a drain does not wait for them.
    pub drain: CancellationToken,
}

impl Identities {
    async fn tenant<T>(&self, request: &Request<T>) -> Result<likeness_domain::TenantId, Status> {
        auth::tenant(&self.app, request.metadata())
            .await
            .map_err(refuse)
    }
}

#[tonic::async_trait]
impl IdentityService for Identities {
    async fn create_identity(
        &self,
        request: Request<v1::CreateIdentityRequest>,
    ) -> Result<Response<v1::CreateIdentityResponse>, Status> {
        let tenant = self.tenant(&request).await?;
        reply(identities::create(&self.app, tenant, request.into_inner()).await)
    }

    async fn get_identity(
        &self,
        request: Request<v1::GetIdentityRequest>,
    ) -> Result<Response<v1::GetIdentityResponse>, Status> {
        let tenant = self.tenant(&request).await?;
        reply(identities::get(&self.app, tenant, &request.into_inner()).await)
    }

    async fn list_identities(
        &self,
        request: Request<v1::ListIdentitiesRequest>,
    ) -> Result<Response<v1::ListIdentitiesResponse>, Status> {
        let tenant = self.tenant(&request).await?;
        reply(identities::list(&self.app, tenant, &request.into_inner()).await)
    }

    async fn update_identity(
        &self,
        request: Request<v1::UpdateIdentityRequest>,
    ) -> Result<Response<v1::UpdateIdentityResponse>, Status> {
        let tenant = self.tenant(&request).await?;
        reply(identities::update(&self.app, tenant, &request.into_inner()).await)
    }

    async fn delete_identity(
        &self,
        request: Request<v1::DeleteIdentityRequest>,
    ) -> Result<Response<v1::DeleteIdentityResponse>, Status> {
        let tenant = self.tenant(&request).await?;
        reply(identities::delete(&self.app, tenant, &request.into_inner()).await)
    }

    async fn add_photos(
        &self,
        request: Request<v1::AddPhotosRequest>,
    ) -> Result<Response<v1::AddPhotosResponse>, Status> {
        let tenant = self.tenant(&request).await?;
        reply(photos::add(&self.app, tenant, request.into_inner()).await)
    }

    async fn upload_photo(
        &self,
        request: Request<Streaming<v1::UploadPhotoRequest>>,
    ) -> Result<Response<v1::UploadPhotoResponse>, Status> {
        let tenant = self.tenant(&request).await?;
        let (header, bytes) = upload::receive(&self.app, request.into_inner()).await?;
        reply(upload::add(&self.app, tenant, header, bytes).await)
    }

    async fn get_photo(
        &self,
        request: Request<v1::GetPhotoRequest>,
    ) -> Result<Response<v1::GetPhotoResponse>, Status> {
        let tenant = self.tenant(&request).await?;
        reply(photos::get(&self.app, tenant, &request.into_inner()).await)
    }

    async fn list_photos(
        &self,
        request: Request<v1::ListPhotosRequest>,
    ) -> Result<Response<v1::ListPhotosResponse>, Status> {
        let tenant = self.tenant(&request).await?;
        reply(photos::list(&self.app, tenant, &request.into_inner()).await)
    }

    async fn delete_photo(
        &self,
        request: Request<v1::DeletePhotoRequest>,
    ) -> Result<Response<v1::DeletePhotoResponse>, Status> {
        let tenant = self.tenant(&request).await?;
        reply(photos::delete(&self.app, tenant, &request.into_inner()).await)
    }

    type WatchIdentityStream =
        Pin<Box<dyn Stream<Item = Result<v1::WatchIdentityResponse, Status>> + Send>>;

    async fn watch_identity(
        &self,
        request: Request<v1::WatchIdentityRequest>,
    ) -> Result<Response<Self::WatchIdentityStream>, Status> {
        let tenant = self.tenant(&request).await?;
        let name = request.into_inner().name;
        reply(watch::start(self.app.clone(), tenant, &name, self.drain.clone()).await)
    }

    async fn export_lora(
        &self,
        request: Request<v1::ExportLoraRequest>,
    ) -> Result<Response<v1::ExportLoraResponse>, Status> {
        self.tenant(&request).await?;
        Err(refuse(likeness_domain::Error::unimplemented("ExportLora")))
    }

    async fn get_lora_export(
        &self,
        request: Request<v1::GetLoraExportRequest>,
    ) -> Result<Response<v1::GetLoraExportResponse>, Status> {
        self.tenant(&request).await?;
        Err(refuse(likeness_domain::Error::unimplemented(
            "GetLoraExport",
        )))
    }
}
