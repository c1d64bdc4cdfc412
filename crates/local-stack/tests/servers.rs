//! The servers, for real: start, crash, restart, two at once, and nothing left behind.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use likeness_local_stack::process::{is_alive, wait_until};
use likeness_local_stack::tools::Tools;
use likeness_local_stack::{Credentials, Fsync, Nats, Postgres, S3, Stack};

const SOON: Duration = Duration::from_secs(10);

fn tools() -> Tools {
    Tools::find_or_fetch(&tools_dir()).unwrap()
}

fn tools_dir() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("tools")
}

/// A folder that the account Postgres runs as can reach, too.
fn folder() -> tempfile::TempDir {
    let open = std::fs::Permissions::from_mode(0o755);
    tempfile::Builder::new()
        .permissions(open)
        .tempdir()
        .unwrap()
}

fn port_of(url: &str) -> u16 {
    let (_, tail) = url.rsplit_once("127.0.0.1:").unwrap();
    tail.split('/').next().unwrap().parse().unwrap()
}

fn answers(url: &str) -> bool {
    TcpStream::connect(("127.0.0.1", port_of(url))).is_ok()
}

#[test]
fn two_stacks_run_side_by_side_and_end_when_dropped() {
    let root = folder();
    let tools = tools();
    let one = Stack::start(&root.path().join("one"), &tools, Fsync::Off).unwrap();
    let two = Stack::start(&root.path().join("two"), &tools, Fsync::Off).unwrap();
    assert_ne!(one.postgres.url(), two.postgres.url());
    assert!(answers(&one.postgres.url()) && answers(&two.postgres.url()));
    assert!(answers(&one.s3.endpoint()) && answers(&two.nats.url()));
    let pids = [one.postgres.pid().unwrap(), one.nats.pid().unwrap()];
    let endpoint = one.s3.endpoint();
    drop(one);
    assert!(!pids.into_iter().any(is_alive));
    assert!(!answers(&endpoint));
    assert!(answers(&two.postgres.url()));
}

#[test]
fn a_folder_in_use_is_refused_by_name() {
    let dir = folder();
    let nats = tools().nats;
    let _first = Nats::start(dir.path(), &nats).unwrap();
    let error = Nats::start(dir.path(), &nats).unwrap_err().to_string();
    assert!(error.contains(&dir.path().display().to_string()), "{error}");
    assert!(error.contains("in use"), "{error}");
}

#[test]
fn a_killed_server_starts_again_on_its_port() {
    let dir = folder();
    let stack = Stack::start(dir.path(), &tools(), Fsync::Off).unwrap();
    let urls = (stack.postgres.url(), stack.nats.url());
    stack.postgres.kill();
    stack.nats.kill();
    assert_eq!((stack.postgres.pid(), stack.nats.pid()), (None, None));
    assert!(!answers(&urls.1));
    stack.postgres.restart().unwrap();
    stack.nats.restart().unwrap();
    assert_eq!((stack.postgres.url(), stack.nats.url()), urls);
    assert!(answers(&urls.0) && answers(&urls.1));
}

#[test]
fn data_is_found_again_and_can_be_wiped() {
    let dir = folder();
    let tools = tools().postgres;
    let at = dir.path().join("postgres");
    let first = Postgres::start(&at, &tools, Fsync::Off).unwrap();
    let password = |url: String| url.split('@').next().unwrap().to_owned();
    let (secret, data) = (password(first.url()), first.data_dir().to_path_buf());
    drop(first);
    let again = Postgres::start(&at, &tools, Fsync::Off).unwrap();
    assert_eq!(password(again.url()), secret);
    drop(again);
    Stack::wipe(dir.path()).unwrap();
    assert!(!data.exists());
}

#[test]
fn a_private_folder_will_do_as_root_too() {
    let private = tempfile::tempdir().unwrap();
    let stack = Stack::start(private.path(), &tools(), Fsync::Off).unwrap();
    let data = stack.postgres.data_dir().to_path_buf();
    let elsewhere = !data.starts_with(private.path().canonicalize().unwrap());
    assert_eq!(elsewhere, !stack.postgres.notes().is_empty());
    drop(stack);
    Stack::wipe(private.path()).unwrap();
    assert!(!data.exists());
}

#[test]
fn a_server_that_cannot_start_shows_its_log() {
    let dir = folder();
    let tools = tools().postgres;
    let data = Postgres::start(dir.path(), &tools, Fsync::Off)
        .unwrap()
        .data_dir()
        .to_path_buf();
    let settings = data.join("postgresql.conf");
    let text = std::fs::read_to_string(&settings).unwrap() + "no_such_setting = on\n";
    std::fs::write(&settings, text).unwrap();
    let error = Postgres::start(dir.path(), &tools, Fsync::Off).unwrap_err();
    assert!(error.to_string().contains("no_such_setting"), "{error}");
}

#[test]
fn buckets_have_valid_names() {
    let dir = folder();
    let s3 = S3::start(dir.path(), Credentials::random().unwrap()).unwrap();
    s3.create_bucket("photos").unwrap();
    s3.create_bucket("photos").unwrap();
    assert!(s3.create_bucket("../up").is_err());
}

#[test]
fn kill_9_of_the_owner_leaves_nothing_and_the_next_start_recovers() {
    let dir = folder();
    let mut owner = hold(dir.path());
    let pids = told_pids(&mut owner);
    assert_eq!(pids.len(), 2);
    assert!(pids.iter().all(|pid| is_alive(*pid)));
    owner.kill().unwrap();
    owner.wait().unwrap();
    // At once, while the old servers are perhaps still on their way out.
    let stack = Stack::start(dir.path(), &tools(), Fsync::Off).unwrap();
    assert!(answers(&stack.postgres.url()));
    assert!(wait_until(SOON, || !pids.iter().any(|pid| is_alive(*pid))));
}

/// This same test program, as another process that owns the stack in `dir`.
fn hold(dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "hold_a_stack", "--ignored", "--nocapture"])
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn told_pids(owner: &mut Child) -> Vec<u32> {
    let lines = BufReader::new(owner.stdout.take().unwrap()).lines();
    let told = lines
        .map(Result::unwrap)
        .find_map(|line| Some(line.split_once("pids ")?.1.to_owned()))
        .unwrap();
    told.split(' ').map(|pid| pid.parse().unwrap()).collect()
}

#[test]
#[ignore = "run as a process of its own by kill_9_of_the_owner_…"]
fn hold_a_stack() {
    let dir = std::env::current_dir().unwrap();
    let stack = Stack::start(&dir, &tools(), Fsync::Off).unwrap();
    let pids = (stack.postgres.pid().unwrap(), stack.nats.pid().unwrap());
    println!("pids {} {}", pids.0, pids.1);
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}
