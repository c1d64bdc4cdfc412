//! Events: unstored, for whoever watches. Postgres has the truth for whoever missed one.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use likeness_domain::{RenderState, render::RenderProgress};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::codec::json_messages;

/// How far a running render is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The attempt that runs; watchers ignore an older one's.
    pub attempt: u32,
    /// Done and to do.
    pub progress: RenderProgress,
    /// A small picture of the image in the making.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preview: Option<Preview>,
}

/// A small picture, base64 on the wire. `Debug` shows its size alone.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preview {
    /// Its media type.
    pub content_type: String,
    /// The encoded picture.
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    pub bytes: Vec<u8>,
}

impl fmt::Debug for Preview {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Preview({}, {} bytes)",
            self.content_type,
            self.bytes.len()
        )
    }
}

fn to_base64<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&STANDARD.encode(bytes))
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(deserializer)?;
    STANDARD
        .decode(text)
        .map_err(|_| D::Error::custom("not base64"))
}

/// A render changed its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenderEvent {
    /// The state now.
    pub state: RenderState,
}

/// The identity of this subject changed, or its photos: read it again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityEvent {}

/// The render of this subject was cancelled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelNotice {}

/// There may be something to admit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wake {}

json_messages!(Progress, RenderEvent, IdentityEvent, CancelNotice, Wake);
