//! A private Postgres: initialised on first use, reached over loopback with a random password.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::account::{self, Account};
use crate::lock::lock_dir;
use crate::process::Signal;
use crate::random;
use crate::server::{Kind, Launch, Server, end_orphan, run_as};
use crate::tools::PostgresTools;

/// The role, and the database that exists from the start.
const NAME: &str = "likeness";

const KIND: Kind = Kind {
    name: "Postgres",
    // Immediate: the write-ahead log makes it safe, and nothing can hold it up.
    on_parent_death: Signal::QUIT,
    stop: &[
        (Signal::INT, Duration::from_secs(10)),
        (Signal::QUIT, Duration::from_secs(6)),
    ],
    port_taken: "could not create any TCP/IP sockets",
    still_ending: "is still in use",
};

/// Whether a commit waits for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fsync {
    /// Committed means on disk.
    On,
    /// Faster; a crash of the machine (not of Postgres) may lose everything. For tests.
    Off,
}

/// A running Postgres; dropping it ends it.
pub struct Postgres {
    server: Server,
    password: String,
    data: PathBuf,
    notes: Vec<String>,
    _lock: File,
}

/// Where the programs and the data are, and who runs them.
struct Place {
    bin: PathBuf,
    /// Holds `data`, and while it is made `data.partial` and the password for initdb.
    home: PathBuf,
    account: Option<Account>,
    notes: Vec<String>,
}

impl Postgres {
    /// Starts Postgres on the data in `dir`, which is made if it is not there yet. As root it runs
    /// as `postgres` or `nobody`.
    ///
    /// # Errors
    /// When another process uses `dir`, another major version made it, or Postgres does not get
    /// ready: then with the end of its log.
    pub fn start(dir: &Path, tools: &PostgresTools, fsync: Fsync) -> Result<Self> {
        let lock = lock_dir(dir)?;
        let dir = dir.canonicalize()?;
        let place = Place::of(&dir, tools)?;
        let data = place.home.join("data");
        end_orphan(&data.join("postmaster.pid"), &data, Signal::QUIT)?;
        if !data.join("PG_VERSION").exists() {
            place.initialise(&dir, fsync)?;
        }
        check_version(&data, tools)?;
        Ok(Self {
            password: fs::read_to_string(dir.join("password"))
                .with_context(|| format!("{} has no password file", dir.display()))?,
            server: Server::start(launch(&place, &data, dir.join("log"), fsync))?,
            notes: place.notes,
            data,
            _lock: lock,
        })
    }

    /// The URL, password included, of the database `likeness`.
    pub fn url(&self) -> String {
        self.url_of(NAME)
    }

    /// The URL, password included, of another database of this server.
    pub fn url_of(&self, database: &str) -> String {
        let port = self.server.port();
        format!(
            "postgres://{NAME}:{}@127.0.0.1:{port}/{database}",
            self.password
        )
    }

    /// The process's id; `None` after [`Postgres::kill`].
    pub fn pid(&self) -> Option<u32> {
        self.server.pid()
    }

    /// Where the data is.
    pub fn data_dir(&self) -> &Path {
        &self.data
    }

    /// What the user should know, such as that the data had to go elsewhere.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Kills the server (SIGKILL), as a crash would. Its backends end by themselves.
    pub fn kill(&self) {
        self.server.kill();
    }

    /// Starts it again on the same port and data, whether it runs or was killed.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn restart(&self) -> Result<()> {
        self.server.restart()
    }
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres")
            .field("port", &self.server.port())
            .field("data", &self.data)
            .finish_non_exhaustive()
    }
}

/// Removes what [`Postgres::start`] made for `dir`, inside and outside of it.
pub(crate) fn wipe(dir: &Path) -> Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    let dir = dir.canonicalize()?;
    for folder in [account::stand_in(&dir), dir] {
        if folder.exists() {
            fs::remove_dir_all(&folder)
                .with_context(|| format!("cannot remove {}", folder.display()))?;
        }
    }
    Ok(())
}

impl Place {
    fn of(dir: &Path, tools: &PostgresTools) -> Result<Self> {
        let mut place = Self {
            bin: tools.bin.clone(),
            home: dir.to_path_buf(),
            account: Account::needed(&dir.join("data")),
            notes: Vec::new(),
        };
        let Some(account) = place.account else {
            return Ok(place);
        };
        if !account.reaches(dir) {
            place.home = account::create_stand_in(dir)?;
            place.account = Account::needed(&place.home.join("data"));
            let (home, uid) = (place.home.display(), account.uid);
            place.notes.push(format!(
                "Postgres cannot run as root, and uid {uid} cannot reach {}: its data is in {home}",
                dir.display()
            ));
        }
        if !account.reaches(&tools.bin) {
            place.bin = copy_programs(tools, dir)?;
        }
        Ok(place)
    }

    /// Makes `data` whole or not at all.
    fn initialise(&self, dir: &Path, fsync: Fsync) -> Result<()> {
        let partial = self.home.join("data.partial");
        let _ = fs::remove_dir_all(&partial);
        fs::create_dir(&partial)?;
        let password = random::hex(16)?;
        let for_initdb = self.home.join("password.partial");
        write_private(&for_initdb, &password)?;
        if let Some(account) = self.account {
            account.own(&partial)?;
            account.own(&for_initdb)?;
        }
        let made = self.initdb(&partial, &for_initdb, fsync);
        fs::remove_file(&for_initdb)?;
        made?;
        self.create_database(&partial, fsync)?;
        write_private(&dir.join("password"), &password)?;
        fs::rename(&partial, self.home.join("data"))?;
        Ok(())
    }

