//! Programs that are installed already.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{NATS_MIN, NatsTools, POSTGRES_MIN, PostgresTools, Version};

/// Folders that may hold `N/bin` per Postgres version, as distributions install them.
const POSTGRES_PARENTS: [&str; 4] = [
    "/usr/lib/postgresql",
    "/usr",
    "/opt/homebrew/opt",
    "/usr/local/opt",
];
const USUAL: [&str; 6] = [
    "/usr/local/pgsql/bin",
    "/usr/local/bin",
    "/usr/bin",
    "/usr/sbin",
    "/opt/homebrew/bin",
    "/snap/bin",
];

/// Where programs are looked for: PATH, then the distributions' usual folders.
#[allow(
    clippy::disallowed_methods,
    reason = "PATH says where programs are; it is no configuration of ours"
)]
pub fn search_dirs() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = std::env::split_paths(&path).collect();
    dirs.extend(
        POSTGRES_PARENTS
            .iter()
            .flat_map(|parent| version_bins(Path::new(parent))),
    );
    dirs.extend(USUAL.iter().map(PathBuf::from));
    dirs.retain(|dir| dir.is_absolute());
    dirs
}

/// `15/bin`, `pgsql-15/bin` and `postgresql@15/bin` in `parent`, the newest first.
fn version_bins(parent: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(parent) else {
        return Vec::new();
    };
    let mut bins: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            let number = name
                .strip_prefix("pgsql-")
                .or_else(|| name.strip_prefix("postgresql@"))
                .unwrap_or(&name);
            Some((number.parse().ok()?, parent.join(&name).join("bin")))
        })
        .collect();
    bins.sort_by(|a, b| b.cmp(a));
    bins.into_iter().map(|(_, bin)| bin).collect()
}

/// The first Postgres in `dirs` that is new enough; else the ones that are too old.
pub(super) fn postgres(dirs: &[PathBuf]) -> Result<PostgresTools, Vec<PathBuf>> {
    let mut too_old = Vec::new();
    for dir in dirs {
        let Some(tools) = postgres_in(dir) else {
            continue;
        };
        if tools.version >= POSTGRES_MIN {
            return Ok(tools);
        }
        too_old.push(tools.bin.join("postgres"));
    }
    Err(distinct(too_old))
}

/// The Postgres whose `postgres` is in `dir`, perhaps as a link into its own folder.
pub(super) fn postgres_in(dir: &Path) -> Option<PostgresTools> {
    let program = dir.join("postgres").canonicalize().ok()?;
    let bin = program.parent()?;
    if !bin.join("initdb").is_file() {
        return None;
    }
    Some(PostgresTools {
        bin: bin.to_path_buf(),
        prefix: bin.parent()?.to_path_buf(),
        version: printed_version(&program)?,
    })
}

/// The first nats-server in `dirs` that is new enough; else the ones that are too old.
pub(super) fn nats(dirs: &[PathBuf]) -> Result<NatsTools, Vec<PathBuf>> {
    let mut too_old = Vec::new();
    for dir in dirs {
        let Some(tools) = nats_in(dir) else {
            continue;
        };
        if tools.version >= NATS_MIN {
            return Ok(tools);
        }
        too_old.push(tools.program);
    }
    Err(distinct(too_old))
}

/// The nats-server in `dir`.
pub(super) fn nats_in(dir: &Path) -> Option<NatsTools> {
    let program = dir.join("nats-server").canonicalize().ok()?;
    let version = printed_version(&program)?;
    Some(NatsTools { program, version })
}

fn distinct(mut paths: Vec<PathBuf>) -> Vec<PathBuf> {
    paths.sort();
    paths.dedup();
    paths
}

fn printed_version(program: &Path) -> Option<Version> {
    let output = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .ok()?;
    Version::parse(&String::from_utf8_lossy(&output.stdout))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn program(dir: &Path, name: &str, prints: &str) {
        std::fs::create_dir_all(dir).unwrap();
        let path = dir.join(name);
        std::fs::write(&path, format!("#!/bin/sh\necho '{prints}'\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn the_first_postgres_that_is_new_enough_and_whole_is_found() {
        let root = tempfile::tempdir().unwrap();
        let (old, half, new) = (
            root.path().join("old"),
            root.path().join("half"),
            root.path().join("new"),
        );
        program(&old, "postgres", "postgres (PostgreSQL) 13.4");
        program(&old, "initdb", "");
        program(&half, "postgres", "postgres (PostgreSQL) 16.1");
        program(&new, "postgres", "postgres (PostgreSQL) 17.2");
        program(&new, "initdb", "");
        let found = postgres(&[old.clone(), half, new]).unwrap();
        assert_eq!(found.version, Version::new(17, 2));
        let too_old = postgres(std::slice::from_ref(&old)).unwrap_err();
        assert!(too_old[0].ends_with("old/postgres"), "{too_old:?}");
    }

    #[test]
    fn an_old_nats_server_is_passed_over() {
        let root = tempfile::tempdir().unwrap();
        let (old, new) = (root.path().join("old"), root.path().join("new"));
        program(&old, "nats-server", "nats-server: v2.9.10");
        program(&new, "nats-server", "nats-server: v2.11.0");
        assert_eq!(nats(&[old, new]).unwrap().version, Version::new(2, 11));
        assert!(nats(&[]).unwrap_err().is_empty());
    }

    #[test]
    fn version_folders_come_newest_first() {
        let root = tempfile::tempdir().unwrap();
        for name in ["9", "15", "pgsql-18", "share"] {
            std::fs::create_dir(root.path().join(name)).unwrap();
        }
        let bins = version_bins(root.path());
        assert_eq!(bins.len(), 3);
        assert!(bins[0].ends_with("pgsql-18/bin") && bins[2].ends_with("9/bin"));
    }
}
