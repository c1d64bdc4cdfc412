//! CLIP's text and vision transformers in transformers' names.

use serde::Deserialize;
use serde_json::Value;

use super::{Config, Init, Layout, check_counts, check_sizes};

/// The part of a text encoder's `config.json` that decides its tensors.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct TextConfig {
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    #[serde(default = "positions")]
    max_position_embeddings: usize,
    #[serde(default = "projection")]
    projection_dim: usize,
    pub vocab_size: usize,
}

/// The part of a vision model's `config.json` that decides its tensors. Defaults are those of
/// transformers, which leaves out what equals them.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub(crate) struct VisionConfig {
    pub hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_channels: usize,
    image_size: usize,
    patch_size: usize,
    projection_dim: usize,
}

fn positions() -> usize {
    77
}

fn projection() -> usize {
    512
}

impl Default for VisionConfig {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_channels: 3,
            image_size: 224,
            patch_size: 32,
            projection_dim: projection(),
        }
    }
}

impl Config for TextConfig {
    fn check(&self) -> Result<(), String> {
        check_counts(&[("num_hidden_layers", self.num_hidden_layers)])?;
        check_sizes(&[
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("projection_dim", self.projection_dim),
            ("vocab_size", self.vocab_size),
        ])
    }
}

impl Config for VisionConfig {
    fn check(&self) -> Result<(), String> {
        check_counts(&[
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_channels", self.num_channels),
        ])?;
        check_sizes(&[
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("image_size", self.image_size),
            ("patch_size", self.patch_size),
            ("projection_dim", self.projection_dim),
        ])?;
        if self.patch_size > self.image_size {
            return Err("`patch_size` is larger than `image_size`".to_owned());
        }
        Ok(())
    }

    /// A whole CLIP's configuration holds the vision model's inside.
    fn parse(text: &[u8]) -> Result<Self, String> {
        let whole: Value = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        let own = whole.get("vision_config").cloned().unwrap_or(whole);
        let config: Self = serde_json::from_value(own).map_err(|error| error.to_string())?;
        config.check()?;
        Ok(config)
    }
}

impl TextConfig {
    /// Every tensor of the encoder; SDXL's second one is `projected`.
    pub fn layout(&self, projected: bool) -> Layout {
        let mut to = Layout::default();
        let width = self.hidden_size;
        let tokens = [self.vocab_size, width];
        to.put(
            "text_model.embeddings.token_embedding.weight",
            &tokens,
            Init::Random(1.0),
        );
        let places = [self.max_position_embeddings, width];
        to.put(
            "text_model.embeddings.position_embedding.weight",
            &places,
            Init::Random(0.5),
        );
        layers(
            &mut to,
            "text_model",
            width,
            self.intermediate_size,
            self.num_hidden_layers,
        );
        to.norm("text_model.final_layer_norm", width);
        if projected {
            to.weight("text_projection", self.projection_dim, width, 1.0);
        }
        to
    }
}

impl VisionConfig {
    /// Side of the pictures in pixels.
    pub fn image_size(&self) -> usize {
        self.image_size
    }

    /// Every tensor of the vision model and its projection.
    pub fn layout(&self) -> Layout {
        let mut to = Layout::default();
        let (width, side) = (self.hidden_size, self.patch_size);
        let patch = [width, self.num_channels, side, side];
        // The pixels of a patch are alike: a sum over them grows faster than over random numbers.
        let init = Init::fan_in(self.num_channels * side * side, 1.0);
        to.put(
            "vision_model.embeddings.patch_embedding.weight",
            &patch,
            init,
        );
        to.put(
            "vision_model.embeddings.class_embedding",
            &[width],
            Init::Random(0.5),
        );
        let places = (self.image_size / side).pow(2) + 1;
        let name = "vision_model.embeddings.position_embedding.weight";
        to.put(name, &[places, width], Init::Random(0.3));
        to.norm("vision_model.pre_layrnorm", width);
        layers(
            &mut to,
            "vision_model",
            width,
            self.intermediate_size,
            self.num_hidden_layers,
        );
        to.norm("vision_model.post_layernorm", width);
        to.weight("visual_projection", self.projection_dim, width, 1.0);
        to
    }
}

fn layers(to: &mut Layout, model: &str, width: usize, inner: usize, count: usize) {
    for layer in 0..count {
        let name = format!("{model}.encoder.layers.{layer}");
        for (matrix, gain) in [
            ("q_proj", 1.5),
            ("k_proj", 1.5),
            ("v_proj", 1.0),
            ("out_proj", 1.0),
        ] {
            to.linear(&format!("{name}.self_attn.{matrix}"), width, width, gain);
        }
        to.norm(&format!("{name}.layer_norm1"), width);
        to.norm(&format!("{name}.layer_norm2"), width);
        to.linear(&format!("{name}.mlp.fc1"), inner, width, 1.0);
        to.linear(&format!("{name}.mlp.fc2"), width, inner, 1.0);
    }
}