    fn initdb(&self, data: &Path, password_file: &Path, fsync: Fsync) -> Result<()> {
        let mut command = Command::new(self.bin.join("initdb"));
        command
            .args(["--no-instructions", "--encoding=UTF8", "--no-locale"])
            .args(["--auth=scram-sha-256", "--username", NAME, "--pgdata"])
            .arg(data)
            .arg("--pwfile")
            .arg(password_file);
        if fsync == Fsync::Off {
            command.arg("--no-sync");
        }
        self.run(command, "")
    }

    fn create_database(&self, data: &Path, fsync: Fsync) -> Result<()> {
        let mut command = Command::new(self.bin.join("postgres"));
        command.arg("--single").arg("-D").arg(data);
        if fsync == Fsync::Off {
            command.arg("-F");
        }
        command.arg("postgres");
        self.run(command, &format!("CREATE DATABASE {NAME};\n"))
    }

    fn run(&self, mut command: Command, input: &str) -> Result<()> {
        run_as(&mut command, self.account);
        command
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let program = command.get_program().to_owned();
        let mut child = crate::process::spawn_bound(command, Signal::TERM)
            .with_context(|| format!("cannot run {}", program.display()))?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("{} failed: {}", program.display(), said.trim());
        }
        Ok(())
    }
}

fn launch(place: &Place, data: &Path, log: PathBuf, fsync: Fsync) -> Launch {
    let (for_args, for_ready) = (data.to_path_buf(), data.to_path_buf());
    Launch {
        kind: &KIND,
        program: place.bin.join("postgres"),
        account: place.account,
        log,
        args: Box::new(move |port| arguments(&for_args, port, fsync)),
        ready: Box::new(move |pid, _| is_ready(&for_ready, pid)),
    }
}

fn arguments(data: &Path, port: u16, fsync: Fsync) -> Vec<OsString> {
    let mut args: Vec<OsString> = vec!["-D".into(), data.into()];
    let mut set = |setting: &str| args.extend(["-c".into(), setting.into()]);
    set(&format!("port={port}"));
    set("listen_addresses=127.0.0.1");
    // No socket file, whose path would have to stay under 107 bytes.
    set("unix_socket_directories=");
    set("max_connections=300");
    set("timezone=UTC");
    set("log_timezone=UTC");
    // Commits still reach the system at once, so that a killed Postgres loses none.
    if fsync == Fsync::Off {
        set("fsync=off");
        set("full_page_writes=off");
        set("autovacuum=off");
    }
    args
}

/// Postgres writes its state into the last line of its pid file, which is how pg_ctl waits, too.
fn is_ready(data: &Path, pid: u32) -> bool {
    let text = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
    let mut lines = text.lines();
    lines.next() == Some(&pid.to_string()) && lines.nth(6).is_some_and(|s| s.trim() == "ready")
}

fn check_version(data: &Path, tools: &PostgresTools) -> Result<()> {
    let made_by = fs::read_to_string(data.join("PG_VERSION"))?;
    let (made_by, found) = (made_by.trim(), tools.version);
    if made_by != found.major.to_string() {
        bail!(
            "{} was made by Postgres {made_by}, but {} is {found}: remove the folder, or install \
             Postgres {made_by}",
            data.display(),
            tools.bin.display()
        );
    }
    Ok(())
}

/// Copies programs that the account cannot reach to where it can.
fn copy_programs(tools: &PostgresTools, dir: &Path) -> Result<PathBuf> {
    let bin = tools.bin.strip_prefix(&tools.prefix)?;
    let version = tools.version;
    let copy = account::create_stand_in(dir)?.join(format!("postgres-{version}"));
    if !copy.exists() {
        let partial = copy.with_extension("partial");
        let _ = fs::remove_dir_all(&partial);
        copy_tree(&tools.prefix, &partial)?;
        fs::rename(&partial, &copy)?;
    }
    Ok(copy.join(bin))
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if fs::metadata(entry.path())?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)
                .with_context(|| format!("cannot copy {}", entry.path().display()))?;
        }
    }
    Ok(())
}

fn write_private(path: &Path, text: &str) -> Result<()> {
    let _ = fs::remove_file(path);
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::Version;

    #[test]
    fn ready_is_what_the_pid_file_says_of_this_process() {
        let dir = tempfile::tempdir().unwrap();
        let state = |state: &str| {
            let text = format!("42\n/data\n1\n5432\n\n127.0.0.1\n  1 2\n{state}\n");
            fs::write(dir.path().join("postmaster.pid"), text).unwrap();
        };
        assert!(!is_ready(dir.path(), 42));
        state("starting");
        assert!(!is_ready(dir.path(), 42));
        state("ready   ");
        assert!(is_ready(dir.path(), 42));
        assert!(!is_ready(dir.path(), 43));
    }

    #[test]
    fn data_of_another_major_version_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("PG_VERSION"), "15\n").unwrap();
        let mut tools = PostgresTools {
            bin: "/pg/bin".into(),
            prefix: "/pg".into(),
            version: Version::new(15, 2),
        };
        check_version(dir.path(), &tools).unwrap();
        tools.version = Version::new(18, 4);
        let error = check_version(dir.path(), &tools).unwrap_err().to_string();
        assert!(error.contains("made by Postgres 15"), "{error}");
    }
}
