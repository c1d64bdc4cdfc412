//! `likeness dev`: every service in this process, with a private Postgres, NATS and S3.

use std::{
    fs,
    io::Write as _,
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::Args;
use likeness_api::{ApiArgs, Server};
use likeness_blob::{Blob, BlobArgs};
use likeness_bundle::pocket;
use likeness_dispatch::{Dispatch, DispatchArgs};
use likeness_enroll::{Enroll, EnrollArgs};
use likeness_local_stack::{Fsync, Stack, tools::Tools};
use likeness_queue::{Namespace, Queue, QueueArgs};
use likeness_render::{ComputeArgs, Render, RenderArgs};
use likeness_runtime::{Lifecycle, RuntimeArgs};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

use crate::{fail::Failure, output};

const BUCKET: &str = "likeness";

/// Where `likeness dev` keeps its things.
#[derive(Args)]
pub struct DevArgs {
    #[command(flatten)]
    runtime: RuntimeArgs,
    /// Data of the private servers; kept between runs.
    #[arg(
        long,
        env = "LIKENESS_DEV_DIR",
        default_value = "likeness-dev",
        value_name = "DIR"
    )]
    dir: PathBuf,
    /// The bundle to serve; by default the trained pocket bundle, which the program carries.
    #[arg(long, env = "LIKENESS_BUNDLE", value_name = "DIR")]
    bundle: Option<PathBuf>,
    /// Where the api listens; port 0 takes a free one.
    #[arg(long, env = "LIKENESS_API_LISTEN", default_value = "127.0.0.1:7400")]
    listen: SocketAddr,
    /// Where fetched server programs are kept; by default below the data.
    #[arg(long, env = "LIKENESS_TOOLS_DIR", value_name = "DIR")]
    tools_dir: Option<PathBuf>,
    /// Where the render worker computes.
    #[command(flatten)]
    compute: ComputeArgs,
    /// Written once everything serves: the endpoint and the operator's key as JSON.
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
}

/// How to reach a running `likeness dev`.
#[derive(Serialize)]
struct Ready {
    endpoint: String,
    operator_key: String,
}

/// The keys that must stay the same between runs on the same data.
#[derive(Serialize, Deserialize)]
struct Secrets {
    operator_key: String,
    sealing_keys: String,
}

/// Runs everything until a signal.
pub fn dev(args: &DevArgs) -> Result<(), Failure> {
    fs::create_dir_all(&args.dir)
        .with_context(|| format!("cannot create {}", args.dir.display()))?;
    let secrets = secrets(&args.dir.join("secrets.json"))?;
    let bundle = bundle(args)?;
    let tools_dir = args
        .tools_dir
        .clone()
        .unwrap_or_else(|| args.dir.join("tools"));
    let tools = Tools::find_or_fetch(&tools_dir)?;
    let stack = Stack::start(&args.dir, &tools, Fsync::On)?;
    for note in stack.postgres.notes() {
        output::line(note)?;
    }
    let runtime = args.runtime.clone();
    // The servers are ended after the services, whatever happened.
    let (secrets, stack) = (&secrets, &stack);
    Ok(likeness_runtime::main(&runtime, |lifecycle| async move {
        let ready = serve(args, secrets, stack, bundle, &lifecycle).await?;
        announce(args, &ready)
    })?)
}

fn bundle(args: &DevArgs) -> anyhow::Result<PathBuf> {
    if let Some(bundle) = &args.bundle {
        return Ok(bundle.clone());
    }
    // Named by its digest: what an earlier version of the program left here may be another one.
    let digest = pocket::trained_digest()?;
    let dir = args.dir.join(format!("pocket-{digest:.12}"));
    pocket::trained(&dir)?;
    Ok(dir)
}

