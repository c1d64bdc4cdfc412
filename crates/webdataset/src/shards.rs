//! Which tar files a data set consists of.

use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::pattern;

const ENDINGS: [&str; 3] = [".tar", ".tar.gz", ".tgz"];

/// The shards of a data set in the order of their paths, each once, at least one; all were there when they were listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shards(Vec<Shard>);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Shard {
    path: PathBuf,
    bytes: u64,
}

impl Shards {
    /// The shards of a folder, of a pattern such as `data/shard-{000000..000099}.tar`, or one file.
    ///
    /// # Errors
    /// [`Error::Pattern`], and those of [`Shards::from_folder`] and [`Shards::from_paths`].
    pub fn find(place: &str) -> Result<Self, Error> {
        if Path::new(place).is_dir() {
            return Self::from_folder(Path::new(place));
        }
        let paths = pattern::expand(place).map_err(|problem| Error::Pattern {
            pattern: place.to_owned(),
            problem,
        })?;
        Self::from_paths(paths.into_iter().map(PathBuf::from))
    }

    /// The files that lie in a folder itself and are called `.tar`, `.tar.gz` or `.tgz`.
    ///
    /// # Errors
    /// [`Error::NoShards`]; [`Error::Read`] if the folder cannot be listed.
    pub fn from_folder(folder: &Path) -> Result<Self, Error> {
        let read = |source| Error::Read {
            path: folder.to_owned(),
            source,
        };
        let entries = folder.read_dir().map_err(read)?;
        let paths: Vec<PathBuf> = entries
            .map(|entry| Ok(entry?.path()))
            .collect::<io::Result<_>>()
            .map_err(read)?;
        let shards = paths.into_iter().filter(|path| is_shard(path));
        Self::listed(shards.collect(), &folder.display().to_string())
    }

    /// The given files.
    ///
    /// # Errors
    /// [`Error::NoShards`] for an empty list, [`Error::MissingShards`] for files that are not there, [`Error::Read`].
    pub fn from_paths(paths: impl IntoIterator<Item = PathBuf>) -> Result<Self, Error> {
        Self::listed(paths.into_iter().collect(), "the list")
    }

    fn listed(mut paths: Vec<PathBuf>, place: &str) -> Result<Self, Error> {
        paths.sort();
        paths.dedup();
        if paths.is_empty() {
            let place = place.to_owned();
            return Err(Error::NoShards { place });
        }
        let missing: Vec<&PathBuf> = paths.iter().filter(|path| !path.is_file()).collect();
        if let Some(first) = missing.first() {
            return Err(Error::MissingShards {
                missing: missing.len(),
                first: (*first).clone(),
            });
        }
        paths
            .into_iter()
            .map(with_size)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// How many there are; at least one.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Their paths, in order.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().map(|shard| shard.path.as_path())
    }

    /// The path of one by its number in the order, which may come from a saved position.
    pub(crate) fn path(&self, number: u32) -> Result<&Path, Error> {
        let shard = self.0.get(number as usize);
        let shard = shard.ok_or(Error::OtherPosition { what: "shards" })?;
        Ok(&shard.path)
    }

    /// A digest of the files' names and sizes, so that a position is not used with other shards. The folder is not in
    /// it: data may be moved.
    pub(crate) fn digest(&self) -> String {
        let mut digest = Sha256::new();
        for Shard { path, bytes } in &self.0 {
            let name = path.file_name().unwrap_or_default();
            digest.update(name.as_encoded_bytes());
            // No name has a zero in it, so that no two lists give the same bytes.
            digest.update([0]);
            digest.update(bytes.to_le_bytes());
        }
        hex::encode(digest.finalize())
    }
}

fn is_shard(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| ENDINGS.iter().any(|ending| name.ends_with(ending)))
}

fn with_size(path: PathBuf) -> Result<Shard, Error> {
    match path.metadata() {
        Ok(metadata) => Ok(Shard {
            bytes: metadata.len(),
            path,
        }),
        Err(source) => Err(Error::Read { path, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(names: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            std::fs::write(dir.path().join(name), name).unwrap();
        }
        dir
    }

    fn names(shards: &Shards) -> Vec<String> {
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        shards.paths().map(name).collect()
    }

    #[test]
    fn a_folder_gives_its_shards_in_order() {
        let dir = folder(&["b.tar", "a.tar.gz", "c.tgz", "notes.txt", "d.tar.part"]);
        let shards = Shards::find(dir.path().to_str().unwrap()).unwrap();
        assert_eq!(names(&shards), ["a.tar.gz", "b.tar", "c.tgz"]);
    }

    #[test]
    fn a_pattern_gives_what_it_names_and_says_what_is_missing() {
        let dir = folder(&["s-00.tar", "s-01.tar", "s-03.tar"]);
        let at = |name: &str| format!("{}/{name}", dir.path().display());
        let two = Shards::find(&at("s-{00..01}.tar")).unwrap();
        assert_eq!(names(&two), ["s-00.tar", "s-01.tar"]);
        match Shards::find(&at("s-{00..04}.tar")) {
            Err(Error::MissingShards { missing: 2, first }) => {
                assert!(first.ends_with("s-02.tar"));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn nothing_is_an_error() {
        let dir = folder(&["notes.txt"]);
        let found = Shards::from_folder(dir.path());
        assert!(matches!(found, Err(Error::NoShards { .. })));
        assert!(matches!(
            Shards::from_paths([]),
            Err(Error::NoShards { .. })
        ));
    }

    #[test]
    fn the_digest_follows_names_and_sizes_and_not_the_folder() {
        let [one, moved, other] = [
            folder(&["a.tar", "b.tar"]),
            folder(&["a.tar", "b.tar"]),
            folder(&["a.tar", "c.tar"]),
        ];
        let digest = |dir: &tempfile::TempDir| Shards::from_folder(dir.path()).unwrap().digest();
        assert_eq!(digest(&one), digest(&moved));
        assert_ne!(digest(&one), digest(&other));
        std::fs::write(moved.path().join("a.tar"), "longer than before").unwrap();
        assert_ne!(digest(&one), digest(&moved));
    }
}
