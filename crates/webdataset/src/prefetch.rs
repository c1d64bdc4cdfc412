//! Reading ahead on a thread of its own.

use std::num::NonZeroUsize;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::{self, JoinHandle};

use crate::error::Error;
use crate::position::Position;
use crate::reader::Reader;
use crate::sample::Sample;

/// A [`Reader`] that reads and decodes ahead of who takes its samples, in the same order. Dropping it stops the thread,
/// after the sample that it is at.
pub struct Prefetch {
    /// Both are there until the last sample is taken.
    running: Option<Running>,
    position: Position,
}

struct Running {
    receiver: Receiver<Step>,
    thread: JoinHandle<()>,
}

/// What the reader gave, and where it stood then.
struct Step {
    item: Option<Result<Sample, Error>>,
    position: Position,
}

impl Prefetch {
    /// Starts the thread, which keeps up to `depth` decoded samples ready, and two more in hands.
    ///
    /// # Errors
    /// [`Error::Thread`] if the system refuses one.
    pub fn start(reader: Reader, depth: NonZeroUsize) -> Result<Self, Error> {
        let position = reader.position();
        let (sender, receiver) = mpsc::sync_channel(depth.get());
        let thread = thread::Builder::new()
            .name("prefetch".to_owned())
            .spawn(move || read_ahead(reader, &sender))
            .map_err(Error::Thread)?;
        Ok(Self {
            running: Some(Running { receiver, thread }),
            position,
        })
    }

    /// Where reading stands after the last sample taken from here, whatever has been read ahead.
    pub fn position(&self) -> &Position {
        &self.position
    }

    fn stop(&mut self) {
        if let Some(Running { receiver, thread }) = self.running.take() {
            // Without its receiver the thread's next send fails, and it ends.
            drop(receiver);
            // One that panicked has printed it; what remains to be said is ThreadDied.
            _ = thread.join();
        }
    }
}

fn read_ahead(mut reader: Reader, sender: &SyncSender<Step>) {
    loop {
        let item = reader.next();
        let is_last = !matches!(item, Some(Ok(_)));
        let position = reader.position();
        if sender.send(Step { item, position }).is_err() || is_last {
            return;
        }
    }
}

impl Iterator for Prefetch {
    type Item = Result<Sample, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.running.as_ref()?.receiver.recv();
        let Ok(Step { item, position }) = step else {
            self.stop();
            return Some(Err(Error::ThreadDied));
        };
        if !matches!(item, Some(Ok(_))) {
            self.stop();
        }
        self.position = position;
        item
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::shards;
    use crate::{Epochs, Options, Shards};

    const DEPTH: NonZeroUsize = NonZeroUsize::new(3).unwrap();

    fn reader(folder: &std::path::Path, epochs: Epochs) -> Reader {
        let shards = Shards::from_folder(folder).unwrap();
        let options = Options {
            epochs,
            ..Options::default()
        };
        Reader::new(shards, options)
    }

    #[test]
    fn the_samples_are_the_readers_and_so_is_the_position_after_each() {
        let dir = tempfile::tempdir().unwrap();
        shards(dir.path(), &[5, 6], true);
        let mut plain = reader(dir.path(), Epochs::ONE);
        let mut ahead = Prefetch::start(reader(dir.path(), Epochs::ONE), DEPTH).unwrap();
        assert_eq!(*ahead.position(), plain.position());
        while let Some(sample) = plain.next() {
            assert_eq!(ahead.next().unwrap().unwrap(), sample.unwrap());
            assert_eq!(*ahead.position(), plain.position());
        }
        assert!(ahead.next().is_none() && ahead.next().is_none());
        assert_eq!(*ahead.position(), plain.position());
    }

    #[test]
    fn dropping_it_stops_an_endless_reader() {
        let dir = tempfile::tempdir().unwrap();
        shards(dir.path(), &[5], false);
        let mut ahead = Prefetch::start(reader(dir.path(), Epochs::Endless), DEPTH).unwrap();
        assert!(ahead.nth(20).unwrap().is_ok());
        // Would never return if the thread went on.
        drop(ahead);
    }

    #[test]
    fn errors_come_in_their_place_and_are_the_last() {
        let dir = tempfile::tempdir().unwrap();
        let paths = shards(dir.path(), &[2, 2], false);
        let reader = reader(dir.path(), Epochs::ONE);
        std::fs::remove_file(&paths[1]).unwrap();
        let mut ahead = Prefetch::start(reader, DEPTH).unwrap();
        assert_eq!(ahead.by_ref().take(2).flatten().count(), 2);
        assert!(matches!(ahead.next(), Some(Err(Error::Read { .. }))));
        assert!(ahead.next().is_none());
    }
}
