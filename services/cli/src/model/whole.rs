//! Files that appear whole and together, or not at all.

use std::{
    fs::{self, Permissions},
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;

use crate::fail::Failure;

/// Files that are written beside their places first, and renamed once all are written.
#[derive(Default)]
pub struct Outputs {
    files: Vec<(PathBuf, Vec<u8>)>,
}

impl Outputs {
    /// One more file.
    pub fn add(&mut self, path: impl Into<PathBuf>, bytes: Vec<u8>) {
        self.files.push((path.into(), bytes));
    }

    /// Writes all files; a failure leaves none of them.
    pub fn commit(self) -> Result<(), Failure> {
        let mut written = Vec::with_capacity(self.files.len());
        for (path, bytes) in &self.files {
            check(path)?;
            written.push((beside(path, bytes)?, path));
        }
        for (file, path) in written {
            file.persist(path)
                .map_err(|error| cannot_write(path, &error.error))?;
        }
        Ok(())
    }
}

/// Whether a file could be written there: asked before the work, so that it is not in vain.
pub fn check(path: &Path) -> Result<(), Failure> {
    if path.is_dir() {
        return Err(Failure::new(format!(
            "cannot write {}: it is a folder; name a file",
            path.display()
        )));
    }
    let folder = folder_of(path);
    if folder.is_dir() {
        return Ok(());
    }
    Err(Failure::new(format!(
        "cannot write {}: there is no folder {}; create it first",
        path.display(),
        folder.display()
    )))
}

/// Makes a folder for outputs, unless it is there.
pub fn folder(dir: &Path) -> Result<(), Failure> {
    fs::create_dir_all(dir).map_err(|error| cannot_write(dir, &error))
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

fn beside(path: &Path, bytes: &[u8]) -> Result<NamedTempFile, Failure> {
    let write = || {
        // As for any new file, the user's umask decides who may read it.
        let mut file = tempfile::Builder::new()
            .prefix(".likeness-")
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(folder_of(path))?;
        file.write_all(bytes)?;
        Ok(file)
    };
    write().map_err(|error| cannot_write(path, &error))
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(format!("cannot write {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_files_appear_or_none() {
        let scratch = tempfile::tempdir().unwrap();
        let (good, bad) = (scratch.path().join("a"), scratch.path().join("no/b"));
        let mut outputs = Outputs::default();
        outputs.add(&good, b"a".to_vec());
        outputs.add(&bad, b"b".to_vec());
        let failure = outputs.commit().err().unwrap();
        assert!(failure.to_string().contains("create it first"), "{failure}");
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
        let mut outputs = Outputs::default();
        outputs.add(&good, b"a".to_vec());
        assert!(outputs.commit().is_ok());
        assert_eq!(fs::read(&good).unwrap(), b"a");
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 1);
    }
}
