//! Numbered folders, one per running process, so that several demos or test runs go side by side.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::lock::try_lock;

const MOST: usize = 1000;

/// A folder that is this process's alone until the slot is dropped or the process ends.
#[derive(Debug)]
pub struct Slot {
    dir: PathBuf,
    _lock: File,
}

impl Slot {
    /// The folder, which exists; what an earlier owner left in it is still there.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// Claims the first free one of `root/0`, `root/1`, ….
///
/// # Errors
/// When `root` cannot be written, or a thousand slots are taken.
pub fn claim_slot(root: &Path) -> Result<Slot> {
    std::fs::create_dir_all(root).with_context(|| format!("cannot create {}", root.display()))?;
    for number in 0..MOST {
        if let Some(lock) = try_lock(&root.join(format!("{number}.lock")))? {
            let dir = root.join(number.to_string());
            std::fs::create_dir_all(&dir)?;
            return Ok(Slot { dir, _lock: lock });
        }
    }
    bail!("all {MOST} slots of {} are in use", root.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_distinct_while_held_and_reused_after() {
        let root = tempfile::tempdir().unwrap();
        let first = claim_slot(root.path()).unwrap();
        let second = claim_slot(root.path()).unwrap();
        assert_ne!(first.dir(), second.dir());
        let dir = first.dir().to_path_buf();
        drop(first);
        assert_eq!(claim_slot(root.path()).unwrap().dir(), dir);
    }
}
