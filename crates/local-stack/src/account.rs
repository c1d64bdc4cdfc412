//! As root, Postgres refuses to run: it then runs as another account, in folders that account can
//! reach.

use std::fs::{self, Metadata};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The account that Postgres runs as where we are root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Account {
    /// `None` unless we are root. A folder that an account owns already keeps it; else it is
    /// `postgres` where that exists, else `nobody`.
    pub(crate) fn needed(owned: &Path) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let owner = fs::metadata(owned).ok().filter(|meta| meta.uid() != 0);
        Some(owner.map_or_else(Self::from_passwd, |meta| Self {
            uid: meta.uid(),
            gid: meta.gid(),
        }))
    }

    fn from_passwd() -> Self {
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        ["postgres", "nobody"]
            .iter()
            .find_map(|name| passwd_entry(&passwd, name))
            .unwrap_or(Self {
                uid: 65534,
                gid: 65534,
            })
    }

    /// Gives `path` to this account.
    pub(crate) fn own(self, path: &Path) -> Result<()> {
        chown(path, Some(self.uid), Some(self.gid))
            .with_context(|| format!("cannot give {} to uid {}", path.display(), self.uid))
    }

    /// Whether this account may pass through `dir` and every folder above it.
    pub(crate) fn reaches(self, dir: &Path) -> bool {
        dir.ancestors()
            .all(|folder| fs::metadata(folder).is_ok_and(|meta| self.may_enter(&meta)))
    }

    fn may_enter(self, meta: &Metadata) -> bool {
        let needed = if meta.uid() == self.uid {
            0o100
        } else if meta.gid() == self.gid {
            0o010
        } else {
            0o001
        };
        meta.mode() & needed != 0
    }
}

fn passwd_entry(passwd: &str, name: &str) -> Option<Account> {
    let line = passwd
        .lines()
        .find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    // macOS writes nobody as -2.
    let mut id = || Some(fields.next()?.parse::<i64>().ok()? as u32);
    Some(Account {
        uid: id()?,
        gid: id()?,
    })
}

/// The folder, under the system's own for temporary files, that stands in for `dir` where the
/// account cannot reach `dir`. The same `dir` always gets the same one.
pub(crate) fn stand_in(dir: &Path) -> PathBuf {
    let base = Path::new("/var/tmp");
    let temp = std::env::temp_dir();
    let base = if base.is_dir() { base } else { &temp };
    base.join(format!(
        "likeness-{:016x}",
        fnv1a(dir.as_os_str().as_encoded_bytes())
    ))
}

/// Creates the stand-in of `dir`, and refuses one that somebody else laid there.
pub(crate) fn create_stand_in(dir: &Path) -> Result<PathBuf> {
    let path = stand_in(dir);
    match fs::DirBuilder::new().mode(0o711).create(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| format!("cannot create {}", path.display()));
        }
        _ => {}
    }
    let meta = fs::symlink_metadata(&path)?;
    if !meta.is_dir() || meta.uid() != 0 || meta.mode() & 0o022 != 0 {
        bail!(
            "{} is not a folder of root's alone: remove it",
            path.display()
        );
    }
    Ok(path)
}

/// FNV-1a, 64 bits: a short name for a path that stays the same over compiler versions.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn accounts_are_read_from_passwd() {
        let passwd = "root:x:0:0::/root:/bin/sh\npostgres:x:101:104:PG:/var/lib:/bin/sh\n\
                      nobody:*:-2:-2:Unprivileged:/var/empty:/usr/bin/false\n";
        assert_eq!(
            passwd_entry(passwd, "postgres"),
            Some(Account { uid: 101, gid: 104 })
        );
        let nobody = passwd_entry(passwd, "nobody").unwrap();
        assert_eq!(nobody.uid, u32::MAX - 1);
        assert_eq!(passwd_entry(passwd, "post"), None);
    }

    #[test]
    fn a_private_folder_on_the_way_is_out_of_reach() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("inner");
        fs::create_dir(&inner).unwrap();
        let stranger = Account {
            uid: 4_000_001,
            gid: 4_000_001,
        };
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o700)).unwrap();
        assert!(!stranger.reaches(&inner));
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o711)).unwrap();
        assert!(stranger.reaches(&inner));
    }

    #[test]
    fn stand_ins_differ_by_path_and_stay() {
        assert_eq!(stand_in(Path::new("/a")), stand_in(Path::new("/a")));
        assert_ne!(stand_in(Path::new("/a")), stand_in(Path::new("/b")));
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
    }
}
