//! The bytes of a shard, compressed or not, with the place reached and with the cause when they end.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

/// What a tar file counts in.
pub(crate) const BLOCK: u64 = 512;

const BUFFER: usize = 64 << 10;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Why no more bytes come. The tar crate wraps what its source says; here it is kept as it was.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The file is at its end, or its compressed stream is damaged: nothing behind can be read.
    Over,
    /// The system failed.
    System(io::Error),
}

/// A shard from its first byte to its last, once.
pub(crate) struct Blocks {
    source: Source,
    /// A block that was looked at and is to be read again.
    back: Cursor<Vec<u8>>,
    offset: u64,
    fault: Option<Fault>,
}

enum Source {
    Plain(BufReader<File>, u64),
    Gzip(Box<MultiGzDecoder<BufReader<File>>>),
}

impl Blocks {
    /// Opens a file; whether it is compressed is told from its first bytes.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let mut file = BufReader::with_capacity(BUFFER, file);
        let source = if file.fill_buf()?.starts_with(&GZIP_MAGIC) {
            Source::Gzip(Box::new(MultiGzDecoder::new(file)))
        } else {
            Source::Plain(file, length)
        };
        Ok(Self {
            source,
            back: Cursor::default(),
            offset: 0,
            fault: None,
        })
    }

    /// Bytes of the uncompressed tar file that lie behind.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Why the last read gave less than was asked for, if it did; the system's failure as an error.
    pub(crate) fn is_over(&mut self) -> io::Result<bool> {
        match self.fault.take() {
            None => Ok(false),
            Some(Fault::System(error)) => Err(error),
            Some(Fault::Over) => {
                self.fault = Some(Fault::Over);
                Ok(true)
            }
        }
    }

    /// Leaves out `count` bytes; false if there are not as many.
    pub(crate) fn skip(&mut self, count: u64) -> io::Result<bool> {
        if self.left_back() == 0
            && let Source::Plain(file, length) = &mut self.source
        {
            if count > length.saturating_sub(self.offset) {
                self.fault = Some(Fault::Over);
                return Ok(false);
            }
            file.seek_relative(count as i64)?;
            self.offset += count;
            return Ok(true);
        }
        // What the copy fails with stands in `fault`.
        let copied = io::copy(&mut self.by_ref().take(count), &mut io::sink());
        self.is_over()?;
        Ok(copied.is_ok_and(|copied| copied == count))
    }

    /// Leaves out what remains of a block that was read in part; false if the file ends before.
    pub(crate) fn align(&mut self) -> io::Result<bool> {
        self.skip(self.offset.next_multiple_of(BLOCK) - self.offset)
    }

    /// The next whole block; `None` behind the last.
    pub(crate) fn block(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut block = Vec::with_capacity(BLOCK as usize);
        let read = self.by_ref().take(BLOCK).read_to_end(&mut block);
        self.is_over()?;
        Ok((read.is_ok() && block.len() as u64 == BLOCK).then_some(block))
    }

    /// Takes a block back, to be read again.
    pub(crate) fn put_back(&mut self, block: Vec<u8>) {
        self.offset -= block.len() as u64;
        self.back = Cursor::new(block);
    }

    fn left_back(&self) -> u64 {
        self.back.get_ref().len() as u64 - self.back.position()
    }

    fn read_source(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let result = match &mut self.source {
                Source::Plain(file, _) => file.read(buffer),
                Source::Gzip(file) => file.read(buffer),
            };
            match result {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }
}

impl Read for Blocks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let result = if self.left_back() > 0 {
            self.back.read(buffer)
        } else {
            self.read_source(buffer)
        };
        match &result {
            Ok(0) => self.fault = Some(Fault::Over),
            Ok(read) => self.offset += *read as u64,
            // Only the system's errors have a number; the others are the decompressor's about its data.
            Err(error) => {
                let system = error.raw_os_error().map(io::Error::from_raw_os_error);
                self.fault = Some(system.map_or(Fault::Over, Fault::System));
            }
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    const TEXT: &[u8] = &[7; 1300];

    fn files() -> [tempfile::NamedTempFile; 2] {
        let [mut plain, mut packed] = [(); 2].map(|()| tempfile::NamedTempFile::new().unwrap());
        plain.write_all(TEXT).unwrap();
        let mut encoder = GzEncoder::new(packed.as_file_mut(), Compression::fast());
        encoder.write_all(TEXT).unwrap();
        encoder.finish().unwrap();
        [plain, packed]
    }

    #[test]
    fn both_kinds_count_skip_and_take_back_alike() {
        for file in files() {
            let mut blocks = Blocks::open(file.path()).unwrap();
            let first = blocks.block().unwrap().unwrap();
            blocks.put_back(first);
            assert_eq!(blocks.offset(), 0);
            assert!(blocks.skip(500).unwrap() && blocks.align().unwrap());
            assert_eq!(blocks.offset(), 512);
            assert!(blocks.align().unwrap());
            assert!(blocks.block().unwrap().is_some());
            assert!(!blocks.is_over().unwrap());
            assert!(blocks.block().unwrap().is_none(), "276 bytes are no block");
            assert!(blocks.is_over().unwrap());
        }
    }

    #[test]
    fn skipping_further_than_the_end_is_told() {
        for file in files() {
            let mut blocks = Blocks::open(file.path()).unwrap();
            assert!(blocks.skip(1300).unwrap());
            assert!(!blocks.skip(1).unwrap());
            assert!(!Blocks::open(file.path()).unwrap().skip(u64::MAX).unwrap());
        }
    }
}
