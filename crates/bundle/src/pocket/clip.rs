//! CLIP's text and vision transformers in transformers' names.

use serde::Deserialize;

use super::tensors::{Init, Layout};

/// The part of a text encoder's `config.json` that decides its tensors.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct TextConfig {
    architectures: Vec<String>,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    max_position_embeddings: usize,
    projection_dim: usize,
    pub vocab_size: usize,
}

/// The part of a vision model's `config.json` that decides its tensors.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct VisionConfig {
    pub hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_channels: usize,
    image_size: usize,
    patch_size: usize,
    projection_dim: usize,
}

impl TextConfig {
    /// Every tensor of the encoder, with the projection where the architecture has one.
    pub fn layout(&self) -> Layout {
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
        if self
            .architectures
            .iter()
            .any(|a| a.ends_with("WithProjection"))
        {
            to.weight("text_projection", self.projection_dim, width, 1.0);
        }
        to
    }
}

impl VisionConfig {
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
