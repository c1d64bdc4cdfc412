//! Results as gRPC answers: the one place where the front logs a fault.

use likeness_domain::{Error, ErrorKind};
use likeness_wire::status::to_status;
use tonic::{Response, Status};

/// A handler's result as an answer.
pub fn reply<T>(result: Result<T, Error>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(refuse)
}

/// An error as a status. Faults of the service are logged with their cause; a client's mistakes are not.
#[allow(clippy::needless_pass_by_value, reason = "made for map_err")]
pub fn refuse(error: Error) -> Status {
    match error.kind {
        ErrorKind::Internal => tracing::error!(?error, "a request failed"),
        ErrorKind::Unavailable => tracing::warn!(?error, "a request failed"),
        _ => tracing::debug!(reason = error.reason, "a request was refused"),
    }
    to_status(&error)
}
