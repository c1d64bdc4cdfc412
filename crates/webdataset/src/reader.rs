//! Going through the shards, epoch by epoch.

use std::num::NonZeroU64;

use likeness_picture::Limits;

use crate::error::Error;
use crate::order::{Draws, Part, Shuffle};
use crate::position::{MadeWith, Position, Reached};
use crate::sample::Sample;
use crate::shards::Shards;
use crate::skipped::Skipped;
use crate::stream::{self, Held, Stream};

/// How many times the data is gone through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Epochs {
    /// Until somebody stops.
    Endless,
    /// So many times.
    Count(NonZeroU64),
}

impl Epochs {
    /// A single time.
    pub const ONE: Self = Self::Count(NonZeroU64::MIN);

    fn are_over(self, epoch: u64) -> bool {
        matches!(self, Self::Count(count) if epoch >= count.get())
    }
}

/// What is read, and in which order.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// `None` keeps the order of the shards' names and of the samples in them.
    pub shuffle: Option<Shuffle>,
    /// Which samples are this worker's.
    pub part: Part,
    /// How often.
    pub epochs: Epochs,
    /// Larger pictures are left out.
    pub limits: Limits,
}

impl Default for Options {
    /// All samples once, in their order.
    fn default() -> Self {
        Self {
            shuffle: None,
            part: Part::WHOLE,
            epochs: Epochs::ONE,
            limits: Limits::default(),
        }
    }
}

/// An iterator over samples. It holds the shuffle's buffer as files are stored, and one open shard; it reads and decodes
/// in [`Iterator::next`]. After an error it ends; resuming from its position then misses nothing.
pub struct Reader {
    shards: Shards,
    options: Options,
    made_with: MadeWith,
    epoch: u64,
    stream: Stream,
    buffer: Vec<Held>,
    draws: Draws,
    given: u64,
    skipped: Skipped,
    is_over: bool,
}

impl Reader {
    /// From the beginning of epoch 0. Nothing is read yet.
    pub fn new(shards: Shards, options: Options) -> Self {
        Self {
            made_with: MadeWith::new(&shards, &options),
            epoch: 0,
            stream: Stream::new(&shards, &options, 0, Reached::default()),
            buffer: Vec::new(),
            draws: draws(&options, 0, 0),
            given: 0,
            skipped: Skipped::default(),
            is_over: false,
            shards,
            options,
        }
    }

    /// From a saved position. The number of epochs may be another than before.
    ///
    /// # Errors
    /// [`Error::OtherPosition`] if shards, shuffling, workers or limits are not those that the position was made with,
    /// [`Error::Changed`] if a shard of the same name and size has other contents, [`Error::Read`].
    pub fn resume(shards: Shards, options: Options, position: &Position) -> Result<Self, Error> {
        let made_with = MadeWith::new(&shards, &options);
        made_with.check(&position.made_with)?;
        let epoch = position.epoch;
        Ok(Self {
            made_with,
            epoch,
            stream: Stream::new(&shards, &options, epoch, position.reached),
            buffer: stream::fetch(&shards, &options, &position.held)?,
            draws: draws(&options, epoch, position.draws),
            given: position.given,
            skipped: position.skipped.clone(),
            is_over: false,
            shards,
            options,
        })
    }

    /// Where reading stands, after the last sample given. Costs a copy of the places in the buffer.
    pub fn position(&self) -> Position {
        Position {
            made_with: self.made_with.clone(),
            epoch: self.epoch,
            reached: self.stream.reached(),
            draws: self.draws.made(),
            given: self.given,
            held: self.buffer.iter().map(|held| held.place).collect(),
            skipped: self.skipped.clone(),
        }
    }

    /// The epoch, from 0.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// What was left out so far.
    pub fn skipped(&self) -> &Skipped {
        &self.skipped
    }

