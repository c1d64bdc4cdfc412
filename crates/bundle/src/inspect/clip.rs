//! CLIP's vision model in a transformers folder.

use std::path::Path;

use super::PartReport;
use super::compare::{Expected, compare};
use super::weights::Weights;
use crate::layout::VisionConfig;

const PREFIX: &str = "vision_model.";
const PROJECTION: &str = "visual_projection.weight";

/// Describes the folder and lists what does not fit its `config.json`.
pub(super) fn inspect(dir: &Path) -> PartReport {
    let mut report = PartReport::new("clip_vision", "transformers folder");
    report.has(dir, "preprocessor_config.json");
    let config: Option<VisionConfig> = report.config(dir, "config.json");
    // Only this name is loaded.
    let weights = report
        .has(dir, "model.safetensors")
        .then(|| Weights::read(&mut report, dir, "", "model"))
        .flatten();
    let (Some(config), Some(weights)) = (config, weights) else {
        return report;
    };
    let found = weights.found();
    let mut expected = config.layout().shapes();
    // What lies behind the hidden states is optional, and so is the prefix.
    expected.remove(PROJECTION);
    if found.has("embeddings.class_embedding") {
        expected = without_prefix(expected);
    }
    compare(&mut report, &found, &expected, beside);
    report
}

fn without_prefix(expected: Expected) -> Expected {
    let bare = |name: String| match name.strip_prefix(PREFIX) {
        Some(bare) => bare.to_owned(),
        None => name,
    };
    expected
        .into_iter()
        .map(|(name, shape)| (bare(name), shape))
        .collect()
}

/// What a file may hold beside the vision model: a whole CLIP's other half.
fn beside(name: &str) -> bool {
    [
        "text_model.",
        "text_projection.",
        "visual_projection.",
        "logit_scale",
    ]
    .iter()
    .any(|start| name.starts_with(start))
        || name.ends_with("embeddings.position_ids")
}