async fn serve(
    args: &DevArgs,
    secrets: &Secrets,
    stack: &Stack,
    bundle: PathBuf,
    lifecycle: &Lifecycle,
) -> anyhow::Result<Ready> {
    let database_url = stack.postgres.url();
    let pool = likeness_registry::connect(&database_url, 1).await?;
    likeness_registry::migrate(&pool).await?;
    pool.close().await;
    let queue = QueueArgs::new(stack.nats.url(), Namespace::default());
    Queue::connect(&queue).await?.ensure_streams().await?;
    let blob = blob_args(stack);
    Blob::connect(&blob)?.ensure_bucket().await?;

    let dispatch = DispatchArgs {
        database_url: database_url.clone(),
        database_connections: 8,
        sealing_keys: secrets.sealing_keys.clone(),
        lease_seconds: 30,
        webhook_any_address: true,
        queue: queue.clone(),
        blob: blob.clone(),
    };
    // The workers report to it until their end.
    let dispatcher = lifecycle.outliving(&["render", "enroll", "hello"]);
    Dispatch::from_args(dispatch).await?.spawn(&dispatcher);
    let render = RenderArgs {
        bundle: bundle.clone(),
        max_batch: None,
        compute: args.compute,
        queue: queue.clone(),
    };
    // Each with a life of its own: an operator may drain one.
    Render::from_args(render).await?.spawn(&lifecycle.child());
    let enroll = EnrollArgs {
        database_url: database_url.clone(),
        sealing_keys: secrets.sealing_keys.clone(),
        bundle,
        queue: queue.clone(),
        blob: blob.clone(),
    };
    Enroll::from_args(enroll).await?.spawn(&lifecycle.child());
    let api = ApiArgs {
        listen: args.listen,
        database_url,
        database_connections: 8,
        operator_key: secrets.operator_key.clone(),
        webhook_any_address: true,
        queue,
        blob,
    };
    let server = Server::from_args(api).await?;
    let endpoint = format!("http://{}", server.address());
    server.spawn(lifecycle);
    Ok(Ready {
        endpoint,
        operator_key: secrets.operator_key.clone(),
    })
}

fn blob_args(stack: &Stack) -> BlobArgs {
    let credentials = stack.s3.credentials();
    BlobArgs {
        s3_endpoint: Some(stack.s3.endpoint()),
        s3_region: "us-east-1".to_owned(),
        s3_bucket: BUCKET.to_owned(),
        s3_access_key: credentials.access_key.clone(),
        s3_secret_key: credentials.secret_key.clone(),
        s3_path_style: true,
        s3_public_endpoint: None,
    }
}

fn announce(args: &DevArgs, ready: &Ready) -> anyhow::Result<()> {
    let text = format!(
        "likeness dev serves {}\n\nexport LIKENESS_ENDPOINT={}\nexport LIKENESS_OPERATOR_KEY={}\n\n\
         next: likeness tenants create \"My app\"; likeness keys create TENANT\nstop: Ctrl-C",
        ready.endpoint, ready.endpoint, ready.operator_key
    );
    match &args.ready_file {
        Some(file) => write_private(file, &serde_json::to_vec_pretty(ready)?),
        None => output::line(&text).map_err(|failure| anyhow::anyhow!("{failure}")),
    }
}

fn secrets(path: &Path) -> anyhow::Result<Secrets> {
    if path.exists() {
        let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        return serde_json::from_slice(&text).with_context(|| {
            format!(
                "{} is not what `likeness dev` wrote; remove its folder to start anew",
                path.display()
            )
        });
    }
    let secrets = Secrets {
        operator_key: format!("op_{}", random_hex()?),
        sealing_keys: format!("dev:{}", random_base64()?),
    };
    write_private(path, &serde_json::to_vec_pretty(&secrets)?)?;
    Ok(secrets)
}

/// Writes a file that appears whole and that nobody else may read.
fn write_private(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let partial = path.with_extension("partial");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&partial)
        .with_context(|| format!("cannot write {}", partial.display()))?;
    file.write_all(bytes)?;
    fs::rename(&partial, path).with_context(|| format!("cannot write {}", path.display()))
}

fn random() -> anyhow::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| anyhow::anyhow!("the system gave no random numbers"))?;
    Ok(bytes)
}

fn random_hex() -> anyhow::Result<String> {
    Ok(random()?.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn random_base64() -> anyhow::Result<String> {
    use base64::Engine as _;
    Ok(base64::engine::general_purpose::STANDARD.encode(random()?))
}
