//! Training data as the field keeps it: WebDataset shards, which are tar files whose neighbouring files of one name are
//! one sample.
//!
//! A sample is a picture (`.jpg`, `.jpeg`, `.png`, `.webp`) and a caption (`.txt`, or `caption` in `.json`), and may
//! have landmarks (`landmarks` in `.json`: 106 pairs, pixels of the picture as it is stored) and an identity (`identity`
//! in `.json`, a string). Its key is the file's name up to the first dot of the last part of the path.
//!
//! [`Shards`] are found, a [`Reader`] goes through them, [`Prefetch`] puts it on a thread of its own, and a
//! [`ShardWriter`] makes new ones. What is damaged in the data is counted in [`Skipped`] and left out; an [`Error`] is
//! what somebody has to look at. Captions, identities and pictures are in no error and no `Debug` text.

mod blocks;
mod error;
mod groups;
mod members;
mod order;
mod pattern;
mod position;
mod prefetch;
mod reader;
mod sample;
mod shards;
mod skipped;
mod stream;
#[cfg(test)]
mod testing;
mod upright;
mod writer;

pub use error::{Error, WriteError};
pub use likeness_picture::Limits;
pub use order::{Part, Shuffle};
pub use position::Position;
pub use prefetch::Prefetch;
pub use reader::{Epochs, Options, Reader};
pub use sample::{Landmarks, Sample};
pub use shards::Shards;
pub use skipped::{First, Reason, Skipped};
pub use writer::{ImageFile, Record, ShardWriter};
