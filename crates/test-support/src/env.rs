//! The environment by which a test run shares one set of servers, and the one place where tests
//! read the environment.

use std::path::PathBuf;

use crate::objects::S3Access;

/// URL of a Postgres database whose role may create databases.
pub const POSTGRES_URL: &str = "LIKENESS_TEST_POSTGRES_URL";
/// URL of a nats-server with JetStream.
pub const NATS_URL: &str = "LIKENESS_TEST_NATS_URL";
/// Endpoint of an S3 server, `http://host:port`.
pub const S3_ENDPOINT: &str = "LIKENESS_TEST_S3_ENDPOINT";
/// Its access key.
pub const S3_ACCESS_KEY: &str = "LIKENESS_TEST_S3_ACCESS_KEY";
/// Its secret key.
pub const S3_SECRET_KEY: &str = "LIKENESS_TEST_S3_SECRET_KEY";
/// The built `likeness` program; where unset, tests that need it build it.
pub const BINARY: &str = "LIKENESS_TEST_BINARY";
/// A Python with the packages of the Python client example.
pub const PYTHON: &str = "LIKENESS_TEST_PYTHON";

/// Servers that run already.
pub(crate) struct Running {
    pub(crate) postgres_url: String,
    pub(crate) nats_url: String,
    pub(crate) s3: S3Access,
}

/// The servers that the environment names; `None` unless it names all of them.
pub(crate) fn running() -> Option<Running> {
    Some(Running {
        postgres_url: read(POSTGRES_URL)?,
        nats_url: read(NATS_URL)?,
        s3: S3Access {
            endpoint: read(S3_ENDPOINT)?,
            access_key: read(S3_ACCESS_KEY)?,
            secret_key: read(S3_SECRET_KEY)?,
        },
    })
}

/// The program that the test run has built.
pub(crate) fn binary() -> Option<PathBuf> {
    read(BINARY).map(PathBuf::from)
}

/// The Python for tests of the Python client example; without one they skip, and say so.
pub fn python() -> Option<PathBuf> {
    read(PYTHON).map(PathBuf::from)
}

#[allow(
    clippy::disallowed_methods,
    reason = "cargo gives tests no arguments, so a test run tells them its servers this way"
)]
fn read(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
