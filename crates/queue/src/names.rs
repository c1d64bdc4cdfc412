//! Names that become parts of subjects and streams: checked once, so that none can reach beyond its place.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A text that cannot be a part of a subject.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is no {kind}; expected {expected}")]
pub struct NameError {
    kind: &'static str,
    expected: &'static str,
    found: String,
}

/// The prefix of every subject and stream, so that several installations and tests share a server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Namespace(String);

impl Namespace {
    /// As in subjects.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of one of its streams; namespaces are lower-case, so no two share one.
    pub(crate) fn stream(&self, name: &str) -> String {
        format!("{}_{name}", self.0.to_uppercase())
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self("likeness".to_owned())
    }
}

impl FromStr for Namespace {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let fits = is_token(text, 64, |c| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'_'));
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(refuse("namespace", "1 to 64 of a-z, 0-9 and _", text))
        }
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A set of workers that serve the same bundle on the same class of device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct PoolName(String);

impl PoolName {
    /// As in subjects.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PoolName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let fits = is_token(text, 64, |c| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(refuse("pool", "1 to 64 of a-z, 0-9 and -", text))
        }
    }
}

impl TryFrom<String> for PoolName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<PoolName> for String {
    fn from(pool: PoolName) -> Self {
        pool.0
    }
}

impl fmt::Display for PoolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_token(text: &str, longest: usize, allowed: fn(u8) -> bool) -> bool {
    (1..=longest).contains(&text.len()) && text.bytes().all(allowed)
}

fn refuse(kind: &'static str, expected: &'static str, found: &str) -> NameError {
    NameError {
        kind,
        expected,
        found: found.chars().take(80).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_reach_beyond_their_token() {
        for bad in ["", "a.b", "*", ">", "a b", "a\n", "A", "ü", &"x".repeat(65)] {
            assert!(bad.parse::<Namespace>().is_err(), "{bad:?}");
            assert!(bad.parse::<PoolName>().is_err(), "{bad:?}");
        }
        assert!("run_7".parse::<Namespace>().is_ok());
        assert!("pocket-1-cpu".parse::<PoolName>().is_ok());
        assert!(serde_json::from_str::<PoolName>("\"a.>\"").is_err());
    }
}
