//! What the queue needs to know of a bundle: announced by the workers that serve it.

use serde::{Deserialize, Serialize};

use crate::render::Scheduler;

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

/// A bundle as its workers announce it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BundleSummary {
    /// SHA-256 over the bundle's name, version and its files' hashes, lower-case hex.
    pub digest: String,
    /// The bundle's name.
    pub name: String,
    /// The bundle's version.
    pub version: String,
    /// The digest of its encoder: only coefficients of this encoder fit its basis.
    pub encoder: String,
    /// Tokens of its coefficients.
    pub tokens: u32,
    /// Numbers per token.
    pub k: u32,
    /// The models it offers, the default one first.
    pub models: Vec<String>,
    /// What a render may leave out.
    pub defaults: RenderDefaults,
    /// Whether it has a Base-LoRA: base coefficients and a basis for them.
    #[serde(default, skip_serializing_if = "is_false")]
    pub base: bool,
}

/// What a bundle fills in where a render leaves it out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RenderDefaults {
    /// How to sample.
    pub scheduler: Scheduler,
    /// Denoising steps.
    pub steps: u32,
    /// Classifier-free guidance.
    pub guidance: f32,
    /// Weight of the ID-LoRA.
    pub id_scale: f32,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
}
