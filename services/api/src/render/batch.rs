//! Taking many renders in, all or none.

use std::collections::HashSet;

use likeness_domain::{Error, FieldViolation};
use likeness_wire::v1;

use super::{
    convert,
    create::{Member, take_in},
};
use crate::{
    app::App,
    auth::{self, Caller},
    events,
};

/// The most renders of one request.
const MOST: usize = 1000;

/// Takes renders in, or returns those that the same requests made before.
pub async fn create(
    app: &App,
    caller: Caller,
    request: v1::BatchCreateRendersRequest,
) -> Result<v1::BatchCreateRendersResponse, Error> {
    auth::check_parent(caller.tenant, &request.parent)?;
    let count = request.requests.len();
    if !(1..=MOST).contains(&count) {
        let expected = format!("expected 1 to {MOST} requests, found {count}");
        return Err(Error::invalid_field("requests", expected));
    }
    check_ids(&request.requests)?;
    let mut members = Vec::with_capacity(count);
    for (place, request) in request.requests.into_iter().enumerate() {
        let path = format!("requests[{place}]");
        let member = Member::new(app, caller, request, &path);
        members.push(member.map_err(|error| at(&path, error))?);
    }
    let rows = take_in(app, &members).await?;
    events::wake_dispatch(app).await;
    let mut renders = Vec::with_capacity(rows.len());
    for row in &rows {
        renders.push(convert::render(app, row).await?);
    }
    Ok(v1::BatchCreateRendersResponse { renders })
}

/// Refuses two requests under one id, and those that are to be checked only.
fn check_ids(requests: &[v1::CreateRenderRequest]) -> Result<(), Error> {
    let mut seen = HashSet::new();
    let mut violations = Vec::new();
    for (place, request) in requests.iter().enumerate() {
        let mut report = |field: &str, description: &str| {
            violations.push(FieldViolation {
                field: format!("requests[{place}].{field}"),
                description: description.to_owned(),
            });
        };
        if request.validate_only {
            report("validate_only", "expected it in CreateRender only");
        }
        if !request.request_id.is_empty() && !seen.insert(&request.request_id) {
            report("request_id", "expected an id of its own");
        }
    }
    if violations.is_empty() {
        Ok(())
    } else {
        Err(Error::invalid(violations))
    }
}

/// The same error, telling which of the requests it is about; `path` is empty for a single one.
pub fn at(path: &str, mut error: Error) -> Error {
    if path.is_empty() {
        return error;
    }
    error.message = format!("{path}: {}", error.message);
    for violation in &mut error.violations {
        violation.field = format!("{path}.{}", violation.field);
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(request_id: &str) -> v1::CreateRenderRequest {
        v1::CreateRenderRequest {
            request_id: request_id.to_owned(),
            ..Default::default()
        }
    }

    #[test]
    fn two_requests_under_one_id_are_refused() {
        assert!(check_ids(&[request(""), request(""), request("a"), request("b")]).is_ok());
        let error = check_ids(&[request("a"), request("b"), request("a")]).unwrap_err();
        assert_eq!(error.violations[0].field, "requests[2].request_id");
    }

    #[test]
    fn an_error_tells_which_request_it_is_about() {
        let error = Error::invalid_field("render.steps", "expected 1 to 150");
        let error = at("requests[7]", error);
        assert_eq!(error.violations[0].field, "requests[7].render.steps");
        assert!(error.message.starts_with("requests[7]: "));
    }
}
