//! What stops reading or writing, and what to do about it.

use std::io;
use std::path::PathBuf;

use crate::skipped::Skipped;

/// Why samples cannot be read. Damaged samples are none of these: see [`Skipped`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A folder without shards, or an empty list.
    #[error("{place} has no shards; expected files whose names end in .tar, .tar.gz or .tgz")]
    NoShards {
        /// Where they were looked for.
        place: String,
    },
    /// Named shards that are not there.
    #[error(
        "{missing} of the shards are missing, the first of them {}; \
         correct the range or fetch them",
        .first.display()
    )]
    MissingShards {
        /// How many.
        missing: usize,
        /// The first in the order of their names.
        first: PathBuf,
    },
    /// A pattern that cannot be expanded.
    #[error(
        "the pattern `{pattern}` cannot be read: {problem}; \
         expected something like shard-{{000000..000099}}.tar"
    )]
    Pattern {
        /// As it was given.
        pattern: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// The system failed to read; reading can go on from the last position once it works again.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The shard or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A worker that there is not.
    #[error("there is no worker {rank} of {world}; expected a rank from 0 to one less than world")]
    Part {
        /// The worker's number.
        rank: usize,
        /// The number of workers.
        world: usize,
    },
    /// A whole epoch without one sample that can be used.
    #[error(
        "epoch {epoch} gave worker {rank} of {world} no sample ({skipped}); \
         check the shards, or use fewer workers"
    )]
    NoSamples {
        /// The epoch, from 0.
        epoch: u64,
        /// The worker's number.
        rank: usize,
        /// The number of workers.
        world: usize,
        /// What was left out since the start.
        skipped: Box<Skipped>,
    },
    /// A position that belongs to something else.
    #[error("the saved position was made with other {what}; resume with the same, or start afresh")]
    OtherPosition {
        /// What is not as it was.
        what: &'static str,
    },
    /// A shard that no longer holds what a position says of it.
    #[error("{} has changed since the position was saved; start afresh", .path.display())]
    Changed {
        /// The shard.
        path: PathBuf,
    },
    /// The reading thread cannot be started.
    #[error("cannot start a thread to read on")]
    Thread(#[source] io::Error),
    /// The reading thread is gone without having said why.
    #[error("the reading thread died; resume from the last position, and report this")]
    ThreadDied,
}

/// Why a sample or a shard cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A key that a reader would not give back.
    #[error(
        "`{key}` cannot be a key: {problem}; expected a relative path of plain names without a dot"
    )]
    Key {
        /// As it was given.
        key: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// A second sample of one name in one shard.
    #[error("the shard has a sample `{key}` already; give every sample a key of its own")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// A file that is no picture, or too large a one.
    #[error(transparent)]
    Picture(#[from] likeness_picture::Refused),
    /// A picture that cannot be encoded.
    #[error("cannot encode the picture")]
    Encode(#[source] image::ImageError),
    /// Landmarks that no reader would take.
    #[error("the landmarks of `{key}` are not all finite; leave them out or correct them")]
    Landmarks {
        /// The sample's key.
        key: String,
    },
    /// A shard of this name is there already.
    #[error("{} is there already; choose another folder or prefix", .path.display())]
    Exists {
        /// The shard.
        path: PathBuf,
    },
    /// The system failed to write.
    #[error("cannot write {}", .path.display())]
    Write {
        /// The shard or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}
