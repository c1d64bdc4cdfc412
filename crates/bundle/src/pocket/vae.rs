//! The autoencoder (AutoencoderKL) in diffusers' names.

use serde::Deserialize;

use super::tensors::Layout;

/// The part of a VAE's `config.json` that decides its tensors.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct VaeConfig {
    in_channels: usize,
    out_channels: usize,
    latent_channels: usize,
    block_out_channels: Vec<usize>,
    layers_per_block: usize,
}

impl VaeConfig {
    /// Every tensor of encoder and decoder.
    pub fn layout(&self) -> Layout {
        let mut to = Layout::default();
        self.encoder(&mut to);
        self.decoder(&mut to);
        let latent = self.latent_channels;
        to.conv("quant_conv", 2 * latent, 2 * latent, 1, 1.0);
        to.conv("post_quant_conv", latent, latent, 1, 1.0);
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
        middle(to, "encoder.mid_block", inputs);
        to.norm("encoder.conv_norm_out", inputs);
        to.conv("encoder.conv_out", 2 * self.latent_channels, inputs, 3, 1.6);
    }

    fn decoder(&self, to: &mut Layout) {
        let last = self.block_out_channels.len() - 1;
        let mut inputs = self.block_out_channels[last];
        to.conv("decoder.conv_in", inputs, self.latent_channels, 3, 1.0);
        middle(to, "decoder.mid_block", inputs);
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
}

fn middle(to: &mut Layout, name: &str, width: usize) {
    resnet(to, &format!("{name}.resnets.0"), width, width);
    let attention = format!("{name}.attentions.0");
    to.norm(&format!("{attention}.group_norm"), width);
    for matrix in ["to_q", "to_k", "to_v", "to_out.0"] {
        to.linear(&format!("{attention}.{matrix}"), width, width, 1.0);
    }
    resnet(to, &format!("{name}.resnets.1"), width, width);
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
