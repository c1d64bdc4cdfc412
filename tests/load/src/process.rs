//! A process of a run, and what the system says of it.

use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};
use likeness_local_stack::process::{Signal, spawn_bound};

/// Clock ticks a second, as `/proc` counts on every Linux that we run on.
const TICKS: f64 = 100.0;

/// One service; dropping it kills it.
pub struct Process(Child);

impl Process {
    /// This program again, as the service `name`.
    pub fn start(name: &str, args: &[String], env: &[(&str, String)], log: &Path) -> Result<Self> {
        let log = File::create(log)?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg(name)
            .args(args)
            .envs(env.iter().map(|(name, value)| (*name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = spawn_bound(command, Signal::KILL);
        Ok(Self(child.with_context(|| format!("cannot start {name}"))?))
    }

    /// What it holds of memory now, in MiB.
    pub fn memory(&self) -> Result<f64> {
        let path = format!("/proc/{}/status", self.0.id());
        let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.and_then(|line| line.trim().split(' ').next()?.parse::<f64>().ok());
        Ok(kilobytes.context("no VmRSS")? / 1024.0)
    }

    /// The processor time that it has taken.
    pub fn processor(&self) -> Result<Duration> {
        processor_time(self.0.id()).context("the process is gone")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The processor time of a process and of its children that live, such as a Postgres and its backends.
pub fn processor_of_family(parent: u32) -> Duration {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(|id| *id == parent || parent_of(*id) == Some(parent))
        .filter_map(processor_time)
        .sum()
}

fn parent_of(id: u32) -> Option<u32> {
    stat(id)?.get(1)?.parse().ok()
}

/// The processor time of a process.
pub fn processor_time(id: u32) -> Option<Duration> {
    let stat = stat(id)?;
    let ticks = |place: usize| stat.get(place)?.parse::<f64>().ok();
    Some(Duration::from_secs_f64((ticks(11)? + ticks(12)?) / TICKS))
}

/// The fields of `/proc/PID/stat` behind the program's name, which may hold anything.
fn stat(id: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let (_, behind) = text.rsplit_once(") ")?;
    Some(behind.split(' ').map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_tells_of_this_process() {
        let own = std::process::id();
        assert!(processor_of_family(own) >= processor_time(own).unwrap());
        assert!(parent_of(own).is_some());
    }
}