    fn read(&mut self) -> Result<Option<Sample>, Error> {
        while !self.options.epochs.are_over(self.epoch) {
            let Some(held) = self.draw()? else {
                self.end_epoch()?;
                continue;
            };
            match held.encoded.decode(&held.key, &self.options.limits) {
                Ok(sample) => {
                    self.given = self.given.wrapping_add(1);
                    return Ok(Some(sample));
                }
                Err(reason) => {
                    let shard = self.shards.path(held.place.shard)?;
                    self.skipped.add(reason, shard, &held.key);
                }
            }
        }
        Ok(None)
    }

    /// Fills the buffer, and takes one out of it.
    fn draw(&mut self) -> Result<Option<Held>, Error> {
        let size = self
            .options
            .shuffle
            .map_or(1, |shuffle| shuffle.buffer.get());
        while self.buffer.len() < size {
            let next = self
                .stream
                .next(&self.shards, &self.options, &mut self.skipped)?;
            let Some(held) = next else { break };
            self.buffer.push(held);
        }
        if self.buffer.is_empty() {
            return Ok(None);
        }
        let index = self.draws.below(self.buffer.len());
        Ok(Some(self.buffer.swap_remove(index)))
    }

    fn end_epoch(&mut self) -> Result<(), Error> {
        if self.given == 0 {
            return Err(Error::NoSamples {
                epoch: self.epoch,
                rank: self.options.part.rank(),
                world: self.options.part.world(),
                skipped: Box::new(self.skipped.clone()),
            });
        }
        self.epoch = self.epoch.saturating_add(1);
        self.given = 0;
        self.stream = Stream::new(&self.shards, &self.options, self.epoch, Reached::default());
        self.draws = draws(&self.options, self.epoch, 0);
        Ok(())
    }
}

fn draws(options: &Options, epoch: u64, made: u64) -> Draws {
    let seed = options.shuffle.map_or(0, |shuffle| shuffle.seed);
    Draws::for_samples(seed, epoch, made)
}

impl Iterator for Reader {
    type Item = Result<Sample, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let next = self.read().transpose();
        self.is_over = !matches!(next, Some(Ok(_)));
        next
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::num::NonZeroUsize;
    use std::path::Path;

    use super::*;
    use crate::skipped::Reason;
    use crate::testing::{TarFile, png, shards};

    const COUNTS: [usize; 7] = [9, 4, 12, 7, 1, 5, 10];

    fn shuffled(seed: u64, buffer: usize) -> Options {
        let buffer = NonZeroUsize::new(buffer).unwrap();
        Options {
            shuffle: Some(Shuffle { seed, buffer }),
            ..Options::default()
        }
    }

    fn times(count: u64) -> Epochs {
        Epochs::Count(NonZeroU64::new(count).unwrap())
    }

    fn found(folder: &Path) -> Shards {
        Shards::from_folder(folder).unwrap()
    }

    fn keys(reader: &mut Reader) -> Vec<String> {
        reader.map(|sample| sample.unwrap().key).collect()
    }

    fn read(folder: &Path, options: Options) -> Vec<String> {
        keys(&mut Reader::new(found(folder), options))
    }

    #[test]
    fn without_shuffling_samples_come_in_order() {
        let dir = tempfile::tempdir().unwrap();
        shards(dir.path(), &[2, 1], false);
        let options = Options {
            epochs: times(2),
            ..Options::default()
        };
        let once = ["s0-0", "s0-1", "s1-0"];
        assert_eq!(read(dir.path(), options), [once, once].concat());
    }

    #[test]
    fn shuffling_follows_seed_and_epoch_and_gives_each_sample_once() {
        let dir = tempfile::tempdir().unwrap();
        shards(dir.path(), &COUNTS, false);
        let options = Options {
            epochs: times(2),
            ..shuffled(5, 8)
        };
        let two = read(dir.path(), options);
        assert_eq!(two, read(dir.path(), options));
        let (one, other) = two.split_at(48);
        assert_ne!(one, other);
        let other_seed = read(dir.path(), shuffled(6, 8));
        assert_ne!(one, other_seed);
        for epoch in [one, other, &other_seed] {
            let mut sorted = epoch.to_vec();
            sorted.sort();
            sorted.dedup();
            assert_eq!((epoch.len(), sorted.len()), (48, 48));
        }
    }

