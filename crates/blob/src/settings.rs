//! Which storage, and how it is spoken to.

use std::{fmt, time::Duration};

use aws_sdk_s3::{
    Client, Config,
    config::{
        BehaviorVersion, Credentials, Region, RequestChecksumCalculation,
        ResponseChecksumValidation, retry::RetryConfig, timeout::TimeoutConfig,
    },
};
use aws_smithy_http_client::{
    Builder,
    tls::{Provider, rustls_provider::CryptoMode},
};
use clap::Args;
use url::Url;

use crate::error::BlobError;

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one try may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_mins(1);
/// How often a request is tried.
const ATTEMPTS: u32 = 4;

/// Which S3 storage. `Debug` hides the keys.
#[derive(Args, Clone)]
pub struct BlobArgs {
    /// The storage's URL; by default AWS's own of the region.
    #[arg(long, env = "LIKENESS_S3_ENDPOINT", value_name = "URL")]
    pub s3_endpoint: Option<String>,
    /// The region's name.
    #[arg(
        long,
        env = "LIKENESS_S3_REGION",
        default_value = "us-east-1",
        value_name = "NAME"
    )]
    pub s3_region: String,
    /// The bucket.
    #[arg(
        long,
        env = "LIKENESS_S3_BUCKET",
        default_value = "likeness",
        value_name = "NAME"
    )]
    pub s3_bucket: String,
    /// The access key.
    #[arg(
        long,
        env = "LIKENESS_S3_ACCESS_KEY",
        hide_env_values = true,
        value_name = "KEY"
    )]
    pub s3_access_key: String,
    /// The secret key.
    #[arg(
        long,
        env = "LIKENESS_S3_SECRET_KEY",
        hide_env_values = true,
        value_name = "SECRET"
    )]
    pub s3_secret_key: String,
    /// Whether the bucket is named in the path (as every storage takes it) rather than in the host.
    #[arg(
        long,
        env = "LIKENESS_S3_PATH_STYLE",
        default_value_t = true,
        action = clap::ArgAction::Set,
        value_name = "BOOL"
    )]
    pub s3_path_style: bool,
    /// The storage's URL as clients and workers see it, for the links that they get; by default the endpoint.
    #[arg(long, env = "LIKENESS_S3_PUBLIC_ENDPOINT", value_name = "URL")]
    pub s3_public_endpoint: Option<String>,
}

impl BlobArgs {
    /// The settings of a client for direct use.
    pub(crate) fn client(&self) -> Result<Client, BlobError> {
        self.client_at(self.s3_endpoint.as_deref())
    }

    /// The settings of a client that only signs links.
    pub(crate) fn signer(&self) -> Result<Client, BlobError> {
        self.client_at(
            self.s3_public_endpoint
                .as_deref()
                .or(self.s3_endpoint.as_deref()),
        )
    }

    fn client_at(&self, endpoint: Option<&str>) -> Result<Client, BlobError> {
        let tls = Provider::Rustls(CryptoMode::Ring);
        let mut config = Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(self.s3_region.clone()))
            .credentials_provider(self.credentials())
            .force_path_style(self.s3_path_style)
            .http_client(Builder::new().tls_provider(tls).build_https())
            .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS))
            .timeout_config(timeouts())
            // Bodies are signed with their SHA-256; other storages lack the newer checksums.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        if let Some(endpoint) = endpoint {
            config = config.endpoint_url(checked(endpoint)?);
        }
        Ok(Client::from_conf(config.build()))
    }

    fn credentials(&self) -> Credentials {
        Credentials::builder()
            .access_key_id(&self.s3_access_key)
            .secret_access_key(&self.s3_secret_key)
            .provider_name("likeness")
            .build()
    }
}

impl fmt::Debug for BlobArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobArgs")
            .field("s3_endpoint", &self.s3_endpoint)
            .field("s3_region", &self.s3_region)
            .field("s3_bucket", &self.s3_bucket)
            .field("s3_path_style", &self.s3_path_style)
            .field("s3_public_endpoint", &self.s3_public_endpoint)
            .finish_non_exhaustive()
    }
}

fn timeouts() -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_attempt_timeout(ATTEMPT_TIMEOUT)
        .build()
}

/// A path gets a slash at its end, since the S3 client joins the bucket right to it.
fn checked(endpoint: &str) -> Result<String, BlobError> {
    let url = Url::parse(endpoint).map_err(|_| BlobError::Endpoint)?;
    let is_plain = url.username().is_empty() && url.query().is_none() && url.fragment().is_none();
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() || !is_plain {
        return Err(BlobError::Endpoint);
    }
    let bare = endpoint.trim_end_matches('/');
    Ok(if url.path() == "/" {
        bare.to_owned()
    } else {
        format!("{bare}/")
    })
}
