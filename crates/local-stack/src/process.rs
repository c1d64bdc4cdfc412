//! Child processes that never outlive this one.

use std::io;
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use rustix::process::Pid;
pub use rustix::process::Signal;

/// Starts `command` so that the kernel sends it `on_parent_death` when this process ends in
/// whatever way, SIGKILL included (Linux; elsewhere only an orderly end stops the child).
///
/// # Errors
/// When the program cannot be started.
pub fn spawn_bound(mut command: Command, on_parent_death: Signal) -> io::Result<Child> {
    bind_to_parent(&mut command, on_parent_death);
    let (reply, answer) = channel();
    spawner()
        .send((command, reply))
        .map_err(|_| gone("the spawning thread has ended"))?;
    answer
        .recv()
        .map_err(|_| gone("the spawning thread has ended"))?
}

type Request = (Command, Sender<io::Result<Child>>);

/// The parent-death signal fires when the *thread* that spawned the child ends. All children
/// therefore come from this one thread, which lives as long as the process.
fn spawner() -> &'static Sender<Request> {
    static SPAWNER: OnceLock<Sender<Request>> = OnceLock::new();
    SPAWNER.get_or_init(|| {
        let (sender, requests) = channel::<Request>();
        std::thread::spawn(move || {
            for (mut command, reply) in requests {
                let _ = reply.send(command.spawn());
            }
        });
        sender
    })
}

fn gone(what: &str) -> io::Error {
    io::Error::other(what.to_owned())
}

#[cfg(target_os = "linux")]
#[allow(
    unsafe_code,
    reason = "only pre_exec can bind a child to its parent; the closure makes two system calls and allocates nothing"
)]
fn bind_to_parent(command: &mut Command, signal: Signal) {
    use std::os::unix::process::CommandExt;
    let parent = rustix::process::getpid();
    // SAFETY: between fork and exec only async-signal-safe calls are made (prctl, getppid).
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(signal))?;
            // The parent may have died before the line above took hold.
            if rustix::process::getppid() == Some(parent) {
                Ok(())
            } else {
                Err(io::Error::from_raw_os_error(3)) // ESRCH
            }
        });
    }
}

#[cfg(not(target_os = "linux"))]
fn bind_to_parent(_: &mut Command, _: Signal) {}

/// Sends `signal` to the process `pid`; a process that is gone already is no error.
pub fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Whether a process with this id exists (a zombie counts).
pub fn is_alive(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

/// Calls `done` until it is true; false if `limit` passes first.
pub fn wait_until(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Ends `child`: sends each signal in turn and gives it that long to exit.
pub fn end(child: &mut Child, steps: &[(Signal, Duration)]) {
    for (step, limit) in steps {
        signal(child.id(), *step);
        if wait_until(*limit, || !matches!(child.try_wait(), Ok(None))) {
            return;
        }
    }
    let _ = child.kill();
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_outlives_the_thread_that_asked_for_it() {
        let mut command = Command::new("sleep");
        command.arg("60");
        let asked = std::thread::spawn(|| spawn_bound(command, Signal::KILL));
        let mut child = asked.join().unwrap().unwrap();
        assert!(child.try_wait().unwrap().is_none());
        end(&mut child, &[(Signal::TERM, Duration::from_secs(5))]);
        assert!(!is_alive(child.id()));
    }

    #[test]
    fn a_child_that_ignores_signals_is_killed() {
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' TERM; while :; do sleep 1; done"]);
        let mut child = spawn_bound(command, Signal::KILL).unwrap();
        end(&mut child, &[(Signal::TERM, Duration::from_millis(50))]);
        assert!(!is_alive(child.id()));
    }
}
