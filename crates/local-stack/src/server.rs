//! One server process: started until it is ready or says why not, killed, started again, ended.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::account::Account;
use crate::process::{self, Signal, spawn_bound};

/// How long a server may take to become ready. Recovery after a crash counts in.
const READY_LIMIT: Duration = Duration::from_mins(1);
const LOG_TAIL: usize = 12;

/// What a server's kind fixes.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    /// What the kernel sends when our process dies.
    pub(crate) on_parent_death: Signal,
    /// The signals of an orderly end, each with the time it gets.
    pub(crate) stop: &'static [(Signal, Duration)],
    /// What the log says where another process has the port.
    pub(crate) port_taken: &'static str,
    /// What the log says where the last run's processes are still on their way out.
    pub(crate) still_ending: &'static str,
}

/// How to start one: everything but the port.
pub(crate) struct Launch {
    pub(crate) kind: &'static Kind,
    pub(crate) program: PathBuf,
    pub(crate) account: Option<Account>,
    pub(crate) log: PathBuf,
    pub(crate) args: Box<dyn Fn(u16) -> Vec<OsString> + Send + Sync>,
    /// Whether the process with this id answers on this port.
    pub(crate) ready: Box<dyn Fn(u32, u16) -> bool + Send + Sync>,
}

/// A running (or killed) server on a port of its own.
pub(crate) struct Server {
    launch: Launch,
    port: u16,
    child: Mutex<Option<Child>>,
}

enum Failure {
    /// Another port may do.
    PortTaken,
    /// The same again may do, a little later.
    StillEnding,
    Fatal(anyhow::Error),
}

impl Server {
    /// Starts on a free port and waits until the server is ready.
    pub(crate) fn start(launch: Launch) -> Result<Self> {
        keep_last_log(&launch.log);
        let deadline = Instant::now() + READY_LIMIT;
        loop {
            let port = free_port()?;
            match launch.attempt(port, deadline) {
                Ok(child) => {
                    let child = Mutex::new(Some(child));
                    return Ok(Self {
                        launch,
                        port,
                        child,
                    });
                }
                Err(failure) => failure.wait_or_give_up(&launch, deadline)?,
            }
        }
    }

    /// The loopback port, which a restart keeps.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The process's id; `None` after [`Server::kill`].
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child().as_ref().map(Child::id)
    }

    /// SIGKILL, as a crash would.
    pub(crate) fn kill(&self) {
        if let Some(mut child) = self.child().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Ends what runs in order, and starts again on the same port.
    pub(crate) fn restart(&self) -> Result<()> {
        let mut child = self.child();
        if let Some(mut running) = child.take() {
            process::end(&mut running, self.launch.kind.stop);
        }
        let deadline = Instant::now() + READY_LIMIT;
        while child.is_none() {
            match self.launch.attempt(self.port, deadline) {
                Ok(started) => *child = Some(started),
                Err(failure) => failure.wait_or_give_up(&self.launch, deadline)?,
            }
        }
        Ok(())
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child().take() {
            process::end(&mut child, self.launch.kind.stop);
        }
    }
}

impl Failure {
    fn wait_or_give_up(self, launch: &Launch, deadline: Instant) -> Result<()> {
        let reason = match self {
            Self::Fatal(error) => return Err(error),
            Self::PortTaken => "its port is taken",
            Self::StillEnding => "its last run is still ending",
        };
        if Instant::now() >= deadline {
            bail!("{} did not start: {reason}", launch.kind.name);
        }
        std::thread::sleep(Duration::from_millis(50));
        Ok(())
    }
}

impl Launch {
    fn attempt(&self, port: u16, deadline: Instant) -> Result<Child, Failure> {
        let logged = fs::metadata(&self.log).map_or(0, |meta| meta.len());
        let mut child = self.spawn(port).map_err(Failure::Fatal)?;
        let mut exited = None;
        let limit = deadline.saturating_duration_since(Instant::now());
        process::wait_until(limit, || {
            exited = child.try_wait().ok().flatten();
            exited.is_some() || (self.ready)(child.id(), port)
        });
        match exited {
            Some(status) => Err(self.why_it_ended(&status.to_string(), logged)),
            None if Instant::now() >= deadline => {
                process::end(&mut child, &[]);
                Err(Failure::Fatal(self.told("was not ready in time", logged)))
            }
            None => Ok(child),
        }
    }

