//! The life of a render between a worker and dispatch: prompt, claim, renew, finish.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chrono::{DateTime, Utc};
use likeness_domain::{
    PhotoId, RenderId, RenderState,
    embedding::FaceEmbedding,
    render::{RenderSpec, RenderTimings, RenderedImage},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use zeroize::Zeroizing;

use crate::codec::json_messages;

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

/// A prompt to claim a render.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenderPrompt {
    /// Which render.
    pub render: RenderId,
    /// Which publishing of it; a claim names it.
    pub publication: u32,
    /// Finish everything else before the claim, and take nothing beside it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub alone: bool,
}

/// A prompt to claim a photo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhotoPrompt {
    /// Which photo.
    pub photo: PhotoId,
    /// Which publishing of it; a claim names it.
    pub publication: u32,
}

/// A worker wants to work on a render.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimRequest {
    /// Which render.
    pub render: RenderId,
    /// The prompt's publication.
    pub publication: u32,
    /// Who asks.
    pub worker: String,
    /// It applies sliders and the Base-LoRA, and picks the best of several candidates. A worker of before would leave them
    /// away without a word.
    #[serde(default, skip_serializing_if = "is_false")]
    pub stacks: bool,
}

/// Whether the worker may.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ClaimReply {
    /// It may: the render is its own while the lease holds.
    Granted(Box<Grant>),
    /// It may not: acknowledge the prompt and go on.
    Refused {
        /// Why.
        reason: Refusal,
    },
}

/// Why a claim or its coefficients are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Refusal {
    /// The render was published again since.
    StalePublication,
    /// Another attempt holds the render, or none.
    StaleAttempt,
    /// The render does not wait for a worker: it runs, is over or is gone.
    NotWaiting,
    /// Its `expire_time` has passed.
    Expired,
    /// An identity's consent was revoked, or the identity is gone.
    ConsentRevoked,
    /// The grant promised fewer sets of coefficients.
    NoSuchSet,
    /// A reason of a later version.
    #[serde(other)]
    Other,
}

/// All that a worker needs for one attempt, its coefficients apart. `Debug` shows neither prompt nor links.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Grant {
    /// The fencing token.
    pub attempt: u32,
    /// How long the lease lasts from now; renew it well before.
    pub lease_seconds: u32,
    /// What to make.
    pub spec: RenderSpec,
    /// When the render gives up.
    pub expire_time: DateTime<Utc>,
    /// The weight in the blend of each set of coefficients, which a `CoefficientsRequest` each brings.
    pub coefficient_sets: Vec<f32>,
    /// Where each image goes, by position.
    pub uploads: Vec<Upload>,
    /// When the links stop working.
    pub upload_expire: DateTime<Utc>,
    /// A presigned link for GET: the picture to start from, where the render has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_url: Option<String>,
    /// Paint its images one at a time, with nothing beside them.
    #[serde(default, skip_serializing_if = "is_false")]
    pub alone: bool,
    /// How far to move along each slider. [`Set`](super::Set) says how to ask for the ends' coefficients.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sliders: Vec<f32>,
    /// The face that images are compared with, where the render shows exactly one identity: as personal as coefficients.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "embedding_to_base64",
        deserialize_with = "embedding_from_base64"
    )]
    pub reference: Option<FaceEmbedding>,
}

#[allow(clippy::ref_option, reason = "serde calls it with the field")]
fn embedding_to_base64<S: Serializer>(
    embedding: &Option<FaceEmbedding>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let text = embedding
        .as_ref()
        .map(|embedding| Zeroizing::new(STANDARD.encode(embedding.to_bytes())));
    match &text {
        Some(text) => serializer.serialize_some(text.as_str()),
        None => serializer.serialize_none(),
    }
}

fn embedding_from_base64<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<FaceEmbedding>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)?.map(Zeroizing::new) else {
        return Ok(None);
    };
    let bytes = STANDARD.decode(text.as_str()).map(Zeroizing::new);
    let bytes = bytes.map_err(|_| D::Error::custom("not base64"))?;
    let embedding = FaceEmbedding::from_bytes(&bytes).map_err(D::Error::custom)?;
    Ok(Some(embedding))
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grant")
            .field("attempt", &self.attempt)
            .field("lease_seconds", &self.lease_seconds)
            .field("expire_time", &self.expire_time)
            .field("coefficient_sets", &self.coefficient_sets.len())
            .field("uploads", &self.uploads)
            .finish_non_exhaustive()
    }
}

/// Where an image goes. `Debug` hides the link, which is a credential.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upload {
    /// A presigned link for one PUT.
    pub url: String,
    /// The media type that the link was signed for.
    pub content_type: String,
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Upload({})", self.content_type)
    }
}

/// A worker keeps its lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewRequest {
    /// Which render.
    pub render: RenderId,
    /// The worker's attempt.
    pub attempt: u32,
    /// Who asks.
    pub worker: String,
}

/// Whether the worker still holds the render.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RenewReply {
    /// It does.
    Held {
        /// How long the lease lasts from now.
        lease_seconds: u32,
        /// Whether to stop: finish with `Cancelled`.
        cancel: bool,
    },
    /// It does not: stop, upload nothing, drop the coefficients.
    Lost,
}

/// A worker ends its attempt. Repeated until answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FinishRequest {
    /// Which render.
    pub render: RenderId,
    /// The worker's attempt.
    pub attempt: u32,
    /// Who asks.
    pub worker: String,
    /// How it ended.
    pub outcome: WorkOutcome,
}

/// How an attempt ended, as its worker says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum WorkOutcome {
    /// All images are uploaded.
    Succeeded {
        /// By position.
        images: Vec<RenderedImage>,
        /// Where the time went.
        timings: RenderTimings,
    },
    /// It stopped because it was told to.
    Cancelled,
    /// It failed.
    Failed {
        /// UPPER_SNAKE, for programs.
        reason: String,
        /// For people; nothing personal in it.
        message: String,
        /// Whether another attempt may succeed.
        retryable: bool,
    },
    /// The worker ends before the render does; this attempt does not count.
    HandedBack,
}

/// What became of an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum FinishReply {
    /// It is committed.
    Applied {
        /// The render's state now.
        state: RenderState,
    },
    /// It was committed before.
    Repeated {
        /// The render's state now.
        state: RenderState,
    },
    /// The attempt is not the current one: nothing changed.
    Stale {
        /// The render's state now.
        state: RenderState,
    },
}

json_messages!(
    RenderPrompt,
    PhotoPrompt,
    ClaimRequest,
    ClaimReply,
    RenewRequest,
    RenewReply,
    FinishRequest,
    FinishReply,
);
