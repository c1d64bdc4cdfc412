//! Where a reader stands, to be saved and resumed.

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::order::{Part, Shuffle};
use crate::reader::Options;
use crate::shards::Shards;
use crate::skipped::Skipped;

/// Where a [`crate::Reader`] stands: a reader that resumes from it gives exactly the samples that this one has yet to
/// give. Every worker has its own.
///
/// It says where the samples of the shuffle's buffer lie, not what is in them: about 25 bytes of JSON for each. Resuming
/// reads these again (a seek and a sample each; a compressed shard is read up to the last of its samples), and walks
/// the headers of the shard that was being read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    pub(crate) made_with: MadeWith,
    pub(crate) epoch: u64,
    pub(crate) reached: Reached,
    /// Draws from the buffer in this epoch.
    pub(crate) draws: u64,
    /// Samples given in this epoch.
    pub(crate) given: u64,
    /// The buffer, in its order.
    pub(crate) held: Vec<Place>,
    pub(crate) skipped: Skipped,
}

/// How far an epoch's shards are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reached {
    /// How many of them to their end.
    pub(crate) turn: usize,
    /// How many groups of the next one.
    pub(crate) groups: u64,
    /// How many groups of all of them, other workers' among them.
    pub(crate) passed: u64,
}

/// Where a sample lies: the shard by its number, the offset in the uncompressed tar file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) shard: u32,
    pub(crate) offset: u64,
}

/// What a position means nothing without.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MadeWith {
    shards: String,
    shuffle: Option<Shuffle>,
    part: Part,
    /// Bytes, pixels and side: they decide which samples are held.
    limits: (u64, u64, u32),
}

impl Position {
    /// The epoch, from 0.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// How many samples of the epoch were given.
    pub fn samples(&self) -> u64 {
        self.given
    }

    /// What was left out so far, since the very start.
    pub fn skipped(&self) -> &Skipped {
        &self.skipped
    }
}

impl MadeWith {
    pub(crate) fn new(shards: &Shards, options: &Options) -> Self {
        let limits = &options.limits;
        Self {
            shards: shards.digest(),
            shuffle: options.shuffle,
            part: options.part,
            limits: (limits.max_bytes, limits.max_pixels, limits.max_side),
        }
    }

    /// Refuses another.
    pub(crate) fn check(&self, other: &Self) -> Result<(), Error> {
        let differs = [
            (self.shards != other.shards, "shards"),
            (self.shuffle != other.shuffle, "shuffling"),
            (self.part != other.part, "workers"),
            (self.limits != other.limits, "limits"),
        ];
        match differs.into_iter().find(|(differs, _)| *differs) {
            Some((_, what)) => Err(Error::OtherPosition { what }),
            None => Ok(()),
        }
    }
}
