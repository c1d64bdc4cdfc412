//! One owner per folder: an advisory lock that the system releases when its holder dies.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Locks `dir` (created if missing) through the file `lock` in it.
///
/// # Errors
/// When the folder cannot be written, or another running process holds it.
pub fn lock_dir(dir: &Path) -> Result<File> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    match try_lock(&dir.join("lock"))? {
        Some(lock) => Ok(lock),
        None => bail!(
            "{} is in use by another running process: stop that one or choose another folder",
            dir.display()
        ),
    }
}

/// Takes the lock file at `path`, or returns `None` where a running process holds it.
///
/// # Errors
/// When the file cannot be created or locked at all.
pub fn try_lock(path: &Path) -> Result<Option<File>> {
    let file = open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}

/// Takes the lock file at `path`, waiting for whoever holds it.
///
/// # Errors
/// When the file cannot be created or locked at all.
pub fn wait_lock(path: &Path) -> Result<File> {
    let file = open(path)?;
    file.lock()
        .with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

fn open(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_owner_is_refused_by_name_until_the_first_lets_go() {
        let dir = tempfile::tempdir().unwrap();
        let first = lock_dir(dir.path()).unwrap();
        let error = lock_dir(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&dir.path().display().to_string()), "{error}");
        drop(first);
        lock_dir(dir.path()).unwrap();
    }

    #[test]
    fn a_lock_file_left_by_a_dead_process_does_not_lock() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("lock"), "stale").unwrap();
        lock_dir(dir.path()).unwrap();
    }
}
