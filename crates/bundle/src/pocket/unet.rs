//! The UNet in diffusers' names: SDXL's shape at any width.

use serde::Deserialize;

use super::tensors::{Init, Layout, Tensors};

/// The part of a UNet's `config.json` that decides its tensors.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct UnetConfig {
    in_channels: usize,
    out_channels: usize,
    block_out_channels: Vec<usize>,
    down_block_types: Vec<String>,
    up_block_types: Vec<String>,
    layers_per_block: usize,
    transformer_layers_per_block: Vec<usize>,
    cross_attention_dim: usize,
    projection_class_embeddings_input_dim: usize,
}

/// One attention module: its place in the UNet and the widths that a LoRA needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AttentionModule {
    /// The transformer's place in sgm's names, such as `input_blocks_4_1`.
    pub sgm: String,
    /// The block within the transformer.
    pub depth: usize,
    /// Width of the hidden states.
    pub hidden: usize,
    /// Width of the text states; `None` for self-attention.
    pub cross: Option<usize>,
}

/// Makes softmax over random queries and keys choose instead of averaging everything away.
const SHARP: f32 = 1.5;

impl UnetConfig {
    /// Every tensor of the UNet.
    pub fn layout(&self) -> Layout {
        let mut to = Layout::default();
        let first = self.block_out_channels[0];
        to.conv("conv_in", first, self.in_channels, 3, 1.0);
        self.embeddings(&mut to);
        self.down(&mut to);
        self.up(&mut to);
        self.middle(&mut to);
        to.norm("conv_norm_out", first);
        to.conv("conv_out", self.out_channels, first, 3, 1.0);
        to
    }

    /// Width of the time embedding.
    fn time(&self) -> usize {
        4 * self.block_out_channels[0]
    }

    fn embeddings(&self, to: &mut Layout) {
        let time = self.time();
        to.linear(
            "time_embedding.linear_1",
            time,
            self.block_out_channels[0],
            1.4,
        );
        to.linear("time_embedding.linear_2", time, time, 1.4);
        let added = self.projection_class_embeddings_input_dim;
        to.linear("add_embedding.linear_1", time, added, 1.4);
        to.linear("add_embedding.linear_2", time, time, 1.4);
    }

    fn down(&self, to: &mut Layout) {
        let mut inputs = self.block_out_channels[0];
        for (level, &width) in self.block_out_channels.iter().enumerate() {
            let block = format!("down_blocks.{level}");
            for layer in 0..self.layers_per_block {
                self.resnet(to, &format!("{block}.resnets.{layer}"), width, inputs);
                inputs = width;
                if self.down_attends(level) {
                    let depth = self.transformer_layers_per_block[level];
                    self.transformer(to, &format!("{block}.attentions.{layer}"), width, depth);
                }
            }
            if level + 1 < self.block_out_channels.len() {
                to.conv(
                    &format!("{block}.downsamplers.0.conv"),
                    width,
                    width,
                    3,
                    1.0,
                );
            }
        }
    }

    fn up(&self, to: &mut Layout) {
        let levels = self.block_out_channels.len();
        let mut previous = self.block_out_channels[levels - 1];
        for block in 0..levels {
            let level = levels - 1 - block;
            let width = self.block_out_channels[level];
            let below = self.block_out_channels[level.saturating_sub(1)];
            let name = format!("up_blocks.{block}");
            for layer in 0..=self.layers_per_block {
                let skip = if layer == self.layers_per_block {
                    below
                } else {
                    width
                };
                self.resnet(
                    to,
                    &format!("{name}.resnets.{layer}"),
                    width,
                    previous + skip,
                );
                previous = width;
                if self.up_attends(block) {
                    let depth = self.transformer_layers_per_block[level];
                    self.transformer(to, &format!("{name}.attentions.{layer}"), width, depth);
                }
            }
            if level > 0 {
                to.conv(&format!("{name}.upsamplers.0.conv"), width, width, 3, 1.0);
            }
        }
    }

    fn middle(&self, to: &mut Layout) {
        let last = self.block_out_channels.len() - 1;
        let width = self.block_out_channels[last];
        self.resnet(to, "mid_block.resnets.0", width, width);
        let depth = self.transformer_layers_per_block[last];
        self.transformer(to, "mid_block.attentions.0", width, depth);
        self.resnet(to, "mid_block.resnets.1", width, width);
    }

    fn resnet(&self, to: &mut Layout, name: &str, outputs: usize, inputs: usize) {
        to.norm(&format!("{name}.norm1"), inputs);
        to.conv(&format!("{name}.conv1"), outputs, inputs, 3, 1.4);
        to.linear(&format!("{name}.time_emb_proj"), outputs, self.time(), 1.0);
        to.norm(&format!("{name}.norm2"), outputs);
        to.conv(&format!("{name}.conv2"), outputs, outputs, 3, 1.0);
        if outputs != inputs {
            to.conv(&format!("{name}.conv_shortcut"), outputs, inputs, 1, 1.0);
        }
    }

    fn transformer(&self, to: &mut Layout, name: &str, width: usize, depth: usize) {
        to.norm(&format!("{name}.norm"), width);
        to.linear(&format!("{name}.proj_in"), width, width, 1.0);
        to.linear(&format!("{name}.proj_out"), width, width, 1.0);
        for block in 0..depth {
            let block = format!("{name}.transformer_blocks.{block}");
            for norm in ["norm1", "norm2", "norm3"] {
                to.norm(&format!("{block}.{norm}"), width);
            }
            attention(to, &format!("{block}.attn1"), width, width);
            attention(
                to,
                &format!("{block}.attn2"),
                width,
                self.cross_attention_dim,
            );
            to.linear(&format!("{block}.ff.net.0.proj"), 8 * width, width, 1.0);
            to.linear(&format!("{block}.ff.net.2"), width, 4 * width, 1.0);
        }
    }

