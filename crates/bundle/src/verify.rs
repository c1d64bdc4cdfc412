//! Do the files of a bundle have the hashes that its manifest says?

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::Digest;

use crate::error::Error;
use crate::manifest::{MANIFEST, RelPath, Sha256};
use crate::open::Bundle;

/// What [`Bundle::verify`] found. Lists are sorted by path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verification {
    /// Files that were read.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Listed files that are not there.
    pub missing: Vec<String>,
    /// Files that are there without being listed.
    pub extra: Vec<String>,
    /// Listed files with another hash.
    pub changed: Vec<Changed>,
}

/// A file that is not what the manifest says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Changed {
    /// The file's path in the bundle.
    pub path: String,
    /// The sha-256 in the manifest.
    pub expected: String,
    /// The file's sha-256.
    pub found: String,
}

/// How far a verification has come.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// The file being read.
    pub path: &'a str,
    /// Bytes read so far, of all files.
    pub done: u64,
    /// Bytes to read in all.
    pub total: u64,
}

impl Verification {
    /// Whether every listed file is there and unchanged, and no other.
    pub fn is_ok(&self) -> bool {
        self.missing.is_empty() && self.extra.is_empty() && self.changed.is_empty()
    }
}

impl Bundle {
    /// Hashes every file and compares with `[files]`; `progress` is called after each piece read.
    ///
    /// # Errors
    /// [`Error::Io`] when a file cannot be read; differences are no errors but in the result.
    pub fn verify(&self, mut progress: impl FnMut(Progress<'_>)) -> Result<Verification, Error> {
        let listed = &self.manifest().files;
        let there: BTreeSet<String> = walk(self.dir())?.into_iter().collect();
        let names: BTreeSet<&str> = listed.keys().map(RelPath::as_str).collect();
        let extra = there
            .iter()
            .filter(|p| *p != MANIFEST && !names.contains(p.as_str()));
        let mut found = Verification {
            extra: extra.cloned().collect(),
            ..Verification::default()
        };
        let total = total_size(self.dir(), names.iter().filter(|p| there.contains(**p)));
        for (path, expected) in listed {
            if !there.contains(path.as_str()) {
                found.missing.push(path.to_string());
                continue;
            }
            let before = found.bytes;
            let (hash, size) = hash_file(&path.below(self.dir()), |read| {
                progress(Progress {
                    path: path.as_str(),
                    done: before + read,
                    total,
                });
            })?;
            found.note(path, expected, &hash, size);
        }
        Ok(found)
    }
}

impl Verification {
    fn note(&mut self, path: &RelPath, expected: &Sha256, found: &Sha256, size: u64) {
        self.files += 1;
        self.bytes += size;
        if expected != found {
            self.changed.push(Changed {
                path: path.to_string(),
                expected: expected.to_string(),
                found: found.to_string(),
            });
        }
    }
}

pub(crate) fn total_size<'a>(dir: &Path, paths: impl Iterator<Item = &'a &'a str>) -> u64 {
    paths
        .filter_map(|path| fs::metadata(dir.join(path)).ok())
        .map(|m| m.len())
        .sum()
}

/// The sha-256 and size of a file, read in pieces of 1 MiB.
pub(crate) fn hash_file(
    path: &Path,
    mut progress: impl FnMut(u64),
) -> Result<(Sha256, u64), Error> {
    let mut file = File::open(path).map_err(Error::io("read", path))?;
    let mut hash = sha2::Sha256::new();
    let mut piece = vec![0_u8; 1 << 20];
    let mut size = 0;
    loop {
        let read = file.read(&mut piece).map_err(Error::io("read", path))?;
        if read == 0 {
            return Ok((Sha256::of_bytes(&hash.finalize().into()), size));
        }
        hash.update(&piece[..read]);
        size += read as u64;
        progress(size);
    }
}

/// Every file below `dir`, through symbolic links, sorted, with `/` between the names.
///
/// # Errors
/// [`Error::Io`]; [`Error::LinkCycle`] for a link that leads back to a folder above it.
pub(crate) fn walk(dir: &Path) -> Result<Vec<String>, Error> {
    let mut files = Vec::new();
    walk_into(dir, "", &mut Vec::new(), &mut files)?;
    files.sort_unstable();
    Ok(files)
}

fn walk_into(
    dir: &Path,
    prefix: &str,
    above: &mut Vec<PathBuf>,
    files: &mut Vec<String>,
) -> Result<(), Error> {
    let real = fs::canonicalize(dir).map_err(Error::io("read", dir))?;
    if above.contains(&real) {
        return Err(Error::LinkCycle {
            path: dir.to_path_buf(),
        });
    }
    above.push(real);
    for entry in fs::read_dir(dir).map_err(Error::io("list", dir))? {
        let entry = entry.map_err(Error::io("list", dir))?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            walk_into(&entry.path(), &format!("{name}/"), above, files)?;
        } else {
            files.push(name);
        }
    }
    above.pop();
    Ok(())
}
