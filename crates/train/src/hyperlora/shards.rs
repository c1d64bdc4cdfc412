//! Shards as a stage's feed: a thread reads, decodes and prepares the next steps' samples while a step is computed.

use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use likeness_webdataset::{Epochs, Options, Part as Worker, Position, Reader, Shards, Shuffle};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::prepared::{Left, Prepared, Preparer};
use crate::Error;
use crate::recipe::Data;
use crate::run::Feed;

/// Steps whose samples are kept ready.
const AHEAD: usize = 2;

/// Where reading stands, and what was left out of what was read.
#[derive(Clone, Serialize, Deserialize)]
struct Place {
    position: Position,
    left: Left,
}

/// A step's samples.
struct Batch {
    samples: Vec<Arc<Prepared>>,
    place: Place,
}

/// A stage's shards.
pub(super) struct ShardFeed {
    shards: Shards,
    options: Options,
    preparer: Arc<Preparer>,
    /// Samples of a step.
    batch: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    ahead: Option<Ahead>,
    now: Vec<Arc<Prepared>>,
    place: Option<Place>,
}

impl ShardFeed {
    /// Of a recipe's data in an order that follows from the seed, for one of so many workers. Nothing is read yet.
    ///
    /// # Errors
    /// Shards that are not there.
    pub fn new(
        data: &Data,
        seed: u64,
        worker: Worker,
        batch: usize,
        preparer: &Arc<Preparer>,
    ) -> Result<ShardFeed, Error> {
        let options = Options {
            shuffle: Some(Shuffle {
                seed,
                buffer: data.buffer,
            }),
            part: worker,
            epochs: Epochs::Endless,
            ..Options::default()
        };
        Ok(ShardFeed {
            shards: Shards::find(&data.shards)?,
            options,
            preparer: Arc::clone(preparer),
            batch,
            state: Mutex::default(),
        })
    }

    /// `count` samples of the step at hand, from the one of this number on.
    pub fn samples(&self, first: usize, count: usize) -> Vec<Arc<Prepared>> {
        let state = self.state();
        state.now.iter().skip(first).take(count).cloned().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Feed for ShardFeed {
    fn start(&self, place: Option<&str>) -> Result<(), Error> {
        let place: Option<Place> = serde_json::from_str(place.unwrap_or("null")).map_err(|e| {
            let reason = format!("holds a place in the data that cannot be read: {e}");
            Error::Place { reason }
        })?;
        let (shards, options) = (self.shards.clone(), self.options);
        let (reader, left) = match &place {
            Some(place) => (
                Reader::resume(shards, options, &place.position)?,
                place.left,
            ),
            None => (Reader::new(shards, options), Left::default()),
        };
        let batches = Batches {
            last_fed: reader.epoch(),
            reader,
            left,
            preparer: Arc::clone(&self.preparer),
            batch: self.batch,
        };
        let ahead = Ahead::start(batches)?;
        *self.state() = State {
            ahead: Some(ahead),
            now: Vec::new(),
            place,
        };
        Ok(())
    }

    fn next(&self) -> Result<(), Error> {
        let mut state = self.state();
        let batch = match &state.ahead {
            Some(ahead) => ahead.next()?,
            None => return Err(Error::ReaderGone),
        };
        state.now = batch.samples;
        state.place = Some(batch.place);
        Ok(())
    }

    fn place(&self) -> Result<String, Error> {
        let written = serde_json::to_string(&self.state().place);
        written.map_err(|e| Error::Place {
            reason: e.to_string(),
        })
    }

    fn skipped(&self) -> u64 {
        let of = |place: &Place| place.position.skipped().total() + place.left.total();
        self.state().place.as_ref().map_or(0, of)
    }

    fn reasons(&self) -> String {
        let of = |Place { position, left }: &Place| {
            let damaged = position.skipped().iter();
            let lines = damaged.map(|(reason, count, first)| {
                format!(
                    "{reason}: {count}, first `{}` in {}\n",
                    first.key, first.shard
                )
            });
            lines.collect::<String>() + &left.to_string()
        };
        self.state().place.as_ref().map_or_else(String::new, of)
    }
}

/// The thread, and what it sends; both are there until it is dropped.
struct Ahead {
    receiver: Option<Receiver<Result<Batch, Error>>>,
    thread: Option<JoinHandle<()>>,
}

impl Ahead {
    fn start(batches: Batches) -> Result<Ahead, Error> {
        let (sender, receiver) = mpsc::sync_channel(AHEAD - 1);
        let thread = thread::Builder::new()
            .name("shards".to_owned())
            .spawn(move || batches.send(&sender))
            .map_err(|e| Error::Threads {
                reason: e.to_string(),
            })?;
        Ok(Ahead {
            receiver: Some(receiver),
            thread: Some(thread),
        })
    }

    fn next(&self) -> Result<Batch, Error> {
        let receiver = self.receiver.as_ref().ok_or(Error::ReaderGone)?;
        receiver.recv().map_err(|_| Error::ReaderGone)?
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        // Without its receiver the thread's next send fails, and it ends.
        drop(self.receiver.take());
        if let Some(thread) = self.thread.take() {
            // One that panicked has printed it.
            _ = thread.join();
        }
    }
}

/// Batch after batch.
struct Batches {
    reader: Reader,
    left: Left,
    preparer: Arc<Preparer>,
    batch: usize,
    /// The epoch of the last sample with a face.
    last_fed: u64,
}

impl Batches {
    fn send(mut self, sender: &SyncSender<Result<Batch, Error>>) {
        loop {
            let batch = self.next();
            let failed = batch.is_err();
            if sender.send(batch).is_err() || failed {
                return;
            }
        }
    }

    /// As many samples as are missing are read and prepared side by side, until the batch is full. So which samples it has
    /// does not depend on the number of cores, and nothing is read that a later batch would miss.
    fn next(&mut self) -> Result<Batch, Error> {
        let mut samples = Vec::with_capacity(self.batch);
        while samples.len() < self.batch {
            let missing = self.batch - samples.len();
            let read = self.reader.by_ref().take(missing);
            let read = read.collect::<Result<Vec<_>, _>>()?;
            let preparer = &self.preparer;
            let prepared: Vec<_> = read.par_iter().map(|one| preparer.prepare(one)).collect();
            for one in prepared {
                match one? {
                    Ok(prepared) => {
                        self.last_fed = self.reader.epoch();
                        samples.push(Arc::new(prepared));
                    }
                    Err(why) => self.left.add(why),
                }
            }
            if self.reader.epoch() > self.last_fed + 1 {
                let left = self.left.to_string().replace('\n', "; ");
                return Err(Error::NoFaces { left });
            }
        }
        Ok(Batch {
            samples,
            place: Place {
                position: self.reader.position(),
                left: self.left,
            },
        })
    }
}

#[cfg(test)]
mod tests;