    fn down_attends(&self, level: usize) -> bool {
        self.down_block_types[level].starts_with("CrossAttn")
    }

    fn up_attends(&self, block: usize) -> bool {
        self.up_block_types[block].starts_with("CrossAttn")
    }

    /// Every attention module in the order in which diffusers walks them: down, up, middle.
    pub fn attention_modules(&self) -> Vec<AttentionModule> {
        let levels = self.block_out_channels.len();
        let mut all = Vec::new();
        for level in (0..levels).filter(|level| self.down_attends(*level)) {
            for layer in 0..self.layers_per_block {
                let number = 1 + level * (self.layers_per_block + 1) + layer;
                self.modules_of(&mut all, &format!("input_blocks_{number}_1"), level);
            }
        }
        for block in (0..levels).filter(|block| self.up_attends(*block)) {
            for layer in 0..=self.layers_per_block {
                let number = block * (self.layers_per_block + 1) + layer;
                self.modules_of(
                    &mut all,
                    &format!("output_blocks_{number}_1"),
                    levels - 1 - block,
                );
            }
        }
        self.modules_of(&mut all, "middle_block_1", levels - 1);
        all
    }

    fn modules_of(&self, all: &mut Vec<AttentionModule>, sgm: &str, level: usize) {
        let hidden = self.block_out_channels[level];
        for depth in 0..self.transformer_layers_per_block[level] {
            for cross in [None, Some(self.cross_attention_dim)] {
                all.push(AttentionModule {
                    sgm: sgm.to_owned(),
                    depth,
                    hidden,
                    cross,
                });
            }
        }
    }

    /// Makes the UNet predict mostly the noise that is there, so that sampling ends somewhere sensible.
    ///
    /// The upper half of the first level's channels carries the latents as pairs (+x, −x) over the
    /// outermost skip connection; the last group norm brings each pair to a spread of 1, and
    /// silu(x) − silu(−x) = x, so `conv_out` hands x on at a spread of 1. Everything random, and with it
    /// prompt and identity, goes through the other channels and enters the prediction with `RANDOM`.
    pub fn pass_noise_through(&self, unet: &mut Tensors) {
        const RANDOM: f32 = 0.35;
        let first = self.block_out_channels[0];
        let half = first / 2;
        let pairs = self.in_channels.min(half / 2);
        unet.edit("conv_in.weight", |shape, values| {
            carry(
                shape,
                values,
                |out, input| sign_of_pair(out, half, input, pairs),
                half,
            );
        });
        let last = format!(
            "up_blocks.{}.resnets.{}",
            self.up_block_types.len() - 1,
            self.layers_per_block
        );
        unet.edit(&format!("{last}.conv_shortcut.weight"), |shape, values| {
            let skip = shape[1] - first;
            carry(
                shape,
                values,
                |out, input| f32::from(input == skip + out),
                half,
            );
        });
        unet.edit(&format!("{last}.conv2.weight"), |shape, values| {
            carry(shape, values, |_, _| 0.0, half);
        });
        unet.edit("conv_out.weight", |shape, values| {
            for value in values.iter_mut() {
                *value *= RANDOM;
            }
            let taps = shape[2] * shape[3];
            for (index, row) in values.chunks_mut(taps).enumerate() {
                let (out, input) = (index / shape[1], index % shape[1]);
                if input >= half {
                    row.fill(0.0);
                    row[taps / 2] = sign_of_pair(input, half, out, pairs);
                }
            }
        });
    }
}

/// Replaces the kernels of the outputs from `from` on by single centre taps.
fn carry(shape: &[usize], values: &mut [f32], tap: impl Fn(usize, usize) -> f32, from: usize) {
    let taps: usize = shape[2..].iter().product();
    for (index, kernel) in values.chunks_mut(taps).enumerate() {
        let (out, input) = (index / shape[1], index % shape[1]);
        if out >= from {
            kernel.fill(0.0);
            kernel[taps / 2] = tap(out, input);
        }
    }
}

/// Channel `half + 2·i` carries +latent i and `half + 2·i + 1` carries −latent i.
fn sign_of_pair(channel: usize, half: usize, latent: usize, pairs: usize) -> f32 {
    let offset = channel - half;
    if latent >= pairs || offset / 2 != latent {
        return 0.0;
    }
    if offset.is_multiple_of(2) { 1.0 } else { -1.0 }
}

fn attention(to: &mut Layout, name: &str, width: usize, context: usize) {
    to.weight(&format!("{name}.to_q"), width, width, SHARP);
    to.weight(&format!("{name}.to_k"), width, context, SHARP);
    to.weight(&format!("{name}.to_v"), width, context, 1.0);
    to.linear(&format!("{name}.to_out.0"), width, width, 1.0);
}

/// The standard deviation that `layout` gives an attention matrix with `inputs` columns.
pub(crate) fn attention_std(matrix: &str, inputs: usize) -> f32 {
    let gain = if matches!(matrix, "to_q" | "to_k") {
        SHARP
    } else {
        1.0
    };
    match Init::fan_in(inputs, gain) {
        Init::Random(std) | Init::Constant(std) => std,
    }
}
