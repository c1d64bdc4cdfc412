//! Connections to the api.

use std::{future::Future, time::Duration};

use clap::Args;
use likeness_wire::v1::{
    admin_service_client::AdminServiceClient, identity_service_client::IdentityServiceClient,
    render_service_client::RenderServiceClient, slider_service_client::SliderServiceClient,
};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, ClientTlsConfig, Endpoint},
};

use crate::fail::Failure;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the api is.
#[derive(Args, Clone)]
pub struct EndpointArgs {
    /// The api's address.
    #[arg(
        long,
        env = "LIKENESS_ENDPOINT",
        default_value = "http://127.0.0.1:7400",
        value_name = "URL"
    )]
    pub endpoint: String,
}

/// A client's connection.
#[derive(Args, Clone)]
pub struct ClientArgs {
    #[command(flatten)]
    pub endpoint: EndpointArgs,
    /// The tenant's API key.
    #[arg(
        long,
        env = "LIKENESS_API_KEY",
        hide_env_values = true,
        value_name = "KEY"
    )]
    pub api_key: String,
}

/// An operator's connection.
#[derive(Args, Clone)]
pub struct OperatorArgs {
    #[command(flatten)]
    pub endpoint: EndpointArgs,
    /// The operator's key.
    #[arg(
        long,
        env = "LIKENESS_OPERATOR_KEY",
        hide_env_values = true,
        value_name = "KEY"
    )]
    pub operator_key: String,
}

/// Adds the key to each call.
#[derive(Clone)]
pub struct Bearer(MetadataValue<Ascii>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request
            .metadata_mut()
            .insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// A channel that carries a key.
pub type Keyed = InterceptedService<Channel, Bearer>;

impl ClientArgs {
    /// The identities' client.
    pub async fn identities(&self) -> Result<IdentityServiceClient<Keyed>, Failure> {
        Ok(IdentityServiceClient::new(
            keyed(&self.endpoint, &self.api_key).await?,
        ))
    }

    /// The sliders' client.
    pub async fn sliders(&self) -> Result<SliderServiceClient<Keyed>, Failure> {
        Ok(SliderServiceClient::new(
            keyed(&self.endpoint, &self.api_key).await?,
        ))
    }

    /// The renders' client.
    pub async fn renders(&self) -> Result<RenderServiceClient<Keyed>, Failure> {
        Ok(RenderServiceClient::new(
            keyed(&self.endpoint, &self.api_key).await?,
        ))
    }
}

impl OperatorArgs {
    /// The administration's client.
    pub async fn admin(&self) -> Result<AdminServiceClient<Keyed>, Failure> {
        Ok(AdminServiceClient::new(
            keyed(&self.endpoint, &self.operator_key).await?,
        ))
    }
}

async fn keyed(args: &EndpointArgs, key: &str) -> Result<Keyed, Failure> {
    let mut bearer: MetadataValue<Ascii> = format!("Bearer {key}")
        .parse()
        .map_err(|_| Failure::usage("the key has characters that no key has"))?;
    bearer.set_sensitive(true);
    Ok(InterceptedService::new(
        channel(&args.endpoint).await?,
        Bearer(bearer),
    ))
}

async fn channel(endpoint: &str) -> Result<Channel, Failure> {
    let bad = |error| {
        Failure::usage(format!(
            "{endpoint}: expected a URL like http://host:7400 ({error})"
        ))
    };
    let mut builder = Endpoint::from_shared(endpoint.to_owned())
        .map_err(bad)?
        .connect_timeout(CONNECT_TIMEOUT);
    if endpoint.starts_with("https://") {
        builder = builder
            .tls_config(ClientTlsConfig::new().with_webpki_roots())
            .map_err(bad)?;
    }
    builder.connect().await.map_err(|_| {
        Failure::new(format!(
            "cannot reach the api at {endpoint}; start one with `likeness dev`, or set LIKENESS_ENDPOINT"
        ))
    })
}

/// Runs a command's future to its end.
pub fn block_on(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(command)
}
