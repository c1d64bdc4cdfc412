//! The folder of a bundle, which holds all of it or is not there.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Made, NAME};
use crate::error::Error;
use crate::verify::walk;

/// Writes files, by their paths, into `dir`, which must be new, empty or hold exactly these already. They are written into a
/// sibling directory that is renamed at the end.
///
/// # Errors
/// [`Error::NotEmpty`] when `dir` holds anything else; [`Error::Io`].
pub fn fill<N, B>(dir: &Path, files: &BTreeMap<N, B>) -> Result<Made, Error>
where
    N: AsRef<str>,
    B: AsRef<[u8]>,
{
    if occupied(dir)? {
        return already_there(dir, files);
    }
    let parent = parent_of(dir)?;
    fs::create_dir_all(&parent).map_err(Error::io("create", &parent))?;
    let scratch = tempfile::Builder::new()
        .prefix(".pocket-")
        .tempdir_in(&parent)
        .map_err(Error::io("create a directory in", &parent))?;
    let whole = scratch.path().join(NAME);
    write_all(&whole, files)?;
    match fs::rename(&whole, dir) {
        Ok(()) => Ok(Made::Written),
        // Somebody else was faster; what they made may be the same.
        Err(_) if occupied(dir)? => already_there(dir, files),
        Err(source) => Err(Error::io("write", dir)(source)),
    }
}

/// The folder that `dir` lies in, also for `pocket`, `pocket/` and `a/..`.
pub fn parent_of(dir: &Path) -> Result<PathBuf, Error> {
    let whole = std::path::absolute(dir).map_err(Error::io("find", dir))?;
    let parent = whole.parent().map(Path::to_path_buf);
    parent.ok_or_else(|| Error::NotEmpty {
        path: dir.to_path_buf(),
    })
}

/// Whether `dir` exists and is anything but an empty directory.
pub fn occupied(dir: &Path) -> Result<bool, Error> {
    match fs::read_dir(dir) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => Ok(true),
        Err(e) => Err(Error::io("list", dir)(e)),
    }
}

fn already_there<N, B>(dir: &Path, files: &BTreeMap<N, B>) -> Result<Made, Error>
where
    N: AsRef<str>,
    B: AsRef<[u8]>,
{
    let other = || Error::NotEmpty {
        path: dir.to_path_buf(),
    };
    if !dir.is_dir() || !walk(dir)?.iter().eq(files.keys().map(AsRef::as_ref)) {
        return Err(other());
    }
    for (name, bytes) in files {
        let path = dir.join(name.as_ref());
        if fs::read(&path).map_err(Error::io("read", &path))? != bytes.as_ref() {
            return Err(other());
        }
    }
    Ok(Made::AlreadyThere)
}

fn write_all<N, B>(dir: &Path, files: &BTreeMap<N, B>) -> Result<(), Error>
where
    N: AsRef<str>,
    B: AsRef<[u8]>,
{
    for (name, bytes) in files {
        let path = dir.join(name.as_ref());
        let folder = path.parent().unwrap_or(dir);
        fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        fs::write(&path, bytes).map_err(Error::io("write", &path))?;
    }
    Ok(())
}
