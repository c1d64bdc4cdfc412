//! Messages to and from bytes: JSON with a version, and the errors of what cannot be read.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The version that this software writes. It reads this one and all before it; a field added in a later release
/// keeps the version, since unknown fields are ignored.
pub const MESSAGE_VERSION: u32 = 1;

/// What a message is on the wire: headers and a body.
#[derive(Clone, PartialEq, Eq)]
pub struct Parcel {
    /// Headers by name.
    pub headers: BTreeMap<&'static str, String>,
    /// The body.
    pub body: Bytes,
}

/// Bytes that are no message of the expected kind. Never carries any of their content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Not JSON, or not this message's JSON.
    #[error(
        "not this message's JSON ({problem} at line {line}, column {column}); it was not sent by Likeness, or is damaged"
    )]
    Json {
        /// Which kind of problem.
        problem: &'static str,
        /// Where.
        line: usize,
        /// Where.
        column: usize,
    },
    /// Written by a later version.
    #[error(
        "a message of version {found}, this software reads up to {MESSAGE_VERSION}; upgrade it"
    )]
    NewerVersion {
        /// The version found.
        found: u32,
    },
    /// No version of ours.
    #[error("a message of version 0; versions start at 1")]
    NoVersion,
    /// A binary message's header or body is wrong.
    #[error("not a binary message of this kind: {problem}")]
    Binary {
        /// What is wrong.
        problem: String,
    },
    /// A value that has no JSON form.
    #[error("cannot write this message: {problem}")]
    Unwritable {
        /// What is wrong.
        problem: String,
    },
}

/// Something that travels over NATS.
pub trait Message: Sized + Send + 'static {
    /// As it travels.
    ///
    /// # Errors
    /// A value that cannot be written.
    fn encode(&self) -> Result<Parcel, CodecError>;

    /// Reads what travelled; `header` gives a header's text by name.
    ///
    /// # Errors
    /// Bytes that are no such message, or one of a later version.
    fn decode(
        header: &dyn Fn(&'static str) -> Option<String>,
        body: &[u8],
    ) -> Result<Self, CodecError>;
}

/// A message with its version beside its fields.
#[derive(Serialize)]
struct Versioned<'a, T> {
    v: u32,
    #[serde(flatten)]
    body: &'a T,
}

#[derive(Deserialize)]
struct Version {
    v: u32,
}

/// The JSON form of a message.
pub(crate) fn to_json<T: Serialize>(body: &T) -> Result<Bytes, CodecError> {
    let versioned = Versioned {
        v: MESSAGE_VERSION,
        body,
    };
    let bytes = serde_json::to_vec(&versioned).map_err(|error| CodecError::Unwritable {
        problem: format!("{:?}", error.classify()),
    })?;
    Ok(bytes.into())
}

/// Reads a message's JSON form.
pub(crate) fn from_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let Version { v } = serde_json::from_slice(bytes).map_err(|error| json_error(&error))?;
    match v {
        0 => Err(CodecError::NoVersion),
        1..=MESSAGE_VERSION => serde_json::from_slice(bytes).map_err(|error| json_error(&error)),
        found => Err(CodecError::NewerVersion { found }),
    }
}

/// serde's own text may quote the content, which can be a prompt or a link.
fn json_error(error: &serde_json::Error) -> CodecError {
    use serde_json::error::Category;
    let problem = match error.classify() {
        Category::Io => "unreadable",
        Category::Syntax => "not JSON",
        Category::Data => "a missing or wrong field",
        Category::Eof => "cut short",
    };
    CodecError::Json {
        problem,
        line: error.line(),
        column: error.column(),
    }
}

/// Makes types travel as versioned JSON.
macro_rules! json_messages {
    ($($name:ty),+ $(,)?) => {$(
        impl $crate::codec::Message for $name {
            fn encode(&self) -> Result<$crate::codec::Parcel, $crate::codec::CodecError> {
                let body = $crate::codec::to_json(self)?;
                Ok($crate::codec::Parcel { headers: std::collections::BTreeMap::new(), body })
            }

            fn decode(
                _header: &dyn Fn(&'static str) -> Option<String>,
                body: &[u8],
            ) -> Result<Self, $crate::codec::CodecError> {
                $crate::codec::from_json(body)
            }
        }
    )+};
}
pub(crate) use json_messages;
