//! Where the feeds of all workers but the first stand, a small file for each and each checkpoint: `place-WORKER-STEP.json`. The
//! first one's is in the checkpoint.

use std::fs;
use std::path::{Path, PathBuf};

use super::unwritable;
use crate::Error;

fn path(folder: &Path, rank: usize, step: u64) -> PathBuf {
    folder.join(format!("place-{rank}-{step}.json"))
}

/// Of a checkpoint that is to come.
pub fn write(folder: &Path, rank: usize, step: u64, place: &str) -> Result<(), Error> {
    let path = path(folder, rank, step);
    fs::write(&path, place).map_err(|e| unwritable(&path, &e))
}

/// Of the checkpoint at hand.
pub fn read(folder: &Path, rank: usize, step: u64) -> Result<String, Error> {
    let path = path(folder, rank, step);
    fs::read_to_string(&path).map_err(|e| Error::Place {
        reason: format!(
            "of step {step} was made by other workers: {}: {e}",
            path.display()
        ),
    })
}

/// Drops all but those of this checkpoint.
pub fn keep(folder: &Path, step: u64) -> Result<(), Error> {
    let own = format!("-{step}.json");
    let failed = |e: std::io::Error| unwritable(folder, &e);
    for entry in fs::read_dir(folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let name = name.to_string_lossy();
        let other = name.starts_with("place-") && !name.ends_with(&own);
        if other {
            fs::remove_file(folder.join(&*name)).map_err(failed)?;
        }
    }
    Ok(())
}
