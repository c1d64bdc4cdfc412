//! `text_encoder/config.json` and `text_encoder_2/config.json`.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::{check_layers, config_of, read_config, require};
use crate::Error;

/// The feed-forward activation of a CLIP text encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// x · sigmoid(1.702 x), of OpenAI's CLIP.
    QuickGelu,
    /// The exact GELU, x · Φ(x), of OpenCLIP.
    Gelu,
}

/// A CLIP text encoder's sizes.
#[derive(Clone, Debug, Deserialize)]
pub struct TextConfig {
    /// Rows of the token embedding.
    pub vocab_size: usize,
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Width inside the feed-forward part.
    pub intermediate_size: usize,
    /// Layers; the penultimate one's output conditions the UNet.
    pub num_hidden_layers: usize,
    /// Attention heads.
    pub num_attention_heads: usize,
    /// Tokens per window, with the two end tokens.
    #[serde(default = "default_positions")]
    pub max_position_embeddings: usize,
    /// Feed-forward activation.
    pub hidden_act: Activation,
    /// Epsilon of the layer norms.
    #[serde(default = "default_eps")]
    pub layer_norm_eps: f64,
    /// Width of the pooled projection (text encoder 2).
    #[serde(default = "default_projection")]
    pub projection_dim: usize,
    /// The end token; the historical 2 means "the largest id of the window".
    #[serde(default = "default_eos")]
    pub eos_token_id: u32,
}

fn default_positions() -> usize {
    77
}

fn default_eps() -> f64 {
    1e-5
}

fn default_projection() -> usize {
    512
}

fn default_eos() -> u32 {
    49407
}

impl TextConfig {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// Sizes that do not fit together.
    pub fn read(path: &Path) -> Result<TextConfig, Error> {
        TextConfig::checked(read_config(path)?, path)
    }

    /// As [`TextConfig::read`], from JSON; `path` is for the errors.
    ///
    /// # Errors
    /// As [`TextConfig::read`].
    pub fn parse(json: Value, path: &Path) -> Result<TextConfig, Error> {
        TextConfig::checked(config_of(json, path)?, path)
    }

    /// Whether another configuration has the same tensors of the same shapes.
    pub fn same_shapes(&self, other: &TextConfig) -> bool {
        let sizes = |config: &TextConfig| {
            [
                config.vocab_size,
                config.hidden_size,
                config.intermediate_size,
                config.num_hidden_layers,
                config.max_position_embeddings,
            ]
        };
        sizes(self) == sizes(other)
    }

    fn checked(config: TextConfig, path: &Path) -> Result<TextConfig, Error> {
        let heads = config.num_attention_heads;
        require(
            heads > 0 && config.hidden_size.is_multiple_of(heads),
            path,
            || {
                format!(
                    "`hidden_size` {} is not a multiple of {heads} heads",
                    config.hidden_size
                )
            },
        )?;
        check_layers("num_hidden_layers", &[config.num_hidden_layers], path)?;
        require(config.num_hidden_layers >= 2, path, || {
            "`num_hidden_layers` must be at least 2: the penultimate layer is used".to_owned()
        })?;
        require(config.max_position_embeddings >= 3, path, || {
            "`max_position_embeddings` must be at least 3".to_owned()
        })?;
        Ok(config)
    }
}
