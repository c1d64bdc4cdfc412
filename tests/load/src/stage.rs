//! One part's own database, processes and tenants.

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use likeness_domain::{
    bundle::{BundleSummary, RenderDefaults},
    render::{ImageFormat, RenderSpec, Scheduler},
};
use likeness_queue::{PoolName, Queue, QueueArgs};
use likeness_test_support::{Servers, TestContext, rows::Sort};
use tempfile::TempDir;

use crate::{client, client::Tenant, process::Process};

const OPERATOR_KEY: &str = "operator-key-of-a-measurement";
const SEALING_KEYS: &str = "test:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const PATIENCE: Duration = Duration::from_secs(30);

/// An api and a dispatcher on servers, with a database, a NATS namespace and a bucket of their own.
pub struct Stage {
    pub api: Process,
    pub dispatch: Process,
    pub endpoint: String,
    // Behind the processes, so that these end first.
    pub context: TestContext,
    _logs: TempDir,
}

impl Stage {
    pub async fn start(servers: &Arc<Servers>) -> Result<Self> {
        let context = TestContext::on(servers.clone()).await?;
        let logs = tempfile::Builder::new().prefix("load-").tempdir()?;
        let listen = free_address()?;
        let env = environment(&context);
        let args = [format!("--listen={listen}")];
        let api = Process::start("api", &args, &env, &logs.path().join("api.log"))?;
        let dispatch = Process::start("dispatch", &[], &env, &logs.path().join("dispatch.log"))?;
        let stage = Self {
            api,
            dispatch,
            endpoint: format!("http://{listen}"),
            context,
            _logs: logs,
        };
        stage.wait_for_api().await?;
        stage.announce_pool().await?;
        Ok(stage)
    }

    async fn wait_for_api(&self) -> Result<()> {
        tokio::time::timeout(PATIENCE, async {
            while self.tenant("first").await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .context("the api does not answer")
    }

    /// Makes the pool known, so that renders can be submitted before a worker is there.
    async fn announce_pool(&self) -> Result<()> {
        use likeness_domain::{Clock as _, SystemClock};
        use likeness_registry::bundles;
        let (bundle, now) = (bundle(), SystemClock.now());
        let mut tx = likeness_registry::begin(self.context.pool()).await?;
        bundles::announce(&mut tx, &bundle, now).await?;
        bundles::ensure_pool(&mut tx, pool()?.as_str(), &bundle.digest, "none", now).await?;
        Ok(likeness_registry::commit(tx).await?)
    }

    pub async fn tenant(&self, display_name: &str) -> Result<Tenant> {
        client::tenant(&self.endpoint, OPERATOR_KEY, display_name).await
    }

    /// A connection to NATS.
    pub async fn queue(&self) -> Result<Queue> {
        let namespace = self.context.namespace().parse()?;
        let args = QueueArgs::new(self.context.nats_url(), namespace);
        Ok(Queue::connect(&args).await?)
    }
}

fn environment(context: &TestContext) -> Vec<(&'static str, String)> {
    let s3 = context.s3();
    vec![
        ("LIKENESS_LOG", "warn".to_owned()),
        ("LIKENESS_NATS_URL", context.nats_url().to_owned()),
        ("LIKENESS_NATS_NAMESPACE", context.namespace().to_owned()),
        ("LIKENESS_DATABASE_URL", context.database_url().to_owned()),
        ("LIKENESS_S3_ENDPOINT", s3.endpoint.clone()),
        ("LIKENESS_S3_BUCKET", context.bucket().to_owned()),
        ("LIKENESS_S3_ACCESS_KEY", s3.access_key.clone()),
        ("LIKENESS_S3_SECRET_KEY", s3.secret_key.clone()),
        ("LIKENESS_OPERATOR_KEY", OPERATOR_KEY.to_owned()),
        ("LIKENESS_SEALING_KEYS", SEALING_KEYS.to_owned()),
    ]
}

fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// A bundle without files. What a render leaves out is estimated at about one second.
pub fn bundle() -> BundleSummary {
    BundleSummary {
        digest: "0f".repeat(32),
        name: "simulated".to_owned(),
        version: "1".to_owned(),
        encoder: "e0".repeat(32),
        tokens: 4,
        k: 4,
        base: false,
        models: vec!["simulated".to_owned()],
        defaults: RenderDefaults {
            scheduler: Scheduler::Euler,
            steps: 13,
            guidance: 3.5,
            id_scale: 0.8,
            width: 512,
            height: 512,
        },
    }
}

pub fn pool() -> Result<PoolName> {
    Ok(format!("{}-none", &bundle().digest[..12]).parse()?)
}

/// What rows that are written past the api have in common.
pub fn sort() -> Result<Sort> {
    let bundle = bundle();
    let spec = RenderSpec {
        model: "simulated".to_owned(),
        id_scale: bundle.defaults.id_scale,
        base_scale: 0.0,
        prompt: "a portrait in a garden, soft light".to_owned(),
        negative_prompt: None,
        seed: 7,
        steps: bundle.defaults.steps,
        guidance: bundle.defaults.guidance,
        scheduler: bundle.defaults.scheduler,
        width: bundle.defaults.width,
        height: bundle.defaults.height,
        image_count: 1,
        best_of: 1,
        output_format: ImageFormat::Png,
        init_strength: None,
        face_strength: None,
    };
    Ok(Sort {
        pool: pool()?.as_str().to_owned(),
        bundle: bundle.digest,
        spec: serde_json::to_string(&spec)?,
        cost_seconds: 1.0,
    })
}
