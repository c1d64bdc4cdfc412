//! What goes wrong in the database, in the domain's words.

use std::fmt;

use likeness_domain::{Error, ErrorKind};

/// What Postgres said, without the values that its detail carries.
#[derive(Debug, thiserror::Error)]
#[error("Postgres refused a statement with {code} on {table} ({constraint}): {message}")]
struct Refused {
    code: String,
    table: String,
    constraint: String,
    message: String,
}

/// A row that the registry cannot have written.
#[derive(Debug, thiserror::Error)]
#[error("table {table}, row {row}: column {column} holds what its readers do not know")]
struct CorruptRow {
    table: &'static str,
    column: &'static str,
    row: String,
}

/// Turns a failure of the database into the domain's error: what may pass by itself is `Unavailable`, a text that no
/// column can hold is `InvalidArgument`, everything else is a fault of the service.
pub fn database(error: sqlx::Error) -> Error {
    use sqlx::Error::{BeginFailed, Database, Io, PoolClosed, PoolTimedOut, Tls, WorkerCrashed};
    match error {
        Database(refusal) => refused(&*refusal),
        Io(_) | Tls(_) | PoolTimedOut | PoolClosed | WorkerCrashed | BeginFailed => {
            Error::unavailable("the database", error)
        }
        other => Error::internal(other),
    }
}

fn refused(refusal: &dyn sqlx::error::DatabaseError) -> Error {
    let text = |part: Option<&str>| part.unwrap_or("-").to_owned();
    let code = refusal.code().unwrap_or_default().into_owned();
    let passing = passes(&code);
    let untranslatable = code == "22021";
    let cause = Refused {
        code,
        table: text(refusal.table()),
        constraint: text(refusal.constraint()),
        message: refusal.message().to_owned(),
    };
    if untranslatable {
        let message = "a text holds a NUL character; leave it out";
        return Error::new(ErrorKind::InvalidArgument, "INVALID_TEXT", message);
    }
    if passing {
        Error::unavailable("the database", cause)
    } else {
        Error::internal(cause)
    }
}

/// Whether a failure with this SQLSTATE passes by itself: the connection (08), a deadlock or a lost race (40), full
/// (53), a lock held too long (55P03), a cancelled statement or a server that stops or starts (57).
fn passes(code: &str) -> bool {
    code == "55P03"
        || ["08", "40", "53", "57"]
            .iter()
            .any(|class| code.starts_with(class))
}

/// An error for a row whose `column` no code of this version could have written.
pub fn corrupt(table: &'static str, column: &'static str, row: impl fmt::Display) -> Error {
    Error::internal(CorruptRow {
        table,
        column,
        row: row.to_string(),
    })
}

/// Whether a statement broke this unique or foreign-key constraint.
pub fn breaks(error: &sqlx::Error, constraint: &str) -> bool {
    error
        .as_database_error()
        .and_then(|refusal| refusal.constraint())
        == Some(constraint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_unavailable_and_the_rest_a_fault() {
        assert_eq!(
            database(sqlx::Error::PoolTimedOut).kind,
            ErrorKind::Unavailable
        );
        assert_eq!(database(sqlx::Error::RowNotFound).kind, ErrorKind::Internal);
        for code in ["08006", "40001", "40P01", "53300", "55P03", "57P01"] {
            assert!(passes(code), "{code}");
        }
        for code in ["23505", "22021", "42601", "55006"] {
            assert!(!passes(code), "{code}");
        }
    }

    #[test]
    fn a_corrupt_row_is_named_for_the_log_alone() {
        let error = corrupt("photos", "state", 7);
        assert_eq!(error.kind, ErrorKind::Internal);
        assert!(!error.to_string().contains("photos"));
        assert!(format!("{error:?}").contains("table photos, row 7: column state"));
    }
}
