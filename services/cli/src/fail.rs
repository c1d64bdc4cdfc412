//! Failures as people see them: one line on stderr, with a hint, and an exit code.

use std::{fmt, process::ExitCode};

use likeness_wire::status::{describe, reason};
use tonic::{Code, Status};

/// Why a command failed.
pub struct Failure {
    message: String,
    code: u8,
}

impl Failure {
    /// A failure of the command.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            code: 1,
        }
    }

    /// A command that was called in a wrong way.
    pub fn usage(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            code: 2,
        }
    }

    /// Says it on stderr, in one line.
    #[allow(clippy::print_stderr, reason = "the command line's own output")]
    pub fn report(&self) -> ExitCode {
        eprintln!("error: {}", self.message.replace('\n', " "));
        ExitCode::from(self.code)
    }
}

/// A failure of whatever kind, in its own words.
pub fn failed(error: impl fmt::Display) -> Failure {
    Failure::new(error.to_string())
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let message = match reason(&status) {
            Some(reason) => format!("{} ({reason})", describe(&status)),
            None => format!("{} ({:?})", describe(&status), status.code()),
        };
        let hint = match status.code() {
            Code::Unauthenticated => {
                "; set LIKENESS_API_KEY, or LIKENESS_OPERATOR_KEY for operators"
            }
            Code::Unavailable if reason(&status).is_none() => "; is the api running there?",
            _ => "",
        };
        Self::new(format!("{message}{hint}"))
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(format!("{error:#}"))
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_shows_its_reason_and_what_to_do() {
        let error = likeness_domain::Error::not_found("identity", "x");
        let failure = Failure::from(likeness_wire::status::to_status(&error));
        assert_eq!(failure.to_string(), "no identity x (NOT_FOUND)");
        let failure = Failure::from(Status::unauthenticated("no key"));
        assert!(failure.to_string().contains("LIKENESS_API_KEY"));
    }
}
