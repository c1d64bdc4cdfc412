//! What is left out of the data, and why.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Why a sample is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The shard ends in the middle; what follows is lost, and counted once.
    Truncated,
    /// A place in the shard is no tar entry; reading goes on at the next one.
    Damaged,
    /// The shard had a sample of this key already.
    DuplicateKey,
    /// No `.jpg`, `.jpeg`, `.png` or `.webp`.
    MissingImage,
    /// Neither a `.txt` nor a `caption` in a `.json`.
    MissingCaption,
    /// The picture does not decode.
    Image,
    /// The picture has more bytes or pixels than the limits allow.
    ImageTooLarge,
    /// The `.txt` or `.json` has more than a mebibyte.
    TextTooLarge,
    /// The caption is not UTF-8.
    CaptionNotUtf8,
    /// The `.json` is no JSON object, or its `caption` or `identity` is no string.
    Json,
    /// The landmarks are not 106 pairs of finite numbers.
    Landmarks,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truncated => "shard truncated",
            Self::Damaged => "no tar entry where one must be",
            Self::DuplicateKey => "key used twice",
            Self::MissingImage => "no picture",
            Self::MissingCaption => "no caption",
            Self::Image => "picture does not decode",
            Self::ImageTooLarge => "picture too large",
            Self::TextTooLarge => "text or JSON too large",
            Self::CaptionNotUtf8 => "caption not UTF-8",
            Self::Json => "JSON not as expected",
            Self::Landmarks => "landmarks not 106 finite points",
        })
    }
}

/// The first sample that was left out for a reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct First {
    /// The shard's path.
    pub shard: String,
    /// The sample's key; empty where the damage left none.
    pub key: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Tally {
    count: u64,
    first: First,
}

/// How many samples were left out for each reason, and the first of each. A sample counts every time it comes by, so
/// once in every epoch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Skipped(BTreeMap<Reason, Tally>);

impl Skipped {
    /// How many for one reason.
    pub fn count(&self, reason: Reason) -> u64 {
        self.0.get(&reason).map_or(0, |tally| tally.count)
    }

    /// How many in all.
    pub fn total(&self) -> u64 {
        self.0.values().map(|tally| tally.count).sum()
    }

    /// The reasons that occurred, with their counts and the first sample of each.
    pub fn iter(&self) -> impl Iterator<Item = (Reason, u64, &First)> {
        let tallies = self.0.iter();
        tallies.map(|(reason, tally)| (*reason, tally.count, &tally.first))
    }

    pub(crate) fn add(&mut self, reason: Reason, shard: &Path, key: &str) {
        let first = || First {
            shard: shard.display().to_string(),
            key: key.to_owned(),
        };
        let tally = self.0.entry(reason).or_insert_with(|| Tally {
            count: 0,
            first: first(),
        });
        tally.count += 1;
    }
}

impl fmt::Display for Skipped {
    /// One line for a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} skipped", self.total())?;
        for (reason, count, First { shard, key }) in self.iter() {
            write!(f, "; {reason}: {count}, first `{key}` in {shard}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_each_reason_is_remembered_through_json() {
        let mut skipped = Skipped::default();
        assert_eq!(skipped.to_string(), "0 skipped");
        for (reason, key) in [
            (Reason::Image, "one"),
            (Reason::Image, "two"),
            (Reason::Truncated, ""),
        ] {
            skipped.add(reason, Path::new("s.tar"), key);
        }
        assert_eq!((skipped.count(Reason::Image), skipped.total()), (2, 3));
        assert_eq!(
            skipped.to_string(),
            "3 skipped; shard truncated: 1, first `` in s.tar; \
             picture does not decode: 2, first `one` in s.tar"
        );
        let json = serde_json::to_string(&skipped).unwrap();
        assert_eq!(serde_json::from_str::<Skipped>(&json).unwrap(), skipped);
    }
}
