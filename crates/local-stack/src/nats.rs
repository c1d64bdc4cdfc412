//! A private nats-server with JetStream on files.

use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
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

/// A running nats-server; dropping it ends it.
pub struct Nats {
    server: Server,
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
        let (store, pid_file) = (dir.join("store"), dir.join("pid"));
        fs::create_dir_all(&store)?;
        end_orphan(&pid_file, &dir, Signal::TERM)?;
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
                args
            }),
            ready: Box::new(move |_, port| {
                greeting(port).is_some_and(|line| line.contains(&named))
            }),
        };
        Ok(Self {
            server: Server::start(launch)?,
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
