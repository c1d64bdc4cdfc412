//! The files of a shard one after another, past damage where there is a way past it.
//!
//! Each header is parsed by the tar crate as an archive of its own that begins there. So nothing borrows from an archive
//! between two files, and a damaged header spoils no more than itself.

use std::io::{self, Read};
use std::path::Path;

use tar::{Archive, Entry, EntryType, Header};

use crate::blocks::{BLOCK, Blocks};

/// The most that may stand before a file's data: its header, and long names or attributes before it.
const HEADER_BYTES: u64 = 1 << 20;

/// A file whose data comes next in the shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    /// Where its header, or what belongs before it, begins: bytes of the uncompressed tar file.
    pub(crate) offset: u64,
    /// The path up to the first dot of its last part.
    pub(crate) key: String,
    /// What follows that dot, in lower case.
    pub(crate) suffix: String,
    /// Bytes of data.
    pub(crate) size: u64,
}

/// What comes next in a shard.
#[derive(Debug)]
pub(crate) enum Next {
    /// A file that may belong to a sample.
    Member(Member),
    /// Blocks that are no header were left out from this offset on.
    Damage(u64),
    /// The tar file ends here without an end mark, or in the middle of something.
    Cut(u64),
    /// Nothing more.
    End,
}

/// A shard's files. After each [`Member`] its data is taken with [`Members::data`] or left with [`Members::pass`].
pub(crate) struct Members {
    blocks: Blocks,
    state: State,
}

#[derive(PartialEq, Eq)]
enum State {
    Reading,
    /// The last data was not all there, which is still to be told.
    Cut,
    Ended,
}

/// What stands at a header's place.
enum Found {
    Nothing,
    Garbage,
    File {
        path: String,
        size: u64,
        regular: bool,
    },
}

impl Members {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            blocks: Blocks::open(path)?,
            state: State::Reading,
        })
    }

    /// Goes on to an offset that a [`Member`] had; false if it lies behind or beyond the end.
    pub(crate) fn jump(&mut self, offset: u64) -> io::Result<bool> {
        match offset.checked_sub(self.blocks.offset()) {
            Some(ahead) => self.blocks.skip(ahead),
            None => Ok(false),
        }
    }

    pub(crate) fn next(&mut self) -> io::Result<Next> {
        loop {
            let offset = self.blocks.offset();
            match self.state {
                State::Ended => return Ok(Next::End),
                State::Cut => return Ok(self.end_with(Next::Cut(offset))),
                State::Reading => {}
            }
            match self.header() {
                Found::Nothing if self.blocks.offset() > offset => {
                    return Ok(self.end_with(Next::End));
                }
                // Not even an end mark.
                Found::Nothing => {
                    self.blocks.is_over()?;
                    return Ok(self.end_with(Next::Cut(offset)));
                }
                Found::Garbage if self.blocks.is_over()? => {
                    return Ok(self.end_with(Next::Cut(offset)));
                }
                Found::Garbage => {
                    self.find_header()?;
                    return Ok(Next::Damage(offset));
                }
                Found::File {
                    path,
                    size,
                    regular,
                } => match key_and_suffix(&path).filter(|_| regular) {
                    Some((key, suffix)) => {
                        return Ok(Next::Member(Member {
                            offset,
                            key,
                            suffix,
                            size,
                        }));
                    }
                    None => _ = self.pass(size)?,
                },
            }
        }
    }

    /// The data of the member just met; `None` if the shard ends within it.
    pub(crate) fn data(&mut self, size: u64) -> io::Result<Option<Vec<u8>>> {
        let mut data = Vec::new();
        // What reading fails with stands in the blocks.
        _ = self.blocks.by_ref().take(size).read_to_end(&mut data);
        if data.len() as u64 == size {
            self.blocks.align()?;
            return Ok(Some(data));
        }
        self.blocks.is_over()?;
        self.state = State::Cut;
        Ok(None)
    }

    /// Leaves out the data of the member just met; false if the shard ends within it.
    pub(crate) fn pass(&mut self, size: u64) -> io::Result<bool> {
        let whole = self.blocks.skip(size)?;
        if whole {
            self.blocks.align()?;
        } else {
            self.state = State::Cut;
        }
        Ok(whole)
    }

    fn end_with(&mut self, last: Next) -> Next {
        self.state = State::Ended;
        last
    }

    fn header(&mut self) -> Found {
        let mut archive = Archive::new(self.blocks.by_ref().take(HEADER_BYTES));
        let first = archive.entries().map(|mut entries| entries.next());
        match first {
            Ok(None) => Found::Nothing,
            Ok(Some(Ok(entry))) => described(&entry),
            Ok(Some(Err(_))) | Err(_) => Found::Garbage,
        }
    }

    /// Goes on to the next block that is a header, or to the end.
    fn find_header(&mut self) -> io::Result<()> {
        self.blocks.align()?;
        while let Some(block) = self.blocks.block()? {
            if is_header(&block) {
                self.blocks.put_back(block);
                return Ok(());
            }
        }
        self.state = State::Ended;
        Ok(())
    }
}

