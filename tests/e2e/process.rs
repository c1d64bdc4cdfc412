//! Real processes of the `likeness` program, to be killed.

use std::{
    net::{SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
};

use anyhow::Result;
use likeness_test_support::likeness_binary;

use crate::stage::{OPERATOR_KEY, SEALING_KEYS, Settings, pocket};

/// A service in a process of its own; dropping it kills it.
pub struct Process(Child);

impl Process {
    /// Starts a service with every setting in its environment.
    pub fn start(
        service: &str,
        settings: &Settings,
        listen: SocketAddr,
        lease_seconds: u32,
    ) -> Result<Self> {
        let blob = &settings.blob;
        let child = Command::new(likeness_binary())
            .arg(service)
            .env("LIKENESS_LOG", "warn")
            .env("LIKENESS_API_LISTEN", listen.to_string())
            .env("LIKENESS_DATABASE_URL", &settings.database_url)
            .env("LIKENESS_NATS_URL", &settings.queue.nats_url)
            .env(
                "LIKENESS_NATS_NAMESPACE",
                settings.queue.nats_namespace.as_str(),
            )
            .env(
                "LIKENESS_S3_ENDPOINT",
                blob.s3_endpoint.as_deref().unwrap_or_default(),
            )
            .env("LIKENESS_S3_BUCKET", &blob.s3_bucket)
            .env("LIKENESS_S3_ACCESS_KEY", &blob.s3_access_key)
            .env("LIKENESS_S3_SECRET_KEY", &blob.s3_secret_key)
            .env("LIKENESS_OPERATOR_KEY", OPERATOR_KEY)
            .env("LIKENESS_SEALING_KEYS", SEALING_KEYS)
            .env("LIKENESS_BUNDLE", pocket())
            .env("LIKENESS_LEASE_SECONDS", lease_seconds.to_string())
            .stdin(Stdio::null())
            .spawn()?;
        Ok(Self(child))
    }

    /// SIGKILL: it can clean up nothing.
    pub fn kill(&mut self) -> Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// An address that is free now.
pub fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