    #[test]
    fn pictures_and_captions_stay_together() {
        let dir = tempfile::tempdir().unwrap();
        shards(dir.path(), &COUNTS, false);
        for sample in Reader::new(found(dir.path()), shuffled(1, 20)) {
            let sample = sample.unwrap();
            let number: u32 = sample.key.rsplit('-').next().unwrap().parse().unwrap();
            assert_eq!(sample.image.width(), number + 1);
            assert_eq!(sample.caption, format!("caption {}", sample.key));
        }
    }

    #[test]
    fn a_reader_goes_on_exactly_where_another_stopped() {
        let dir = tempfile::tempdir().unwrap();
        shards(dir.path(), &COUNTS, true);
        for buffer in [1, 6, 1000] {
            let options = Options {
                epochs: times(3),
                ..shuffled(3, buffer)
            };
            let mut whole = Reader::new(found(dir.path()), options);
            let all = keys(&mut whole);
            assert_eq!(all.len(), 3 * 48);
            for stop in [0, 1, 5, 20, 47, 48, 49, 95, 96, 130, 143, 144] {
                let mut first = Reader::new(found(dir.path()), options);
                let before: Vec<Sample> = first.by_ref().take(stop).map(Result::unwrap).collect();
                let json = serde_json::to_string(&first.position()).unwrap();
                drop(first);
                let position: Position = serde_json::from_str(&json).unwrap();
                let mut second = Reader::resume(found(dir.path()), options, &position).unwrap();
                assert_eq!(second.position(), position);
                assert_eq!(before.len(), stop);
                assert_eq!(keys(&mut second), all[stop..], "{buffer} {stop}");
                assert_eq!(second.skipped(), whole.skipped(), "{buffer} {stop}");
            }
        }
    }

    #[test]
    fn faults_are_counted_by_reason_and_end_nothing() {
        let dir = tempfile::tempdir().unwrap();
        shards(dir.path(), &COUNTS, true);
        let mut reader = Reader::new(found(dir.path()), shuffled(3, 5));
        assert_eq!(keys(&mut reader).len(), 48);
        let skipped = reader.skipped();
        assert_eq!(skipped.count(Reason::MissingCaption), 7);
        assert_eq!(skipped.count(Reason::DuplicateKey), 7);
        assert_eq!((skipped.count(Reason::Image), skipped.total()), (7, 21));
        let mut reasons = skipped.iter();
        let (_, _, first) = reasons.find(|one| one.0 == Reason::MissingCaption).unwrap();
        let number = first.key.strip_prefix("mute").unwrap();
        assert!(first.shard.contains(&format!("s{number}.tar")), "{first:?}");
    }

    #[test]
    fn workers_miss_nothing_and_read_nothing_twice() {
        let dir = tempfile::tempdir().unwrap();
        shards(dir.path(), &COUNTS, true);
        for world in [2, 3, 7, 8, 20] {
            let mut seen: BTreeMap<String, u32> = BTreeMap::new();
            let mut skipped = 0;
            for rank in 0..world {
                let options = Options {
                    part: Part::new(rank, world).unwrap(),
                    epochs: times(2),
                    ..shuffled(9, 4)
                };
                let mut reader = Reader::new(found(dir.path()), options);
                for key in keys(&mut reader) {
                    *seen.entry(key).or_default() += 1;
                }
                skipped += reader.skipped().total();
            }
            assert_eq!((seen.len(), skipped), (48, 42), "{world}");
            assert!(seen.values().all(|times| *times == 2), "{world}");
        }
    }

    #[test]
    fn a_worker_of_many_goes_on_exactly_as_well() {
        let dir = tempfile::tempdir().unwrap();
        shards(dir.path(), &[11, 14], true);
        let options = Options {
            part: Part::new(1, 3).unwrap(),
            epochs: times(2),
            ..shuffled(9, 4)
        };
        let all = read(dir.path(), options);
        for stop in 0..all.len() {
            let mut first = Reader::new(found(dir.path()), options);
            assert_eq!(first.by_ref().take(stop).count(), stop);
            let position = first.position();
            let mut second = Reader::resume(found(dir.path()), options, &position).unwrap();
            assert_eq!(keys(&mut second), all[stop..], "{stop}");
        }
    }

