//! One test's own part of the servers.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

use anyhow::{Context, Result};
use async_nats::jetstream;
use futures::TryStreamExt;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use uuid::Uuid;

use crate::objects::S3Access;
use crate::servers::Servers;
use crate::{database, objects};

/// A fresh database, a NATS namespace and a bucket that no other test sees. Dropping it removes
/// them.
#[derive(Debug)]
pub struct TestContext {
    servers: Home,
    name: String,
    database_url: String,
    pool: PgPool,
    nats: async_nats::Client,
    bucket: String,
}

/// Whose servers they are.
#[derive(Debug, Clone)]
enum Home {
    Shared(&'static Servers),
    Own(Arc<Servers>),
}

impl Deref for Home {
    type Target = Servers;

    fn deref(&self) -> &Servers {
        match self {
            Self::Shared(servers) => servers,
            Self::Own(servers) => servers,
        }
    }
}

impl TestContext {
    /// Makes them, on [`Servers::shared`].
    ///
    /// # Errors
    /// When a server does not start or refuses.
    pub async fn new() -> Result<Self> {
        let servers = tokio::task::spawn_blocking(Servers::shared).await??;
        // Boxed: the clients' futures are large.
        Box::pin(Self::make(Home::Shared(servers))).await
    }

    /// Makes them on servers that a test has started for itself, to kill them.
    ///
    /// # Errors
    /// When a server refuses.
    pub async fn on(servers: Arc<Servers>) -> Result<Self> {
        Box::pin(Self::make(Home::Own(servers))).await
    }

    async fn make(servers: Home) -> Result<Self> {
        let name = format!("t_{}", Uuid::new_v4().simple());
        // Short: s3s-fs puts bucket and key, both in base64, into one file name of at most 255 bytes.
        let bucket = name.replace('_', "-")[..22].to_owned();
        let s3 = servers.s3().client();
        let (database_url, nats, ()) = tokio::try_join!(
            database::create(servers.postgres_url(), &name),
            connect_nats(servers.nats_url()),
            objects::create(&s3, &bucket),
        )?;
        let pool = PgPoolOptions::new()
            .max_connections(10)
            .connect(&database_url)
            .await?;
        Ok(Self {
            servers,
            name,
            database_url,
            pool,
            nats,
            bucket,
        })
    }

    /// Connections to this test's database, which holds the migrations and nothing else.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// The URL of this test's database.
    pub fn database_url(&self) -> &str {
        &self.database_url
    }

    /// A connection to the shared nats-server.
    pub fn nats(&self) -> &async_nats::Client {
        &self.nats
    }

    /// The URL of the shared nats-server.
    pub fn nats_url(&self) -> &str {
        self.servers.nats_url()
    }

    /// What this test's subjects, streams and KV buckets start with: `t_` and 32 hex digits.
    pub fn namespace(&self) -> &str {
        &self.name
    }

    /// How to reach the shared S3 server.
    pub fn s3(&self) -> &S3Access {
        self.servers.s3()
    }

    /// The name of this test's bucket.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// The keys and contents of all objects in the bucket.
    ///
    /// # Errors
    /// When the S3 server fails.
    pub async fn objects(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        objects::all(&self.s3().client(), &self.bucket).await
    }
}

impl Drop for TestContext {
    fn drop(&mut self) {
        let (servers, name) = (self.servers.clone(), self.name.clone());
        let bucket = self.bucket.clone();
        // The test's runtime may be single-threaded and is blocked here, so: another one. What
        // cannot be removed goes with the servers.
        let cleaner = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(remove(&servers, &name, &bucket))
        });
        let _ = cleaner.join();
    }
}

async fn connect_nats(url: &str) -> Result<async_nats::Client> {
    async_nats::connect(url)
        .await
        .context("cannot reach nats-server")
}

async fn remove(servers: &Servers, name: &str, bucket: &str) -> Result<()> {
    let s3 = servers.s3().client();
    let (database, streams, bucket) = tokio::join!(
        database::remove(servers.postgres_url(), name),
        remove_streams(servers.nats_url(), name),
        objects::remove(&s3, bucket),
    );
    database.and(streams).and(bucket)
}

/// Removes the streams, KV buckets among them, that carry the namespace in their name.
async fn remove_streams(url: &str, namespace: &str) -> Result<()> {
    let jetstream = jetstream::new(connect_nats(url).await?);
    let names: Vec<String> = jetstream.stream_names().try_collect().await?;
    for name in names
        .iter()
        .filter(|name| name.to_lowercase().contains(namespace))
    {
        jetstream.delete_stream(name).await?;
    }
    Ok(())
}
