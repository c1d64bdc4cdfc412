//! SliderService: in the contract, not built yet.

use likeness_domain::Error;
use likeness_wire::v1::{self, slider_service_server::SliderService};
use tonic::{Request, Response, Status};

use crate::reply::refuse;

/// Refuses every call as UNIMPLEMENTED.
pub struct Sliders;

fn unbuilt<T>() -> Result<Response<T>, Status> {
    Err(refuse(Error::unimplemented("SliderService")))
}

#[tonic::async_trait]
impl SliderService for Sliders {
    async fn create_slider(
        &self,
        _: Request<v1::CreateSliderRequest>,
    ) -> Result<Response<v1::CreateSliderResponse>, Status> {
        unbuilt()
    }

    async fn get_slider(
        &self,
        _: Request<v1::GetSliderRequest>,
    ) -> Result<Response<v1::GetSliderResponse>, Status> {
        unbuilt()
    }

    async fn list_sliders(
        &self,
        _: Request<v1::ListSlidersRequest>,
    ) -> Result<Response<v1::ListSlidersResponse>, Status> {
        unbuilt()
    }

    async fn delete_slider(
        &self,
        _: Request<v1::DeleteSliderRequest>,
    ) -> Result<Response<v1::DeleteSliderResponse>, Status> {
        unbuilt()
    }
}
