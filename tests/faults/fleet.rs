//! The processes of a run, each behind proxies of its own.

use std::{
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context as _, Result};
use likeness_local_stack::process::{Signal, signal, spawn_bound};
use likeness_test_support::TestContext;

use crate::{
    broken::Rule,
    proxy::{Mode, Proxy},
    services::instance_file,
};

pub const OPERATOR_KEY: &str = "operator-key-of-the-tests";
const SEALING_KEYS: &str = "test:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
/// The shortest that the dispatcher takes.
pub const LEASE_SECONDS: u32 = 3;

const APIS: usize = 2;
const DISPATCHERS: usize = 2;
const WORKERS: usize = 3;
const ENROLLERS: usize = 2;

/// What differs between runs.
#[derive(Clone, Debug)]
pub struct Setup {
    pub rule: Option<Rule>,
    pub unclaimed: Option<u32>,
}

/// All processes, and the proxies between them and the servers.
pub struct Fleet {
    pub members: Vec<Member>,
    /// In front of S3, for all.
    pub s3: Proxy,
    /// Where the fronts listen.
    pub apis: Vec<SocketAddr>,
    pub journal: PathBuf,
    /// Their logs and the journal.
    pub dir: PathBuf,
}

/// One process, which may be killed, stopped and started again.
pub struct Member {
    pub name: String,
    program: PathBuf,
    args: Vec<String>,
    env: Vec<(&'static str, String)>,
    log: PathBuf,
    child: Mutex<Option<Child>>,
    /// In front of NATS.
    nats: Proxy,
    /// In front of Postgres, which a worker does not use.
    postgres: Proxy,
}

impl Fleet {
    /// Starts everything; what is not ready yet is waited for by whoever uses it.
    pub async fn start(context: &TestContext, setup: &Setup, dir: &Path) -> Result<Self> {
        let s3 = Proxy::start(address_of(&context.s3().endpoint)?).await?;
        let journal = dir.join("journal");
        let apis = (0..APIS)
            .map(|_| free_address())
            .collect::<Result<Vec<_>>>()?;
        let mut fleet = Self {
            members: Vec::new(),
            s3,
            apis: apis.clone(),
            journal: journal.clone(),
            dir: dir.to_path_buf(),
        };
        for (number, listen) in apis.iter().enumerate() {
            let args = vec!["api".to_owned(), format!("--listen={listen}")];
            fleet.add(context, format!("api-{number}"), args).await?;
        }
        for number in 0..DISPATCHERS {
            let mut args = vec!["dispatch".to_owned()];
            args.push(format!("--journal={}", journal.display()));
            args.push(format!("--lease-seconds={LEASE_SECONDS}"));
            args.extend(setup.unclaimed.map(|after| format!("--unclaimed={after}")));
            args.extend(setup.rule.map(|rule| format!("--rule={}", rule.name())));
            fleet
                .add(context, format!("dispatch-{number}"), args)
                .await?;
        }
        for number in 0..ENROLLERS {
            let args = vec!["enroll".to_owned()];
            fleet.add(context, format!("enroll-{number}"), args).await?;
        }
        for number in 0..WORKERS {
            let args = vec!["worker".to_owned()];
            fleet.add(context, format!("worker-{number}"), args).await?;
        }
        Ok(fleet)
    }

    async fn add(&mut self, context: &TestContext, name: String, args: Vec<String>) -> Result<()> {
        let nats = Proxy::start(address_of(context.nats_url())?).await?;
        let postgres = Proxy::start(address_of(context.database_url())?).await?;
        let database = through(context.database_url(), &postgres)?;
        let s3 = context.s3();
        let member = Member {
            program: std::env::current_exe()?,
            args,
            env: vec![
                ("LIKENESS_LOG", "info".to_owned()),
                ("LIKENESS_NATS_URL", format!("nats://{}", nats.address())),
                ("LIKENESS_NATS_NAMESPACE", context.namespace().to_owned()),
                ("LIKENESS_DATABASE_URL", database),
                (
                    "LIKENESS_S3_ENDPOINT",
                    format!("http://{}", self.s3.address()),
                ),
                ("LIKENESS_S3_BUCKET", context.bucket().to_owned()),
                ("LIKENESS_S3_ACCESS_KEY", s3.access_key.clone()),
                ("LIKENESS_S3_SECRET_KEY", s3.secret_key.clone()),
                ("LIKENESS_OPERATOR_KEY", OPERATOR_KEY.to_owned()),
                ("LIKENESS_SEALING_KEYS", SEALING_KEYS.to_owned()),
            ],
            log: self.dir.join(format!("{name}.log")),
            child: Mutex::new(None),
            name,
            nats,
            postgres,
        };
        member.keep_up()?;
        self.members.push(member);
        Ok(())
    }

    /// Starts again what has ended.
    pub fn keep_up(&self) -> Result<()> {
        self.members.iter().try_for_each(Member::keep_up)
    }

    /// The dispatcher that leads at present, once it is known.
    pub fn leader(&self, holder: &str) -> Option<&Member> {
        let mut members = self.members.iter();
        members.find(|member| member.instance(&self.journal).as_deref() == Some(holder))
    }

    /// Whatever holds a lease: workers of both kinds.
    pub fn workers(&self) -> impl Iterator<Item = &Member> {
        let workers = self.members.iter();
        workers.filter(|member| {
            let kinds = ["worker", "enroll"];
            kinds.iter().any(|kind| member.name.starts_with(kind))
        })
    }
}

impl Member {
    /// Starts it unless it runs, as whoever supervises real processes does.
    pub fn keep_up(&self) -> Result<()> {
        let mut child = self.child();
        let ended = match child.as_mut() {
            Some(running) => running.try_wait()?.is_some(),
            None => true,
        };
        if ended {
            *child = Some(self.spawn()?);
        }
        Ok(())
    }

    fn spawn(&self) -> Result<Child> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        spawn_bound(command, Signal::KILL).with_context(|| format!("cannot start {}", self.name))
    }

    /// Which dispatcher it is, if it is one and runs.
    fn instance(&self, journal: &Path) -> Option<String> {
        let process = self.child().as_ref()?.id();
        std::fs::read_to_string(instance_file(journal, process)).ok()
    }

    /// SIGKILL: it can clean up nothing.
    pub fn kill(&self) {
        if let Some(mut child) = self.child().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGSTOP: it does nothing and knows nothing of it.
    pub fn stop(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT: it goes on as if nothing had been.
    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    /// What happens to its connections to NATS and Postgres.
    pub fn connections(&self, mode: Mode) {
        self.nats.set(mode);
        self.postgres.set(mode);
    }

    fn signal(&self, which: Signal) {
        if let Some(child) = self.child().as_ref() {
            signal(child.id(), which);
        }
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

/// An address that is free now.
fn free_address() -> Result<SocketAddr> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn address_of(url: &str) -> Result<SocketAddr> {
    let url: reqwest::Url = url.parse()?;
    let port = url.port().context("the URL has no port")?;
    Ok(SocketAddr::from(([127, 0, 0, 1], port)))
}

/// The same URL by way of a proxy.
fn through(url: &str, proxy: &Proxy) -> Result<String> {
    let mut url: reqwest::Url = url.parse()?;
    let address = proxy.address();
    url.set_ip_host(address.ip())
        .and_then(|()| url.set_port(Some(address.port())))
        .map_err(|()| anyhow::anyhow!("the URL cannot have another port"))?;
    Ok(url.into())
}
