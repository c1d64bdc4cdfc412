//! Writing the checksums of a bundle's files into its manifest.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;

use crate::error::Error;
use crate::manifest::{MANIFEST, Manifest, RelPath, Sha256};
use crate::open::Bundle;
use crate::verify::{Progress, hash_file, total_size, walk};

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hashed {
    /// Files in `[files]`.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
}

impl Bundle {
    /// Hashes every file below the bundle's directory and replaces `[files]` in its manifest; all else in
    /// it, comments included, stays as it is. The manifest is replaced whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::LinkCycle`]; [`Error::Manifest`] when the manifest writes its checksums in
    /// another way than as a section `[files]`, or a file's name cannot stand in it.
    pub fn write_hashes(&self, mut progress: impl FnMut(Progress<'_>)) -> Result<Hashed, Error> {
        let mut paths = walk(self.dir())?;
        paths.retain(|path| path != MANIFEST);
        let names: Vec<&str> = paths.iter().map(String::as_str).collect();
        let total = total_size(self.dir(), names.iter());
        let mut files = BTreeMap::new();
        let mut bytes = 0;
        for path in &paths {
            let done = bytes;
            let (hash, size) = hash_file(&self.dir().join(path), |read| {
                let done = done + read;
                progress(Progress { path, done, total });
            })?;
            bytes += size;
            let key = RelPath::try_from(path.clone()).map_err(|reason| self.unusable(reason))?;
            files.insert(key, hash);
        }
        self.replace_files(&files)?;
        Ok(Hashed {
            files: files.len(),
            bytes,
        })
    }

    fn replace_files(&self, files: &BTreeMap<RelPath, Sha256>) -> Result<(), Error> {
        let path = self.dir().join(MANIFEST);
        let text = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        let text = with_files(&text, files);
        let expected = Manifest {
            files: files.clone(),
            ..self.manifest().clone()
        };
        if !Manifest::parse(&text).is_ok_and(|manifest| manifest == expected) {
            return Err(self.unusable(
                "its checksums cannot be replaced: write them as a section [files], one line per file"
                    .to_owned(),
            ));
        }
        let write = || {
            let mut file = tempfile::NamedTempFile::new_in(self.dir())?;
            file.write_all(text.as_bytes())?;
            // A new file of the library's would be its owner's alone.
            fs::set_permissions(file.path(), fs::metadata(&path)?.permissions())?;
            file.persist(&path).map_err(|error| error.error)
        };
        write().map(drop).map_err(Error::io("write", &path))
    }

    fn unusable(&self, message: String) -> Error {
        Error::Manifest {
            path: self.dir().join(MANIFEST),
            message,
        }
    }
}

/// The text with its section `[files]` replaced, or added at its end.
fn with_files(text: &str, files: &BTreeMap<RelPath, Sha256>) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut skipping = false;
    for line in text.lines() {
        if line.trim_start().starts_with('[') {
            skipping = line.split('#').next().unwrap_or_default().trim() == "[files]";
        }
        if !skipping {
            kept.push(line);
        }
    }
    let kept = kept.join("\n");
    // JSON's escapes are TOML's.
    let line = |(path, hash): (&RelPath, &Sha256)| {
        format!("{} = \"{hash}\"\n", serde_json::Value::from(path.as_str()))
    };
    let lines: String = files.iter().map(line).collect();
    format!("{}\n\n[files]\n{lines}", kept.trim_end())
}
