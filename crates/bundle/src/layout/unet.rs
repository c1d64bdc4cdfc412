//! The UNet in diffusers' names: SDXL's shape at any width.

use serde::Deserialize;

use super::{
    Config, Init, LARGEST_SIZE, Layout, MOST_LAYERS, OneOrEach, check_counts, check_sizes,
};

/// The part of a UNet's `config.json` that decides its tensors.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct UnetConfig {
    #[serde(default = "four")]
    pub in_channels: usize,
    #[serde(default = "four")]
    out_channels: usize,
    pub block_out_channels: Vec<usize>,
    down_block_types: Vec<String>,
    pub up_block_types: Vec<String>,
    #[serde(default = "two")]
    layers_per_block: OneOrEach,
    #[serde(default = "one")]
    transformer_layers_per_block: OneOrEach,
    cross_attention_dim: OneOrEach,
    projection_class_embeddings_input_dim: usize,
    /// Transformers project with linear layers rather than 1×1 convolutions.
    #[serde(default)]
    use_linear_projection: bool,
}

fn four() -> usize {
    4
}

fn two() -> OneOrEach {
    OneOrEach::One(2)
}

fn one() -> OneOrEach {
    OneOrEach::One(1)
}

/// SDXL has three levels.
const MOST_LEVELS: usize = 8;

impl Config for UnetConfig {
    fn check(&self) -> Result<(), String> {
        let levels = self.block_out_channels.len();
        let same = self.down_block_types.len() == levels && self.up_block_types.len() == levels;
        if !(1..=MOST_LEVELS).contains(&levels) || !same {
            return Err(format!(
                "`block_out_channels`, `down_block_types` and `up_block_types` must have the same length, \
                 1 to {MOST_LEVELS}"
            ));
        }
        check_counts(&[
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
        ])?;
        let added = self.projection_class_embeddings_input_dim;
        check_sizes(&[("projection_class_embeddings_input_dim", added)])?;
        for width in &self.block_out_channels {
            check_sizes(&[("block_out_channels", *width)])?;
        }
        self.layers_per_block
            .check("layers_per_block", levels, MOST_LAYERS)?;
        self.transformer_layers_per_block.check(
            "transformer_layers_per_block",
            levels,
            MOST_LAYERS,
        )?;
        self.cross_attention_dim
            .check("cross_attention_dim", levels, LARGEST_SIZE)
    }
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
            for layer in 0..self.layers(level) {
                self.resnet(to, &format!("{block}.resnets.{layer}"), width, inputs);
                inputs = width;
                if self.down_attends(level) {
                    let depth = self.depth(level);
                    self.transformer(to, &format!("{block}.attentions.{layer}"), level, depth);
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
            for layer in 0..=self.layers(level) {
                let skip = if layer == self.layers(level) {
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
                    let depth = self.depth(level);
                    self.transformer(to, &format!("{name}.attentions.{layer}"), level, depth);
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
        let depth = self.depth(last);
        self.transformer(to, "mid_block.attentions.0", last, depth);
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

    fn transformer(&self, to: &mut Layout, name: &str, level: usize, depth: usize) {
        let width = self.block_out_channels[level];
        to.norm(&format!("{name}.norm"), width);
        for projection in ["proj_in", "proj_out"] {
            let name = format!("{name}.{projection}");
            if self.use_linear_projection {
                to.linear(&name, width, width, 1.0);
            } else {
                to.conv(&name, width, width, 1, 1.0);
            }
        }
        for block in 0..depth {
            let block = format!("{name}.transformer_blocks.{block}");
            for norm in ["norm1", "norm2", "norm3"] {
                to.norm(&format!("{block}.{norm}"), width);
            }
            attention(to, &format!("{block}.attn1"), width, width);
            attention(to, &format!("{block}.attn2"), width, self.context(level));
            to.linear(&format!("{block}.ff.net.0.proj"), 8 * width, width, 1.0);
            to.linear(&format!("{block}.ff.net.2"), width, 4 * width, 1.0);
        }
    }

    /// Residual blocks of a level on the way down; the way up has one more.
    pub fn layers(&self, level: usize) -> usize {
        self.layers_per_block.of(level)
    }

    /// Transformer blocks behind each residual block of a level.
    pub fn depth(&self, level: usize) -> usize {
        self.transformer_layers_per_block.of(level)
    }

    /// Width of the text states.
    pub fn context(&self, level: usize) -> usize {
        self.cross_attention_dim.of(level)
    }

    pub fn down_attends(&self, level: usize) -> bool {
        self.down_block_types[level].starts_with("CrossAttn")
    }

    pub fn up_attends(&self, block: usize) -> bool {
        self.up_block_types[block].starts_with("CrossAttn")
    }
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
