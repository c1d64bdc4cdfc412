//! What the pocket bundle does with its UNet: the list of attention modules, and weights that pass the
//! noise through.

use super::tensors::Tensors;
use crate::layout::UnetConfig;

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

impl UnetConfig {
    /// Every attention module in the order in which diffusers walks them: down, up, middle.
    pub fn attention_modules(&self) -> Vec<AttentionModule> {
        let levels = self.block_out_channels.len();
        let mut all = Vec::new();
        for level in (0..levels).filter(|level| self.down_attends(*level)) {
            for layer in 0..self.layers(level) {
                let number = 1 + level * (self.layers(level) + 1) + layer;
                self.modules_of(&mut all, &format!("input_blocks_{number}_1"), level);
            }
        }
        for block in (0..levels).filter(|block| self.up_attends(*block)) {
            let level = levels - 1 - block;
            for layer in 0..=self.layers(level) {
                let number = block * (self.layers(level) + 1) + layer;
                self.modules_of(&mut all, &format!("output_blocks_{number}_1"), level);
            }
        }
        self.modules_of(&mut all, "middle_block_1", levels - 1);
        all
    }

    fn modules_of(&self, all: &mut Vec<AttentionModule>, sgm: &str, level: usize) {
        let hidden = self.block_out_channels[level];
        for depth in 0..self.depth(level) {
            for cross in [None, Some(self.context(level))] {
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
            self.layers(0)
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