    fn spawn(&self, port: u16) -> Result<Child> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("cannot write {}", self.log.display()))?;
        let mut command = Command::new(&self.program);
        command
            .args((self.args)(port))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Its own group: Ctrl-C on the terminal reaches us alone, and we end it in order.
            .process_group(0);
        run_as(&mut command, self.account);
        spawn_bound(command, self.kind.on_parent_death)
            .with_context(|| format!("cannot run {}", self.program.display()))
    }

    fn why_it_ended(&self, status: &str, logged: u64) -> Failure {
        let log = log_since(&self.log, logged);
        if log.contains(self.kind.port_taken) {
            Failure::PortTaken
        } else if log.contains(self.kind.still_ending) {
            Failure::StillEnding
        } else {
            Failure::Fatal(self.told(&format!("ended while starting ({status})"), logged))
        }
    }

    fn told(&self, what: &str, logged: u64) -> anyhow::Error {
        let log = log_since(&self.log, logged);
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n");
        anyhow!(
            "{} {what}; its log {} ends with:\n{tail}",
            self.kind.name,
            self.log.display()
        )
    }
}

/// Makes `command` run as `account`, where one is needed.
pub(crate) fn run_as(command: &mut Command, account: Option<Account>) {
    if let Some(Account { uid, gid }) = account {
        command.uid(uid).gid(gid);
    }
}

/// Ends the process that a killed owner of `dir` left behind, if `pid` is still that one. Our
/// caller holds the lock of `dir`, so nobody else can be using it.
pub(crate) fn end_orphan(pid_file: &Path, dir: &Path, signal: Signal) -> Result<()> {
    let Ok(text) = fs::read_to_string(pid_file) else {
        return Ok(());
    };
    let Some(pid) = text
        .lines()
        .next()
        .and_then(|line| line.trim().parse().ok())
    else {
        return Ok(());
    };
    let is_ours = || command_line(pid).is_some_and(|line| line.contains(&*dir.to_string_lossy()));
    for (signal, limit) in [(signal, 10), (Signal::KILL, 10)] {
        if !is_ours() {
            return Ok(());
        }
        process::signal(pid, signal);
        if process::wait_until(Duration::from_secs(limit), || !is_ours()) {
            return Ok(());
        }
    }
    bail!(
        "process {pid}, left over from an earlier run in {}, does not end",
        dir.display()
    )
}

#[cfg(target_os = "linux")]
fn command_line(pid: u32) -> Option<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    Some(String::from_utf8_lossy(&bytes).replace('\0', " "))
}

#[cfg(not(target_os = "linux"))]
fn command_line(pid: u32) -> Option<String> {
    let output = Command::new("ps")
        .args(["-ww", "-o", "args=", "-p", &pid.to_string()])
        .output()
        .ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A loopback port that nobody listens on at this moment.
fn free_port() -> Result<u16> {
    let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let probe = probe.context("there is no free port on 127.0.0.1")?;
    Ok(probe.local_addr()?.port())
}

fn keep_last_log(log: &Path) {
    let _ = fs::rename(log, log.with_extension("log.1"));
}

fn log_since(log: &Path, start: u64) -> String {
    use std::io::{Read, Seek, SeekFrom};
    let mut bytes = Vec::new();
    let read = File::open(log).and_then(|mut file| {
        file.seek(SeekFrom::Start(start))?;
        file.read_to_end(&mut bytes)
    });
    match read {
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => format!("(unreadable: {error})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_that_another_program_has_now_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let pid_file = dir.path().join("pid");
        fs::write(&pid_file, std::process::id().to_string()).unwrap();
        end_orphan(&pid_file, dir.path(), Signal::KILL).unwrap();
        fs::write(&pid_file, "nonsense").unwrap();
        end_orphan(&pid_file, dir.path(), Signal::KILL).unwrap();
    }

    #[test]
    fn an_orphan_of_the_folder_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("tail");
        let held = dir.path().join("held");
        fs::write(&held, "").unwrap();
        command.arg("-f").arg(&held).stdout(Stdio::null());
        let mut child = spawn_bound(command, Signal::KILL).unwrap();
        let pid_file = dir.path().join("pid");
        fs::write(&pid_file, child.id().to_string()).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| child.wait().unwrap());
            end_orphan(&pid_file, dir.path(), Signal::TERM).unwrap();
        });
    }
}
