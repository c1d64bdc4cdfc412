//! A private nats-server with JetStream on files.

use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

use crate::lock::lock_dir;
use crate::process::Signal;
use crate::random;
use crate::server::{Kind, Launch, Server, end_orphan};
use crate::tools::NatsTools;

const KIND: Kind = Kind {
    name: "nats-server",
    on_parent_death: Signal::TERM,
    stop: &[(Signal::TERM, Duration::from_secs(5))],
    port_taken: "address already in use",
    still_ending: "could not be locked",
};

/// JetStream's files, a copy of them, and the server's configuration, in its folder.
const STORE: &str = "store";
const COPY: &str = "copy";
const LIMITS: &str = "limits.conf";

/// A running nats-server; dropping it ends it.
pub struct Nats {
    server: Server,
    dir: PathBuf,
    _lock: File,
}

impl Nats {
    /// Starts nats-server with JetStream's files in `dir`, whose streams a restart finds again.
    ///
    /// # Errors
    /// When another process uses `dir`, or the server does not get ready: then with the end of its
    /// log.
    pub fn start(dir: &Path, tools: &NatsTools) -> Result<Self> {
        let lock = lock_dir(dir)?;
        let dir = dir.canonicalize()?;
        let (store, pid_file, limits) = (dir.join(STORE), dir.join("pid"), dir.join(LIMITS));
        fs::create_dir_all(&store)?;
        end_orphan(&pid_file, &dir, Signal::TERM)?;
        fs::write(&limits, "")?;
        // The name tells our server from another that took the port meanwhile.
        let name = format!("likeness-{}", random::hex(8)?);
        let named = format!("\"server_name\":\"{name}\"");
        let launch = Launch {
            kind: &KIND,
            program: tools.program.clone(),
            account: None,
            log: dir.join("log"),
            args: Box::new(move |port| {
                let mut args = ["--addr", "127.0.0.1", "--port"].map(Into::into).to_vec();
                args.extend([
                    port.to_string().into(),
                    "--name".into(),
                    name.clone().into(),
                ]);
                args.extend([
                    "--jetstream".into(),
                    "--store_dir".into(),
                    store.clone().into(),
                ]);
                args.extend(["--pid".into(), pid_file.clone().into()]);
                args.extend(["--config".into(), limits.clone().into()]);
                args
            }),
            ready: Box::new(move |_, port| {
                greeting(port).is_some_and(|line| line.contains(&named))
            }),
        };
        Ok(Self {
            server: Server::start(launch)?,
            dir,
            _lock: lock,
        })
    }

    /// The URL. The server listens on loopback alone and asks for no password.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.server.port())
    }

    /// The process's id; `None` after [`Nats::kill`].
    pub fn pid(&self) -> Option<u32> {
        self.server.pid()
    }

    /// Kills the server (SIGKILL), as a crash would.
    pub fn kill(&self) {
        self.server.kill();
    }

    /// Starts it again on the same port and files, whether it runs or was killed.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn restart(&self) -> Result<()> {
        self.server.restart()
    }

    /// Restarts it with room for so many bytes in JetStream's files, or with what the disk has.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn restart_with_room(&self, bytes: Option<u64>) -> Result<()> {
        let limit = bytes.map(|bytes| format!("jetstream {{ max_file_store: {bytes} }}\n"));
        fs::write(self.dir.join(LIMITS), limit.unwrap_or_default())?;
        self.server.restart()
    }

    /// Kills the server and starts it without any of JetStream's files.
    ///
    /// # Errors
    /// When the files cannot be removed, or it does not get ready.
    pub fn wipe(&self) -> Result<()> {
        self.replace_store(|store| Ok(fs::create_dir_all(store)?))
    }

    /// Ends the server, keeps a copy of JetStream's files for [`Nats::roll_back`], and starts it again.
    ///
    /// # Errors
    /// When the files cannot be copied, or it does not get ready.
    pub fn back_up(&self) -> Result<()> {
        self.server.kill();
        let copy = self.dir.join(COPY);
        if copy.exists() {
            fs::remove_dir_all(&copy)?;
        }
        copy_dir(&self.dir.join(STORE), &copy)?;
        self.restart()
    }

    /// Kills the server and starts it with JetStream's files as [`Nats::back_up`] left them.
    ///
    /// # Errors
    /// When there is no such copy, or it does not get ready.
    pub fn roll_back(&self) -> Result<()> {
        let copy = self.dir.join(COPY);
        self.replace_store(|store| copy_dir(&copy, store))
    }

    fn replace_store(&self, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        self.server.kill();
        let store = self.dir.join(STORE);
        fs::remove_dir_all(&store)?;
        fill(&store)?;
        self.restart()
    }
}

fn copy_dir(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let copy = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_dir(&entry.path(), &copy)?;
        } else {
            fs::copy(entry.path(), copy)?;
        }
    }
    Ok(())
}

impl fmt::Debug for Nats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nats")
            .field("url", &self.url())
            .finish_non_exhaustive()
    }
}

/// The line by which a nats-server introduces itself to every client.
fn greeting(port: u16) -> Option<String> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).ok()?;
    Some(line)
}
