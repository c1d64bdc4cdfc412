//! A bucket per test.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use futures::{StreamExt as _, TryStreamExt as _, stream};

/// How to reach an S3 server, path-style.
#[derive(Clone)]
pub struct S3Access {
    /// `http://host:port`.
    pub endpoint: String,
    /// The public half of the credentials.
    pub access_key: String,
    /// The secret half.
    pub secret_key: String,
}

impl S3Access {
    /// The region to sign for; the server takes any.
    pub const REGION: &'static str = "us-east-1";

    /// A client of this server.
    pub fn client(&self) -> Client {
        let http = Builder::new()
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .build_https();
        let own = Credentials::new(&self.access_key, &self.secret_key, None, None, "tests");
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(Self::REGION))
            .endpoint_url(&self.endpoint)
            .credentials_provider(own)
            .http_client(http)
            .force_path_style(true)
            .build();
        Client::from_conf(config)
    }
}

impl fmt::Debug for S3Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Access")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

pub(crate) async fn create(client: &Client, bucket: &str) -> Result<()> {
    let create = client.create_bucket().bucket(bucket).send().await;
    create.with_context(|| format!("cannot create the bucket {bucket}"))?;
    Ok(())
}

/// Requests under way at a time: a bucket of a fault run holds ten thousand objects.
const AT_ONCE: usize = 16;

async fn keys(client: &Client, bucket: &str) -> Result<Vec<String>> {
    let mut pages = client
        .list_objects_v2()
        .bucket(bucket)
        .into_paginator()
        .send();
    let mut keys = Vec::new();
    while let Some(page) = pages.next().await {
        let page = page?;
        let named = page.contents().iter().filter_map(|object| object.key());
        keys.extend(named.map(str::to_owned));
    }
    Ok(keys)
}

/// The keys and contents of everything in the bucket.
pub(crate) async fn all(client: &Client, bucket: &str) -> Result<BTreeMap<String, Vec<u8>>> {
    let read = |key: String| async move {
        let object = client.get_object().bucket(bucket).key(&key).send().await?;
        let bytes = object.body.collect().await?.into_bytes().to_vec();
        anyhow::Ok((key, bytes))
    };
    stream::iter(keys(client, bucket).await?)
        .map(read)
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}

/// Removes the bucket with everything in it.
pub(crate) async fn remove(client: &Client, bucket: &str) -> Result<()> {
    let delete = |key: String| async move {
        let delete = client.delete_object().bucket(bucket).key(key);
        delete.send().await.map(drop)
    };
    stream::iter(keys(client, bucket).await?)
        .map(delete)
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>()
        .await?;
    client.delete_bucket().bucket(bucket).send().await?;
    Ok(())
}
