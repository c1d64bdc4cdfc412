//! Is a file what the hub says?

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use sha1::Digest as _;

use super::hub::{Hash, Listed};
use crate::error::Error;
use crate::manifest::Sha256;
use crate::verify::hash_file;

/// Compares a file's size and hash with the hub's; its sha-256 is the answer.
///
/// # Errors
/// [`Error::Checksum`]; [`Error::Io`].
pub(super) fn check(file: &Path, path: &str, listed: &Listed) -> Result<Sha256, Error> {
    let (sha256, size) = hash_file(file, |_| {})?;
    let wrong = |expected: String, found: String| Error::Checksum {
        path: path.to_owned(),
        expected,
        found,
    };
    if size != listed.size {
        let bytes = |size| format!("{size} bytes");
        return Err(wrong(bytes(listed.size), bytes(size)));
    }
    match &listed.hash {
        Hash::Sha256(expected) if sha256.as_str() != expected => {
            Err(wrong(expected.clone(), sha256.to_string()))
        }
        Hash::Sha256(_) => Ok(sha256),
        Hash::GitBlob(expected) => {
            let found = git_blob(file, size)?;
            if found == *expected {
                return Ok(sha256);
            }
            Err(wrong(expected.clone(), found))
        }
    }
}

/// The name that git gives a file's content: what the hub knows of files outside its large file storage.
fn git_blob(file: &Path, size: u64) -> Result<String, Error> {
    let mut content = Vec::new();
    File::open(file)
        .and_then(|mut open| open.read_to_end(&mut content))
        .map_err(Error::io("read", file))?;
    let mut hash = sha1::Sha1::new();
    hash.update(format!("blob {size}\0"));
    hash.update(&content);
    Ok(hex::encode(hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_named_as_git_names_it() {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("a");
        std::fs::write(&file, "hello\n").unwrap();
        // `echo hello | git hash-object --stdin`
        let expected = "ce013625030ba8dba906f756967f9e9ca394464a";
        assert_eq!(git_blob(&file, 6).unwrap(), expected);
    }
}
