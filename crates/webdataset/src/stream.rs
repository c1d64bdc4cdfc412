//! One epoch of a worker's samples in the order of the shards, still encoded.

use std::path::Path;

use crate::error::Error;
use crate::groups::Groups;
use crate::order;
use crate::position::{Place, Reached};
use crate::reader::Options;
use crate::sample::Encoded;
use crate::shards::Shards;
use crate::skipped::Skipped;

/// An encoded sample, and where it lies.
pub(crate) struct Held {
    pub(crate) place: Place,
    pub(crate) key: String,
    pub(crate) encoded: Encoded,
}

/// What is yet to be read of an epoch.
pub(crate) struct Stream {
    turns: Vec<u32>,
    reached: Reached,
    open: Option<Groups>,
}

impl Stream {
    /// An epoch from where it was reached.
    pub(crate) fn new(shards: &Shards, options: &Options, epoch: u64, reached: Reached) -> Self {
        Self {
            turns: order::turns(shards.len(), options.shuffle, options.part, epoch),
            reached,
            open: None,
        }
    }

    pub(crate) fn reached(&self) -> Reached {
        self.reached
    }

    /// The worker's next sample that has all its files; `None` after the last of the epoch.
    pub(crate) fn next(
        &mut self,
        shards: &Shards,
        options: &Options,
        skipped: &mut Skipped,
    ) -> Result<Option<Held>, Error> {
        while let Some(&shard) = self.turns.get(self.reached.turn) {
            let groups = match &mut self.open {
                Some(groups) => groups,
                closed => {
                    let behind = self.reached.groups;
                    closed.insert(opened(shards.path(shard)?, options, behind)?)
                }
            };
            let mine = options.part.has_sample(shards.len(), self.reached.passed);
            let Some(group) = groups.next(mine)? else {
                self.reached.turn += 1;
                self.reached.groups = 0;
                self.open = None;
                continue;
            };
            self.reached.groups += 1;
            self.reached.passed = self.reached.passed.wrapping_add(1);
            match group.content {
                _ if !mine => {}
                Err(reason) => skipped.add(reason, groups.path(), &group.key),
                Ok(encoded) => {
                    let offset = group.offset;
                    return Ok(Some(Held {
                        place: Place { shard, offset },
                        key: group.key,
                        encoded,
                    }));
                }
            }
        }
        Ok(None)
    }
}

/// A shard whose first groups are behind. They are passed by their headers, so that keys used twice are told as before.
fn opened(path: &Path, options: &Options, behind: u64) -> Result<Groups, Error> {
    let mut groups = Groups::open(path, &options.limits)?;
    for _ in 0..behind {
        if groups.next(false)?.is_none() {
            let path = path.to_owned();
            return Err(Error::Changed { path });
        }
    }
    Ok(groups)
}

/// The samples at the given places, in their order. Each shard is opened once and read forwards.
pub(crate) fn fetch(
    shards: &Shards,
    options: &Options,
    places: &[Place],
) -> Result<Vec<Held>, Error> {
    let mut forwards: Vec<(Place, usize)> = places.iter().copied().zip(0..).collect();
    forwards.sort_unstable();
    let mut fetched = Vec::with_capacity(places.len());
    for of_shard in forwards.chunk_by(|(one, _), (other, _)| one.shard == other.shard) {
        let Some((Place { shard, .. }, _)) = of_shard.first() else {
            continue;
        };
        let path = shards.path(*shard)?;
        let mut groups = Groups::open(path, &options.limits)?;
        for (place, index) in of_shard {
            let group = groups.at(place.offset)?;
            let whole = group.and_then(|group| Some((group.key, group.content.ok()?)));
            let (key, encoded) = whole.ok_or_else(|| Error::Changed {
                path: path.to_owned(),
            })?;
            let place = *place;
            fetched.push((
                *index,
                Held {
                    place,
                    key,
                    encoded,
                },
            ));
        }
    }
    fetched.sort_unstable_by_key(|(index, _)| *index);
    Ok(fetched.into_iter().map(|(_, held)| held).collect())
}