    #[test]
    fn a_position_is_refused_with_anything_else() {
        let dir = tempfile::tempdir().unwrap();
        shards(dir.path(), &[3, 3], false);
        let mut reader = Reader::new(found(dir.path()), shuffled(1, 2));
        reader.next().unwrap().unwrap();
        let position = reader.position();
        let refused = |options| {
            let resumed = Reader::resume(found(dir.path()), options, &position);
            matches!(resumed, Err(Error::OtherPosition { .. }))
        };
        assert!(!refused(shuffled(1, 2)));
        assert!(refused(shuffled(2, 2)) && refused(shuffled(1, 3)));
        let part = Part::new(0, 2).unwrap();
        assert!(refused(Options {
            part,
            ..shuffled(1, 2)
        }));
        shards(dir.path(), &[3, 3, 3], false);
        assert!(refused(shuffled(1, 2)));
    }

    #[test]
    fn a_position_with_nonsense_in_it_is_an_error_and_no_panic() {
        let dir = tempfile::tempdir().unwrap();
        shards(dir.path(), &[3, 3], false);
        let mut reader = Reader::new(found(dir.path()), shuffled(1, 2));
        reader.next().unwrap().unwrap();
        let good = serde_json::to_value(reader.position()).unwrap();
        let place =
            |shard: u64, offset: u64| serde_json::json!([{ "shard": shard, "offset": offset }]);
        let reached = |turn: u64, groups: u64| serde_json::json!({ "turn": turn, "groups": groups, "passed": u64::MAX });
        let cases = [
            ("held", place(9, 0), true),
            ("held", place(0, 512), true),
            ("held", place(0, u64::MAX), true),
            ("reached", reached(0, u64::MAX), false),
            ("reached", reached(u64::MAX, 0), false),
            ("draws", u64::MAX.into(), false),
            ("epoch", u64::MAX.into(), false),
        ];
        for (name, value, at_once) in cases {
            let mut json = good.clone();
            json[name] = value;
            let position: Position = serde_json::from_value(json).unwrap();
            match Reader::resume(found(dir.path()), shuffled(1, 2), &position) {
                Err(_) => assert!(at_once, "{name}"),
                Ok(reader) => {
                    assert!(!at_once, "{name}");
                    assert!(reader.count() < 9);
                }
            }
        }
    }

    #[test]
    fn an_endless_reader_without_samples_ends_with_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let mut tar = TarFile::default();
        tar.add("mute.png", &png(2, 2));
        std::fs::write(dir.path().join("a.tar"), tar.bytes()).unwrap();
        let options = Options {
            epochs: Epochs::Endless,
            ..Options::default()
        };
        let mut reader = Reader::new(found(dir.path()), options);
        let error = reader.next().unwrap().unwrap_err();
        assert!(error.to_string().contains("no caption: 1"), "{error}");
        assert!(reader.next().is_none());
    }

    #[test]
    fn a_shard_that_has_gone_is_an_error_and_can_be_resumed() {
        let dir = tempfile::tempdir().unwrap();
        let paths = shards(dir.path(), &[2, 2], false);
        let shards = found(dir.path());
        let hidden = dir.path().join("hidden");
        std::fs::rename(&paths[1], &hidden).unwrap();
        let options = Options::default();
        let mut reader = Reader::new(shards.clone(), options);
        assert_eq!(reader.by_ref().take(2).flatten().count(), 2);
        assert!(matches!(reader.next(), Some(Err(Error::Read { .. }))));
        assert!(reader.next().is_none());
        std::fs::rename(&hidden, &paths[1]).unwrap();
        let mut later = Reader::resume(shards, options, &reader.position()).unwrap();
        assert_eq!(keys(&mut later), ["s1-0", "s1-1"]);
    }
}
