//! In which order samples come, and which worker reads which.
//!
//! All chance is drawn from ChaCha8 by seed, epoch and purpose, and reduced here and not by a library's sampling: a saved
//! position must give the same samples after the libraries have been renewed.

use std::num::NonZeroUsize;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// How samples are shuffled: the shards among each other, and the samples through a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shuffle {
    /// The same for all workers, or they would not share the shards out alike.
    pub seed: u64,
    /// How many samples are held, as their files are stored; each next one is drawn from among these. The more, the
    /// better mixed: some thousand are usual.
    pub buffer: NonZeroUsize,
}

/// Which part of the data one of several workers reads.
///
/// Each epoch's shards are dealt out in turns, and if there are fewer shards than workers, the samples of every shard
/// are. So each sample comes once in an epoch, to one worker; the workers' epochs are not of one length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    rank: usize,
    world: usize,
}

impl Part {
    /// All of the data.
    pub const WHOLE: Self = Self { rank: 0, world: 1 };

    /// The part of worker `rank`, from 0, of `world` workers.
    ///
    /// # Errors
    /// [`Error::Part`] if there is no such worker.
    pub fn new(rank: usize, world: usize) -> Result<Self, Error> {
        if rank < world {
            Ok(Self { rank, world })
        } else {
            Err(Error::Part { rank, world })
        }
    }

    /// The worker's number, from 0.
    pub fn rank(self) -> usize {
        self.rank
    }

    /// How many workers there are.
    pub fn world(self) -> usize {
        self.world
    }

    /// Whether the samples are dealt out and not the shards.
    fn is_by_samples(self, shards: usize) -> bool {
        shards < self.world
    }

    /// Whether this worker has a sample of the shards that it reads; `place` counts them all through the epoch.
    pub(crate) fn has_sample(self, shards: usize, place: u64) -> bool {
        !self.is_by_samples(shards) || place % self.world as u64 == self.rank as u64
    }
}

/// The numbers of the shards that a worker reads in an epoch, in order.
pub(crate) fn turns(shards: usize, shuffle: Option<Shuffle>, part: Part, epoch: u64) -> Vec<u32> {
    let mut all: Vec<u32> = (0..shards as u32).collect();
    if let Some(Shuffle { seed, .. }) = shuffle {
        let mut draws = Draws::for_shards(seed, epoch);
        for last in (1..all.len()).rev() {
            all.swap(draws.below(last + 1), last);
        }
    }
    if part.is_by_samples(shards) {
        return all;
    }
    all.into_iter()
        .skip(part.rank)
        .step_by(part.world)
        .collect()
}

/// A row of random numbers that can be taken up anywhere.
pub(crate) struct Draws {
    rng: ChaCha8Rng,
    made: u64,
}

impl Draws {
    fn for_shards(seed: u64, epoch: u64) -> Self {
        Self::of_stream(seed, epoch.wrapping_mul(2), 0)
    }

    /// For the samples of an epoch, after `made` draws.
    pub(crate) fn for_samples(seed: u64, epoch: u64, made: u64) -> Self {
        Self::of_stream(seed, epoch.wrapping_mul(2).wrapping_add(1), made)
    }

    fn of_stream(seed: u64, stream: u64, made: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream);
        // A draw takes two words of 32 bits.
        rng.set_word_pos(u128::from(made) * 2);
        Self { rng, made }
    }

    pub(crate) fn made(&self) -> u64 {
        self.made
    }

    /// A number below `bound`, which is not 0: the upper half of the product, uneven by no more than `bound` in 2⁶⁴.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.made = self.made.wrapping_add(1);
        let product = u128::from(self.rng.next_u64()) * bound as u128;
        (product >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn shuffle(seed: u64) -> Shuffle {
        let buffer = NonZeroUsize::MIN;
        Shuffle { seed, buffer }
    }

    #[test]
    fn the_order_follows_seed_and_epoch_and_never_changes() {
        let order = |seed, epoch| turns(8, Some(shuffle(seed)), Part::WHOLE, epoch);
        assert_ne!(order(1, 0), order(1, 1));
        assert_ne!(order(1, 0), order(2, 0));
        assert_eq!(turns(4, None, Part::WHOLE, 3), [0, 1, 2, 3]);
        // Saved positions depend on it.
        assert_eq!(order(7, 3), [1, 4, 7, 6, 0, 3, 5, 2]);
        let mut draws = Draws::for_samples(7, 3, 0);
        let drawn = [(); 6].map(|()| draws.below(1000));
        assert_eq!(drawn, [701, 375, 451, 398, 582, 436]);
    }

    #[test]
    fn workers_share_the_shards_and_miss_none() {
        for world in [1, 3, 5, 8] {
            let parts = (0..world).map(|rank| Part::new(rank, world).unwrap());
            let all: Vec<u32> = parts
                .flat_map(|part| turns(8, Some(shuffle(5)), part, 2))
                .collect();
            let distinct: BTreeSet<&u32> = all.iter().collect();
            assert_eq!((all.len(), distinct.len()), (8, 8), "{world}");
        }
    }

    #[test]
    fn every_sample_has_one_worker_where_shards_are_few() {
        for place in [0, 1, 17, u64::MAX] {
            let parts = (0..5).map(|rank| Part::new(rank, 5).unwrap());
            let owners = parts.filter(|part| part.has_sample(3, place));
            assert_eq!(owners.count(), 1);
        }
        assert!(Part::WHOLE.has_sample(1, 9));
    }

    #[test]
    fn there_is_no_worker_beyond_the_last() {
        for (rank, world) in [(0, 0), (2, 2)] {
            assert!(matches!(Part::new(rank, world), Err(Error::Part { .. })));
        }
    }

    #[test]
    fn draws_can_be_taken_up_anywhere_and_are_spread() {
        let mut from_start = Draws::for_samples(3, 1, 0);
        let row: Vec<usize> = (0..4000).map(|_| from_start.below(4)).collect();
        for made in [1, 7, 63, 1000] {
            let mut later = Draws::for_samples(3, 1, made);
            assert!((made as usize..4000).all(|at| later.below(4) == row[at]));
            assert_eq!(later.made(), 4000);
        }
        for value in 0..4 {
            let count = row.iter().filter(|drawn| **drawn == value).count();
            // A thousand each, within five standard deviations.
            assert!((863..1137).contains(&count), "{value}: {count}");
        }
    }
}
