//! The autoencoder (AutoencoderKL) in diffusers' names.

use serde::Deserialize;

use super::{Config, Layout, check_counts, check_sizes};

/// The part of a VAE's `config.json` that decides its tensors.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct VaeConfig {
    #[serde(default = "three")]
    in_channels: usize,
    #[serde(default = "three")]
    out_channels: usize,
    #[serde(default = "four")]
    latent_channels: usize,
    block_out_channels: Vec<usize>,
    #[serde(default = "one")]
    layers_per_block: usize,
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

fn three() -> usize {
    3
}

fn four() -> usize {
    4
}

fn yes() -> bool {
    true
}

impl Config for VaeConfig {
    fn check(&self) -> Result<(), String> {
        check_counts(&[
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("latent_channels", self.latent_channels),
            ("layers_per_block", self.layers_per_block),
            (
                "levels of block_out_channels",
                self.block_out_channels.len(),
            ),
        ])?;
        let widths = self.block_out_channels.iter();
        let mut widths = widths.map(|width| ("block_out_channels", *width));
        widths.try_for_each(|width| check_sizes(&[width]))
    }
}

impl VaeConfig {
    /// Every tensor of encoder and decoder.
    pub fn layout(&self) -> Layout {
        let mut to = Layout::default();
        self.encoder(&mut to);
        self.decoder(&mut to);
        let latent = self.latent_channels;
        if self.use_quant_conv {
            to.conv("quant_conv", 2 * latent, 2 * latent, 1, 1.0);
        }
        if self.use_post_quant_conv {
            to.conv("post_quant_conv", latent, latent, 1, 1.0);
        }
        to
    }

    fn encoder(&self, to: &mut Layout) {
        let (mut inputs, last) = (
            self.block_out_channels[0],
            self.block_out_channels.len() - 1,
        );
        to.conv("encoder.conv_in", inputs, self.in_channels, 3, 1.0);
        for (level, &width) in self.block_out_channels.iter().enumerate() {
            let block = format!("encoder.down_blocks.{level}");
            for layer in 0..self.layers_per_block {
                resnet(to, &format!("{block}.resnets.{layer}"), width, inputs);
                inputs = width;
            }
            if level < last {
                to.conv(
                    &format!("{block}.downsamplers.0.conv"),
                    width,
                    width,
                    3,
                    1.0,
                );
            }
        }
        self.middle(to, "encoder.mid_block", inputs);
        to.norm("encoder.conv_norm_out", inputs);
        to.conv("encoder.conv_out", 2 * self.latent_channels, inputs, 3, 1.6);
    }

    fn decoder(&self, to: &mut Layout) {
        let last = self.block_out_channels.len() - 1;
        let mut inputs = self.block_out_channels[last];
        to.conv("decoder.conv_in", inputs, self.latent_channels, 3, 1.0);
        self.middle(to, "decoder.mid_block", inputs);
        for (block, &width) in self.block_out_channels.iter().rev().enumerate() {
            let name = format!("decoder.up_blocks.{block}");
            for layer in 0..=self.layers_per_block {
                resnet(to, &format!("{name}.resnets.{layer}"), width, inputs);
                inputs = width;
            }
            if block < last {
                to.conv(&format!("{name}.upsamplers.0.conv"), width, width, 3, 1.0);
            }
        }
        to.norm("decoder.conv_norm_out", inputs);
        // After silu a spread of 1 is 0.6: pictures get a spread of about half their range of ±1.
        to.conv("decoder.conv_out", self.out_channels, inputs, 3, 0.8);
    }

    fn middle(&self, to: &mut Layout, name: &str, width: usize) {
        resnet(to, &format!("{name}.resnets.0"), width, width);
        if self.mid_block_add_attention {
            let attention = format!("{name}.attentions.0");
            to.norm(&format!("{attention}.group_norm"), width);
            for matrix in ["to_q", "to_k", "to_v", "to_out.0"] {
                to.linear(&format!("{attention}.{matrix}"), width, width, 1.0);
            }
        }
        resnet(to, &format!("{name}.resnets.1"), width, width);
    }
}

fn resnet(to: &mut Layout, name: &str, outputs: usize, inputs: usize) {
    to.norm(&format!("{name}.norm1"), inputs);
    to.conv(&format!("{name}.conv1"), outputs, inputs, 3, 1.4);
    to.norm(&format!("{name}.norm2"), outputs);
    to.conv(&format!("{name}.conv2"), outputs, outputs, 3, 1.0);
    if outputs != inputs {
        to.conv(&format!("{name}.conv_shortcut"), outputs, inputs, 1, 1.0);
    }
}
