//! `vae/config.json`.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::{check_layers, config_of, read_config, require};
use crate::Error;

#[derive(Deserialize)]
struct RawVae {
    #[serde(rename = "_class_name")]
    class_name: Option<String>,
    block_out_channels: Vec<usize>,
    down_block_types: Option<Vec<String>>,
    up_block_types: Option<Vec<String>>,
    #[serde(default = "one")]
    layers_per_block: usize,
    #[serde(default = "four")]
    latent_channels: usize,
    #[serde(default = "thirty_two")]
    norm_num_groups: usize,
    #[serde(default = "default_scaling")]
    scaling_factor: f64,
    act_fn: Option<String>,
    latents_mean: Option<Vec<f32>>,
    latents_std: Option<Vec<f32>>,
    #[serde(default = "yes")]
    use_quant_conv: bool,
    #[serde(default = "yes")]
    use_post_quant_conv: bool,
    #[serde(default = "yes")]
    mid_block_add_attention: bool,
}

fn one() -> usize {
    1
}

fn four() -> usize {
    4
}

fn thirty_two() -> usize {
    32
}

fn default_scaling() -> f64 {
    0.18215
}

fn yes() -> bool {
    true
}

/// The autoencoder's sizes.
#[derive(Clone, Debug)]
pub struct VaeConfig {
    /// Channels per level, from the picture inwards.
    pub channels: Vec<usize>,
    /// Residual blocks per encoder level; a decoder level has one more.
    pub layers: usize,
    /// Groups of the group norms.
    pub groups: usize,
    /// Latents are divided by this before decoding.
    pub scaling_factor: f64,
    /// Mean and deviation per latent channel, where a checkpoint has them.
    pub latent_statistics: Option<([f32; 4], [f32; 4])>,
    /// A 1×1 convolution behind the encoder.
    pub quant_conv: bool,
    /// A 1×1 convolution before the decoder.
    pub post_quant_conv: bool,
    /// Attention in the middle blocks.
    pub mid_attention: bool,
}

impl VaeConfig {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// Refuses other autoencoders and block types by name.
    pub fn read(path: &Path) -> Result<VaeConfig, Error> {
        VaeConfig::checked(read_config(path)?, path)
    }

    /// As [`VaeConfig::read`], from JSON; `path` is for the errors.
    ///
    /// # Errors
    /// As [`VaeConfig::read`].
    pub fn parse(json: Value, path: &Path) -> Result<VaeConfig, Error> {
        VaeConfig::checked(config_of(json, path)?, path)
    }

    /// Whether another configuration has the same tensors of the same shapes.
    pub fn same_shapes(&self, other: &VaeConfig) -> bool {
        let options = |config: &VaeConfig| {
            [
                config.quant_conv,
                config.post_quant_conv,
                config.mid_attention,
            ]
        };
        (&self.channels, self.layers) == (&other.channels, other.layers)
            && options(self) == options(other)
    }

    fn checked(raw: RawVae, path: &Path) -> Result<VaeConfig, Error> {
        check(&raw, path)?;
        let four = |values: Option<Vec<f32>>| values.and_then(|v| <[f32; 4]>::try_from(v).ok());
        Ok(VaeConfig {
            channels: raw.block_out_channels,
            layers: raw.layers_per_block,
            groups: raw.norm_num_groups,
            scaling_factor: raw.scaling_factor,
            latent_statistics: four(raw.latents_mean).zip(four(raw.latents_std)),
            quant_conv: raw.use_quant_conv,
            post_quant_conv: raw.use_post_quant_conv,
            mid_attention: raw.mid_block_add_attention,
        })
    }

    /// Picture pixels per latent, along one side.
    pub fn factor(&self) -> usize {
        1 << (self.channels.len() - 1)
    }
}

fn check(raw: &RawVae, path: &Path) -> Result<(), Error> {
    let class = raw.class_name.as_deref().unwrap_or("AutoencoderKL");
    require(class == "AutoencoderKL", path, || {
        format!("`{class}` is not AutoencoderKL")
    })?;
    require(raw.latent_channels == 4, path, || {
        format!(
            "{} latent channels, SDXL's autoencoder has 4",
            raw.latent_channels
        )
    })?;
    let blocks = raw.block_out_channels.len();
    require((1..=6).contains(&blocks), path, || {
        format!("`block_out_channels` has {blocks} levels, expected 1 to 6")
    })?;
    check_layers("layers_per_block", &[raw.layers_per_block], path)?;
    let act = raw.act_fn.as_deref().unwrap_or("silu");
    require(["silu", "swish"].contains(&act), path, || {
        format!("`act_fn` = \"{act}\" is not supported, expected \"silu\"")
    })?;
    require(raw.layers_per_block > 0, path, || {
        "`layers_per_block` is 0".to_owned()
    })?;
    require(
        raw.scaling_factor.is_finite() && raw.scaling_factor > 0.0,
        path,
        || "`scaling_factor` must be positive".to_owned(),
    )?;
    block_types(raw.down_block_types.as_deref(), "DownEncoderBlock2D", path)?;
    block_types(raw.up_block_types.as_deref(), "UpDecoderBlock2D", path)
}

fn block_types(types: Option<&[String]>, expected: &str, path: &Path) -> Result<(), Error> {
    let other = types
        .unwrap_or_default()
        .iter()
        .find(|name| *name != expected);
    match other {
        None => Ok(()),
        Some(name) => Err(Error::unsupported(
            path,
            format!("block `{name}`, not {expected}"),
        )),
    }
}
