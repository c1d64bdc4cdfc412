//! One error for every service: what kind, a reason for programs, a message for people.
//!
//! It knows no transport; `likeness-wire` turns it into a gRPC status. The cause is for the service's own log and
//! never leaves the process.

use std::{error::Error as StdError, fmt, time::Duration};

/// What kind of failure, each one gRPC code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request is wrong whatever the state of the service.
    InvalidArgument,
    /// No valid key came with the request.
    Unauthenticated,
    /// The key may not do this.
    PermissionDenied,
    /// No such resource, or another tenant's.
    NotFound,
    /// There is one already.
    AlreadyExists,
    /// The resource's state does not allow it.
    FailedPrecondition,
    /// The resource changed since the client saw it.
    Aborted,
    /// A quota is used up.
    ResourceExhausted,
    /// Not built yet.
    Unimplemented,
    /// A part of the service is away; try again.
    Unavailable,
    /// A fault of the service.
    Internal,
}

/// One field of a request that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldViolation {
    /// The field's path, as `render.steps`.
    pub field: String,
    /// What was expected.
    pub description: String,
}

/// A failure that a client is told of.
pub struct Error {
    /// Which kind.
    pub kind: ErrorKind,
    /// UPPER_SNAKE, stable, for programs.
    pub reason: &'static str,
    /// For people; nothing personal in it.
    pub message: String,
    /// Which fields are wrong.
    pub violations: Vec<FieldViolation>,
    /// When to try again.
    pub retry_after: Option<Duration>,
    cause: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error with a reason and a message.
    pub fn new(kind: ErrorKind, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            kind,
            reason,
            message: message.into(),
            violations: Vec::new(),
            retry_after: None,
            cause: None,
        }
    }

    /// The same for another who is told of it, without its cause.
    #[must_use]
    pub fn told_again(&self) -> Self {
        Self {
            violations: self.violations.clone(),
            retry_after: self.retry_after,
            ..Self::new(self.kind, self.reason, self.message.clone())
        }
    }

    /// A request with wrong fields.
    pub fn invalid(violations: Vec<FieldViolation>) -> Self {
        let message = match violations.as_slice() {
            [one] => format!("{}: {}", one.field, one.description),
            many => format!("{} fields are wrong", many.len()),
        };
        Self {
            violations,
            ..Self::new(ErrorKind::InvalidArgument, "INVALID_FIELD", message)
        }
    }

    /// A request with one wrong field.
    pub fn invalid_field(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self::invalid(vec![FieldViolation {
            field: field.into(),
            description: description.into(),
        }])
    }

    /// No such resource for this tenant.
    pub fn not_found(what: &'static str, name: impl fmt::Display) -> Self {
        Self::new(
            ErrorKind::NotFound,
            "NOT_FOUND",
            format!("no {what} {name}"),
        )
    }

    /// The resource changed since the client saw it.
    pub fn etag_mismatch(what: &'static str) -> Self {
        let message = format!("the {what} has changed since; read it again and repeat");
        Self::new(ErrorKind::Aborted, "ETAG_MISMATCH", message)
    }

    /// A part of the contract that is not built yet.
    pub fn unimplemented(what: &str) -> Self {
        Self::new(
            ErrorKind::Unimplemented,
            "NOT_BUILT_YET",
            format!("{what} is not built yet"),
        )
    }

    /// A part of the service that is away for the moment.
    pub fn unavailable(
        part: &'static str,
        cause: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self {
            retry_after: Some(Duration::from_secs(1)),
            cause: Some(cause.into()),
            ..Self::new(
                ErrorKind::Unavailable,
                "PART_AWAY",
                format!("{part} cannot be reached; try again"),
            )
        }
    }

    /// A fault of the service; the cause is only for its log.
    pub fn internal(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self {
            cause: Some(cause.into()),
            ..Self::new(
                ErrorKind::Internal,
                "INTERNAL",
                "an internal fault; it has been logged",
            )
        }
    }

    /// The same error with a time to try again.
    #[must_use]
    pub fn retry_after(self, delay: Duration) -> Self {
        Self {
            retry_after: Some(delay),
            ..self
        }
    }

    /// Whether the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self.kind,
            ErrorKind::Unavailable | ErrorKind::ResourceExhausted
        )
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.kind)
            .field("reason", &self.reason)
            .field("message", &self.message)
            .field("violations", &self.violations)
            .field("cause", &self.cause.as_ref().map(ToString::to_string))
            .finish_non_exhaustive()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.cause.as_deref().map(|cause| cause as _)
    }
}
