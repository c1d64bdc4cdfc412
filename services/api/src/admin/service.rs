//! The service's methods: the operator's key, then the handler.

use likeness_domain::Error;
use likeness_wire::v1::{self, admin_service_server::AdminService};
use tonic::{Request, Response, Status};

use super::{keys, queue, tenants};
use crate::{
    app::App,
    auth,
    reply::{refuse, reply},
};

/// AdminService.
pub struct Admin {
    /// What handlers work with.
    pub app: App,
}

impl Admin {
    #[allow(clippy::result_large_err, reason = "tonic's own error type")]
    fn authorize<T>(&self, request: &Request<T>) -> Result<(), Status> {
        auth::operator(&self.app, request.metadata()).map_err(refuse)
    }

    /// For methods that are in the contract but not built yet.
    #[allow(clippy::result_large_err, reason = "tonic's own error type")]
    fn unbuilt<T, R>(&self, request: &Request<T>, method: &str) -> Result<Response<R>, Status> {
        self.authorize(request)?;
        Err(refuse(Error::unimplemented(method)))
    }
}

#[tonic::async_trait]
impl AdminService for Admin {
    async fn create_tenant(
        &self,
        request: Request<v1::CreateTenantRequest>,
    ) -> Result<Response<v1::CreateTenantResponse>, Status> {
        self.authorize(&request)?;
        reply(tenants::create(&self.app, request.into_inner()).await)
    }

    async fn get_tenant(
        &self,
        request: Request<v1::GetTenantRequest>,
    ) -> Result<Response<v1::GetTenantResponse>, Status> {
        self.authorize(&request)?;
        reply(tenants::get(&self.app, &request.into_inner()).await)
    }

    async fn list_tenants(
        &self,
        request: Request<v1::ListTenantsRequest>,
    ) -> Result<Response<v1::ListTenantsResponse>, Status> {
        self.authorize(&request)?;
        reply(tenants::list(&self.app, &request.into_inner()).await)
    }

    async fn update_tenant(
        &self,
        request: Request<v1::UpdateTenantRequest>,
    ) -> Result<Response<v1::UpdateTenantResponse>, Status> {
        self.authorize(&request)?;
        reply(tenants::update(&self.app, &request.into_inner()).await)
    }

    async fn delete_tenant(
        &self,
        request: Request<v1::DeleteTenantRequest>,
    ) -> Result<Response<v1::DeleteTenantResponse>, Status> {
        self.authorize(&request)?;
        reply(tenants::delete(&self.app, &request.into_inner()).await)
    }

    async fn create_api_key(
        &self,
        request: Request<v1::CreateApiKeyRequest>,
    ) -> Result<Response<v1::CreateApiKeyResponse>, Status> {
        self.authorize(&request)?;
        reply(keys::create(&self.app, request.into_inner()).await)
    }

    async fn list_api_keys(
        &self,
        request: Request<v1::ListApiKeysRequest>,
    ) -> Result<Response<v1::ListApiKeysResponse>, Status> {
        self.authorize(&request)?;
        reply(keys::list(&self.app, &request.into_inner()).await)
    }

    async fn revoke_api_key(
        &self,
        request: Request<v1::RevokeApiKeyRequest>,
    ) -> Result<Response<v1::RevokeApiKeyResponse>, Status> {
        self.authorize(&request)?;
        reply(keys::revoke(&self.app, &request.into_inner()).await)
    }

    async fn list_workers(
        &self,
        request: Request<v1::ListWorkersRequest>,
    ) -> Result<Response<v1::ListWorkersResponse>, Status> {
        self.authorize(&request)?;
        reply(queue::workers(&self.app, &request.into_inner()).await)
    }

    async fn drain_worker(
        &self,
        request: Request<v1::DrainWorkerRequest>,
    ) -> Result<Response<v1::DrainWorkerResponse>, Status> {
        self.authorize(&request)?;
        reply(queue::drain(&self.app, &request.into_inner()).await)
    }

    async fn get_queue_stats(
        &self,
        request: Request<v1::GetQueueStatsRequest>,
    ) -> Result<Response<v1::GetQueueStatsResponse>, Status> {
        self.authorize(&request)?;
        reply(queue::stats(&self.app).await)
    }

    async fn pause_pool(
        &self,
        request: Request<v1::PausePoolRequest>,
    ) -> Result<Response<v1::PausePoolResponse>, Status> {
        self.authorize(&request)?;
        reply(queue::pause(&self.app, &request.into_inner()).await)
    }

    async fn list_dead_renders(
        &self,
        request: Request<v1::ListDeadRendersRequest>,
    ) -> Result<Response<v1::ListDeadRendersResponse>, Status> {
        self.authorize(&request)?;
        reply(queue::dead(&self.app, &request.into_inner()).await)
    }

    async fn requeue_renders(
        &self,
        request: Request<v1::RequeueRendersRequest>,
    ) -> Result<Response<v1::RequeueRendersResponse>, Status> {
        self.authorize(&request)?;
        reply(queue::requeue(&self.app, &request.into_inner()).await)
    }

    async fn list_audit_events(
        &self,
        request: Request<v1::ListAuditEventsRequest>,
    ) -> Result<Response<v1::ListAuditEventsResponse>, Status> {
        self.unbuilt(&request, "ListAuditEvents")
    }

    async fn get_usage(
        &self,
        request: Request<v1::GetUsageRequest>,
    ) -> Result<Response<v1::GetUsageResponse>, Status> {
        self.authorize(&request)?;
        reply(queue::usage(&self.app, &request.into_inner()).await)
    }
}