fn described<R: Read>(entry: &Entry<'_, R>) -> Found {
    let kind = entry.header().entry_type();
    let size = match kind {
        // No data follows these, whatever their size says.
        EntryType::Directory
        | EntryType::Link
        | EntryType::Symlink
        | EntryType::Char
        | EntryType::Block
        | EntryType::Fifo => 0,
        // The entry's own size is that of the file with its holes.
        EntryType::GNUSparse => entry.header().entry_size().unwrap_or_default(),
        _ => entry.size(),
    };
    Found::File {
        path: String::from_utf8_lossy(&entry.path_bytes()).into_owned(),
        size,
        regular: kind.is_file() || kind.is_contiguous(),
    }
}

/// Splits a path as the webdataset library does; `None` for files that are no part of a sample: those without a dot, or
/// with nothing before it, and the `__meta__` ones.
fn key_and_suffix(path: &str) -> Option<(String, String)> {
    let base = path.rfind('/').map_or(0, |slash| slash + 1);
    let dot = base + path.get(base..)?.find('.')?;
    let (key, suffix) = (path.get(..dot)?, path.get(dot + 1..)?);
    let first = path.split('/').next()?;
    let is_meta = first.len() >= 4 && first.starts_with("__") && first.ends_with("__");
    (dot > base && !is_meta).then(|| (key.to_owned(), suffix.to_lowercase()))
}

/// Whether a block is a header beyond reasonable doubt: by its mark and its check sum, the sum of its bytes with eight
/// spaces in the sum's own place.
fn is_header(block: &[u8]) -> bool {
    if block.len() as u64 != BLOCK {
        return false;
    }
    let header = Header::from_byte_slice(block);
    let marked = header.as_ustar().is_some() || header.as_gnu().is_some();
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    let own: u32 = block[148..156].iter().map(|byte| u32::from(*byte)).sum();
    marked
        && header
            .cksum()
            .is_ok_and(|stored| stored == sum - own + 8 * 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_the_webdataset_library() {
        let split = |path| key_and_suffix(path);
        let pair = |key: &str, suffix: &str| Some((key.to_owned(), suffix.to_owned()));
        assert_eq!(split("a.jpg"), pair("a", "jpg"));
        assert_eq!(split("a.seg.PNG"), pair("a", "seg.png"));
        assert_eq!(split("v1.2/b/a.txt"), pair("v1.2/b/a", "txt"));
        assert_eq!(split("./a.txt"), pair("./a", "txt"));
        for path in ["a", "b/.hidden", ".hidden", "v1.2/a", "__index__", ""] {
            assert_eq!(split(path), None, "{path}");
        }
        assert_eq!(split("__meta__/a.json"), None);
        assert_eq!(split("__a.json"), pair("__a", "json"));
    }
}
