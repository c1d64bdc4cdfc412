//! Neighbouring files of one key, which are a sample.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};

use likeness_picture::Limits;

use crate::error::Error;
use crate::members::{Member, Members, Next};
use crate::sample::Encoded;
use crate::skipped::Reason;

/// The most that a `.txt` or `.json` may have: far more than any caption, with room for the metadata of collections.
const TEXT_BYTES: u64 = 1 << 20;

/// The files of one key.
pub(crate) struct Group {
    /// Where the first of them begins, for [`Groups::at`].
    pub(crate) offset: u64,
    /// The key; empty where damage left none.
    pub(crate) key: String,
    /// The sample, or why it is left out. An unwanted group has no data in it.
    pub(crate) content: Result<Encoded, Reason>,
}

/// A shard's groups in their order. Which there are does not depend on which are wanted.
pub(crate) struct Groups {
    path: PathBuf,
    members: Members,
    ahead: Option<Next>,
    seen: HashSet<String>,
    image_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    Image,
    Text,
    Json,
}

/// A group that may get further files.
struct Open {
    offset: u64,
    key: String,
    suffixes: Vec<String>,
    files: BTreeMap<Role, Vec<u8>>,
    lost: Option<Reason>,
}

impl Groups {
    pub(crate) fn open(path: &Path, limits: &Limits) -> Result<Self, Error> {
        let members = Members::open(path).map_err(|source| Error::Read {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            path: path.to_owned(),
            members,
            ahead: None,
            seen: HashSet::new(),
            image_bytes: limits.max_bytes,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The next group; the data of an unwanted one is not read.
    pub(crate) fn next(&mut self, wanted: bool) -> Result<Option<Group>, Error> {
        let group = self.read_group(wanted);
        group.map_err(|source| self.failed(source))
    }

    /// The group that begins at an offset, which must lie ahead of all groups read so far; `None` if none begins there.
    pub(crate) fn at(&mut self, offset: u64) -> Result<Option<Group>, Error> {
        let is_next = matches!(&self.ahead, Some(Next::Member(member)) if member.offset == offset);
        if !is_next {
            self.ahead = None;
            let jumped = self.members.jump(offset);
            if !jumped.map_err(|source| self.failed(source))? {
                return Ok(None);
            }
        }
        // What lies between was not seen, so that two of one key cannot be told anyway.
        self.seen.clear();
        let group = self.next(true)?;
        Ok(group.filter(|group| group.offset == offset))
    }

    fn failed(&self, source: io::Error) -> Error {
        let path = self.path.clone();
        Error::Read { path, source }
    }

    fn read_group(&mut self, wanted: bool) -> io::Result<Option<Group>> {
        let mut open = match self.take()? {
            Next::End => return Ok(None),
            Next::Damage(offset) => Open::lost(offset, Reason::Damaged),
            Next::Cut(offset) => Open::lost(offset, Reason::Truncated),
            Next::Member(first) => self.begin(&first, wanted)?,
        };
        loop {
            match self.take()? {
                Next::Member(member) if open.takes(&member) => {
                    self.absorb(&mut open, &member, wanted)?;
                }
                // The rest of this group is among what is damaged or missing. One that has all it needs is kept.
                Next::Damage(_) if !open.is_whole() => open.lose(Reason::Damaged),
                Next::Cut(_) if !open.is_whole() => open.lose(Reason::Truncated),
                other => {
                    self.ahead = Some(other);
                    return Ok(Some(open.closed()));
                }
            }
        }
    }

    fn take(&mut self) -> io::Result<Next> {
        match self.ahead.take() {
            Some(next) => Ok(next),
            None => self.members.next(),
        }
    }

    fn begin(&mut self, first: &Member, wanted: bool) -> io::Result<Open> {
        let mut open = Open::new(first.offset, first.key.clone());
        if !self.seen.insert(first.key.clone()) {
            open.lose(Reason::DuplicateKey);
        }
        self.absorb(&mut open, first, wanted)?;
        Ok(open)
    }

    fn absorb(&mut self, open: &mut Open, member: &Member, wanted: bool) -> io::Result<()> {
        open.suffixes.push(member.suffix.clone());
        // Of two pictures the first counts.
        let role = Role::of(&member.suffix).filter(|role| !open.files.contains_key(role));
        if let Some(reason) = role.and_then(|role| self.excess(role, member.size)) {
            open.lose(reason);
        }
        let data = if wanted && role.is_some() && open.lost.is_none() {
            self.members.data(member.size)?
        } else {
            self.members.pass(member.size)?.then(Vec::new)
        };
        match (role, data) {
            (_, None) => open.lose(Reason::Truncated),
            (Some(role), Some(data)) => _ = open.files.insert(role, data),
            (None, Some(_)) => {}
        }
        Ok(())
    }

    fn excess(&self, role: Role, size: u64) -> Option<Reason> {
        match role {
            Role::Image => (size > self.image_bytes).then_some(Reason::ImageTooLarge),
            Role::Text | Role::Json => (size > TEXT_BYTES).then_some(Reason::TextTooLarge),
        }
    }
}

impl Role {
    fn of(suffix: &str) -> Option<Self> {
        match suffix {
            "jpg" | "jpeg" | "png" | "webp" => Some(Self::Image),
            "txt" => Some(Self::Text),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}

impl Open {
    fn new(offset: u64, key: String) -> Self {
        Self {
            offset,
            key,
            suffixes: Vec::new(),
            files: BTreeMap::new(),
            lost: None,
        }
    }

    /// For damage that belongs to no known key.
    fn lost(offset: u64, reason: Reason) -> Self {
        Self {
            lost: Some(reason),
            ..Self::new(offset, String::new())
        }
    }

    /// Whether a file belongs here. A second one of the same name begins a second sample of the same key.
    fn takes(&self, member: &Member) -> bool {
        self.key == member.key && !self.suffixes.contains(&member.suffix)
    }

    /// The first reason counts; but that the shard is cut off is about more than this sample.
    fn lose(&mut self, reason: Reason) {
        if self.lost.is_none() || reason == Reason::Truncated {
            self.lost = Some(reason);
        }
    }

    fn missing(&self) -> Option<Reason> {
        let has = |role| self.files.contains_key(&role);
        if !has(Role::Image) {
            return Some(Reason::MissingImage);
        }
        (!has(Role::Text) && !has(Role::Json)).then_some(Reason::MissingCaption)
    }

    fn is_whole(&self) -> bool {
        self.lost.is_none() && self.missing().is_none()
    }

    fn closed(mut self) -> Group {
        let reason = self.lost.or(self.missing());
        let mut file = |role| self.files.remove(&role);
        let content = match reason {
            Some(reason) => Err(reason),
            None => Ok(Encoded {
                image: file(Role::Image).unwrap_or_default(),
                text: file(Role::Text),
                json: file(Role::Json),
            }),
        };
        Group {
            offset: self.offset,
            key: self.key,
            content,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::Draws;
    use crate::testing::{TarFile, damage, end_mark, gzipped, png};

    type Seen = Vec<(String, Option<Reason>)>;

    fn groups_of(tar: &[u8]) -> Vec<Group> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), tar).unwrap();
        let mut groups = Groups::open(file.path(), &Limits::default()).unwrap();
        std::iter::from_fn(|| groups.next(true).unwrap()).collect()
    }

    fn seen(tar: &[u8]) -> Seen {
        let groups = groups_of(tar).into_iter();
        groups
            .map(|group| (group.key, group.content.err()))
            .collect()
    }

    fn expected(groups: &[(&str, Option<Reason>)]) -> Seen {
        let groups = groups.iter();
        groups
            .map(|(key, lost)| ((*key).to_owned(), *lost))
            .collect()
    }

    fn pairs(keys: &[&str]) -> Vec<u8> {
        let mut tar = TarFile::default();
        for key in keys {
            tar.add(&format!("{key}.png"), &png(4, 4));
            tar.add(&format!("{key}.txt"), b"a caption");
        }
        tar.bytes()
    }

    #[test]
    fn neighbours_of_one_key_are_a_sample() {
        let mut tar = TarFile::default();
        tar.add("dir.v2/a.JPG", b"one");
        tar.add("dir.v2/a.cls", b"7");
        tar.add("dir.v2/a.json", b"{}");
        tar.add("__meta__/notes.txt", b"not a sample");
        tar.add("README", b"nor this");
        tar.add(&format!("{}.webp", "long".repeat(60)), b"two");
        tar.add(&format!("{}.txt", "long".repeat(60)), b"words");
        for bytes in [tar.bytes(), gzipped(&tar.bytes())] {
            let found = groups_of(&bytes);
            assert_eq!(found.len(), 2);
            let first = found[0].content.as_ref().unwrap();
            assert_eq!((&*found[0].key, &*first.image), ("dir.v2/a", &b"one"[..]));
            assert_eq!(
                (&first.text, first.json.as_deref()),
                (&None, Some(&b"{}"[..]))
            );
            let second = found[1].content.as_ref().unwrap();
            assert_eq!((found[1].key.len(), &*second.image), (240, &b"two"[..]));
            assert_eq!(second.text.as_deref(), Some(&b"words"[..]));
        }
    }

    #[test]
    fn what_is_not_whole_is_named() {
        let mut tar = TarFile::default();
        tar.add("blind.txt", b"a caption");
        tar.add("mute.png", b"a picture");
        tar.add("mute.cls", b"7");
        tar.add("fine.png", b"a picture");
        tar.add("fine.jpg", b"another");
        tar.add("fine.txt", b"a caption");
        tar.add("fine.txt", b"its second");
        tar.add("large.png", b"a picture");
        tar.add("large.txt", &vec![b' '; TEXT_BYTES as usize + 1]);
        tar.add("blind.png", b"too late");
        let all = [
            ("blind", Some(Reason::MissingImage)),
            ("mute", Some(Reason::MissingCaption)),
            ("fine", None),
            ("fine", Some(Reason::DuplicateKey)),
            ("large", Some(Reason::TextTooLarge)),
            ("blind", Some(Reason::DuplicateKey)),
        ];
        assert_eq!(seen(&tar.bytes()), expected(&all));
        let fine = groups_of(&tar.bytes()).remove(2).content.unwrap();
        assert_eq!(fine.image, b"a picture");
    }

    #[test]
    fn wherever_a_shard_is_cut_what_is_before_is_read_and_the_loss_counted_once() {
        let tar = pairs(&["a", "b", "c"]);
        let each = (tar.len() - 1024) / 3;
        for length in (0..tar.len() - 1024).step_by(31) {
            let found = seen(&tar[..length]);
            let lost = found.iter().filter(|(_, lost)| lost.is_some());
            let reasons: Vec<_> = lost.map(|(_, lost)| *lost).collect();
            assert_eq!(reasons, [Some(Reason::Truncated)], "{length}");
            assert!(found.len() > length / each, "{length}: {found:?}");
        }
        assert_eq!(
            seen(&tar[..tar.len() - 512]),
            seen(&tar),
            "one end block is an end"
        );
    }

    #[test]
    fn a_cut_compressed_shard_gives_what_is_before() {
        let packed = gzipped(&pairs(&["a", "b", "c"]));
        for length in 20..packed.len() - 60 {
            let found = seen(&packed[..length]);
            let truncated = |(_, lost): &(String, Option<Reason>)| *lost == Some(Reason::Truncated);
            assert_eq!(found.iter().filter(|one| truncated(one)).count(), 1);
        }
    }

    #[test]
    fn reading_goes_on_behind_damage() {
        let tar = pairs(&["a", "b", "c"]);
        let headers = end_mark(&tar) / 512 / 2;
        assert_eq!(headers, 6, "a header and one block of data for each file");
        // The caption's header of b, then the picture's.
        let caption = expected(&[("a", None), ("b", Some(Reason::Damaged)), ("c", None)]);
        assert_eq!(seen(&damage(&tar, 3 * 1024)), caption);
        let picture = [
            ("a", None),
            ("", Some(Reason::Damaged)),
            ("b", Some(Reason::MissingImage)),
            ("c", None),
        ];
        assert_eq!(seen(&damage(&tar, 2 * 1024)), expected(&picture));
        // The first of all, and nothing but noise.
        let first = [
            ("", Some(Reason::Damaged)),
            ("a", Some(Reason::MissingImage)),
            ("b", None),
            ("c", None),
        ];
        assert_eq!(seen(&damage(&tar, 0)), expected(&first));
        assert_eq!(seen(&[9; 5000]), expected(&[("", Some(Reason::Damaged))]));
    }

    #[test]
    fn noise_anywhere_is_no_failure() {
        let tar = pairs(&["a", "b", "c"]);
        let mut draws = Draws::for_samples(1, 0, 0);
        for _ in 0..300 {
            let mut noisy = tar.clone();
            for _ in 0..=draws.below(20) {
                let at = draws.below(tar.len());
                noisy[at] = draws.below(256) as u8;
            }
            // Unwraps every group.
            assert!(groups_of(&noisy).len() <= 9);
            groups_of(&gzipped(&noisy));
            let mut packed = gzipped(&tar);
            let at = draws.below(packed.len());
            packed[at] ^= 1 << draws.below(8);
            groups_of(&packed);
        }
    }

    #[test]
    fn sizes_beyond_all_bounds_are_a_cut() {
        for size in [1 << 40, u64::MAX / 2, u64::MAX] {
            for name in ["a.png", "a.cls", "./././@LongLink"] {
                let mut header = tar::Header::new_gnu();
                header.set_path(name).unwrap();
                header.set_size(size);
                if name.contains('@') {
                    header.set_entry_type(tar::EntryType::GNULongName);
                }
                header.set_cksum();
                let huge = [header.as_bytes(), &[1; 3000][..]].concat();
                for bytes in [gzipped(&huge), huge] {
                    let lost: Vec<_> = seen(&bytes).into_iter().map(|(_, lost)| lost).collect();
                    let damage = [Reason::Truncated, Reason::Damaged].map(Some);
                    assert!(
                        lost.len() == 1 && damage.contains(&lost[0]),
                        "{name}: {lost:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn unwanted_groups_are_the_same_ones() {
        let tar = pairs(&["a", "b", "a", "c"]);
        for length in [tar.len(), tar.len() - 1024, tar.len() - 1500, 2000, 0] {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), &tar[..length]).unwrap();
            let mut groups = Groups::open(file.path(), &Limits::default()).unwrap();
            let passed = std::iter::from_fn(|| groups.next(false).unwrap());
            let keys: Vec<(String, u64)> = passed.map(|one| (one.key, one.offset)).collect();
            let read = groups_of(&tar[..length]).into_iter();
            let wanted: Vec<(String, u64)> = read.map(|one| (one.key, one.offset)).collect();
            assert_eq!(keys, wanted, "{length}");
        }
    }

    #[test]
    fn a_group_is_found_again_by_its_offset() {
        let tar = pairs(&["a", "b", "c", "d"]);
        for bytes in [tar.clone(), gzipped(&tar)] {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), &bytes).unwrap();
            let offsets: Vec<u64> = groups_of(&bytes).iter().map(|one| one.offset).collect();
            let mut groups = Groups::open(file.path(), &Limits::default()).unwrap();
            for (index, key) in [(0, "a"), (1, "b"), (3, "d")] {
                let group = groups.at(offsets[index]).unwrap().unwrap();
                assert_eq!((&*group.key, group.content.is_ok()), (key, true));
            }
            assert!(groups.at(offsets[0]).unwrap().is_none(), "it lies behind");
            let mut groups = Groups::open(file.path(), &Limits::default()).unwrap();
            let between = groups.at(512).unwrap();
            assert!(between.is_none_or(|group| group.content.is_err()));
        }
    }
}
