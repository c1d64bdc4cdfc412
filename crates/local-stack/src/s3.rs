//! A private S3 server inside this process, with its objects in a folder.

use std::fmt;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::lock::lock_dir;
use crate::random;

/// How long open requests get when the server stops.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);

/// What a client signs its requests with.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The public half.
    pub access_key: String,
    /// The secret half.
    pub secret_key: String,
}

impl Credentials {
    /// New random ones.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn random() -> Result<Self> {
        Ok(Self {
            access_key: random::hex(10)?,
            secret_key: random::hex(20)?,
        })
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(…)")
    }
}

/// A running S3 server; dropping it ends it. Path-style addressing, any region.
pub struct S3 {
    address: SocketAddr,
    buckets: PathBuf,
    credentials: Credentials,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    _lock: File,
}

impl S3 {
    /// Serves the objects in `dir` on a free loopback port, from a thread of its own.
    ///
    /// # Errors
    /// When another process uses `dir`, or the folder cannot be served.
    pub fn start(dir: &Path, credentials: Credentials) -> Result<Self> {
        let lock = lock_dir(dir)?;
        let buckets = dir.canonicalize()?.join("buckets");
        fs::create_dir_all(&buckets)?;
        let service = service(&buckets, &credentials)?;
        let (stop, stopped) = oneshot::channel();
        let (tell, bound) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("s3".to_owned())
            .spawn(move || serve(service, stopped, &tell))?;
        let address = bound.recv().context("the S3 server's thread ended")??;
        Ok(Self {
            address,
            buckets,
            credentials,
            stop: Some(stop),
            thread: Some(thread),
            _lock: lock,
        })
    }

    /// `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What requests must be signed with.
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// Makes the bucket `name`, if it is not there yet.
    ///
    /// # Errors
    /// When `name` is no bucket name, or the folder cannot be written.
    pub fn create_bucket(&self, name: &str) -> Result<()> {
        if !s3s::path::check_bucket_name(name) {
            bail!("{name:?} is no bucket name: 3 to 63 of a-z, 0-9, - and .");
        }
        fs::create_dir_all(self.buckets.join(name))
            .with_context(|| format!("cannot create the bucket {name}"))
    }
}

impl fmt::Debug for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn service(buckets: &Path, credentials: &Credentials) -> Result<S3Service> {
    let files = FileSystem::new(buckets)
        .map_err(|error| anyhow!("cannot serve {}: {error:?}", buckets.display()))?;
    let mut builder = S3ServiceBuilder::new(files);
    builder.set_auth(SimpleAuth::from_single(
        credentials.access_key.clone(),
        credentials.secret_key.clone(),
    ));
    Ok(builder.build())
}

/// The thread's work. A runtime of its own keeps the server up over the many short-lived runtimes
/// of a test process.
fn serve(
    service: S3Service,
    stopped: oneshot::Receiver<()>,
    tell: &mpsc::Sender<Result<SocketAddr>>,
) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("s3")
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = tell.send(Err(error.into()));
            return;
        }
    };
    runtime.block_on(async {
        match listen().await {
            Ok((listener, address)) => {
                let _ = tell.send(Ok(address));
                accept_until(listener, service, stopped).await;
            }
            Err(error) => {
                let _ = tell.send(Err(error));
            }
        }
    });
}

async fn listen() -> Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

async fn accept_until(
    listener: TcpListener,
    service: S3Service,
    mut stopped: oneshot::Receiver<()>,
) {
    let http = Builder::new(TokioExecutor::new());
    let open = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = &mut stopped => break,
        };
        // A failed accept concerns its connection alone, or passes when others close.
        let Ok((socket, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let _ = socket.set_nodelay(true);
        let connection = http.serve_connection(TokioIo::new(socket), service.clone());
        let connection = open.watch(connection.into_owned());
        tokio::spawn(async move {
            let _ = connection.await;
        });
    }
    let _ = tokio::time::timeout(DRAIN_LIMIT, open.shutdown()).await;
}
