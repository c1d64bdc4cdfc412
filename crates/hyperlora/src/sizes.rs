//! Sizes of models, for those that are made of random numbers.

use crate::basis::Module;
use crate::names::{Attention, Block, Place, Projection};

/// SDXL's stacks: where, how many blocks, channels.
const SDXL: [(Place, usize, usize); 11] = [
    (Place::Down(1, 0), 2, 640),
    (Place::Down(1, 1), 2, 640),
    (Place::Down(2, 0), 10, 1280),
    (Place::Down(2, 1), 10, 1280),
    (Place::Mid, 10, 1280),
    (Place::Up(0, 0), 10, 1280),
    (Place::Up(0, 1), 10, 1280),
    (Place::Up(0, 2), 10, 1280),
    (Place::Up(1, 0), 2, 640),
    (Place::Up(1, 1), 2, 640),
    (Place::Up(1, 2), 2, 640),
];

/// All sizes of a HyperLoRA model and of the CLIP that it looks through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Stacks of transformer blocks of the U-Net that it is for.
    pub stacks: Vec<Transformers>,
    /// Width of the text states.
    pub context: usize,
    /// Numbers per token of the coefficients.
    pub k: usize,
    /// Rank of the ID-LoRA.
    pub rank: usize,
    /// The encoder's.
    pub resampler: ResamplerSizes,
    /// CLIP vision's.
    pub clip: ClipSizes,
}

/// One stack of transformer blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transformers {
    /// Where it is.
    pub place: Place,
    /// Blocks.
    pub depth: usize,
    /// Channels.
    pub width: usize,
}

/// Sizes of the id projector and the resampler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResamplerSizes {
    /// Learnt latents, which become the coefficients' tokens.
    pub tokens: usize,
    /// Width of a latent.
    pub dim: usize,
    /// Heads of an attention.
    pub heads: usize,
    /// Width of a head.
    pub dim_head: usize,
    /// Width of the feed-forward layer.
    pub ff: usize,
    /// Layers.
    pub depth: usize,
    /// Numbers per token of the coefficients.
    pub k: usize,
    /// Tokens that a face embedding becomes.
    pub id_tokens: usize,
    /// Numbers of a face embedding.
    pub embedding: usize,
    /// Width of CLIP's states.
    pub clip_width: usize,
}

/// Sizes of a CLIP vision tower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClipSizes {
    /// Side of a picture in pixels.
    pub image_size: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Width of the states.
    pub width: usize,
    /// Width of the feed-forward layer.
    pub ff: usize,
    /// Layers, of which the last is not run.
    pub layers: usize,
    /// Heads of an attention.
    pub heads: usize,
}

impl Sizes {
    /// The released model's, for SDXL and CLIP ViT-L/14: 1,120 × 128 coefficients, a basis of 1.486 G numbers.
    pub fn released() -> Self {
        let stack = |(place, depth, width)| Transformers {
            place,
            depth,
            width,
        };
        Self {
            stacks: SDXL.map(stack).to_vec(),
            context: 2048,
            k: 128,
            rank: 8,
            resampler: ResamplerSizes {
                tokens: 1120,
                dim: 1024,
                heads: 12,
                dim_head: 64,
                ff: 4096,
                depth: 4,
                k: 128,
                id_tokens: 16,
                embedding: 512,
                clip_width: 1024,
            },
            clip: ClipSizes {
                image_size: 224,
                patch_size: 14,
                width: 1024,
                ff: 4096,
                layers: 24,
                heads: 16,
            },
        }
    }

    /// Tiny ones, to try the whole in a moment.
    pub fn pocket() -> Self {
        let stack = |place, width| Transformers {
            place,
            depth: 1,
            width,
        };
        Self {
            stacks: vec![stack(Place::Down(1, 0), 32), stack(Place::Mid, 48)],
            context: 32,
            k: 16,
            rank: 4,
            resampler: ResamplerSizes {
                tokens: 32,
                dim: 32,
                heads: 2,
                dim_head: 16,
                ff: 64,
                depth: 2,
                k: 16,
                id_tokens: 4,
                embedding: 512,
                clip_width: 32,
            },
            clip: ClipSizes {
                image_size: 28,
                patch_size: 14,
                width: 32,
                ff: 64,
                layers: 3,
                heads: 2,
            },
        }
    }

    /// The attention modules, in the order of their tokens.
    pub(crate) fn modules(&self) -> impl Iterator<Item = Module> + '_ {
        self.stacks.iter().flat_map(move |stack| {
            (0..stack.depth).flat_map(move |block| {
                [Attention::Itself, Attention::Text]
                    .map(|attention| self.module(*stack, block, attention))
            })
        })
    }

    fn module(&self, stack: Transformers, block: usize, attention: Attention) -> Module {
        let context = match attention {
            Attention::Itself => stack.width,
            Attention::Text => self.context,
        };
        Module {
            block: Block {
                place: stack.place,
                transformer: block,
                attention,
            },
            hidden: stack.width,
            context,
        }
    }

    /// Attention modules.
    pub fn module_count(&self) -> usize {
        2 * self.stacks.iter().map(|stack| stack.depth).sum::<usize>()
    }

    /// Numbers of an ID-LoRA.
    pub fn lora_numbers(&self) -> usize {
        self.matrices()
            .map(|(input, out)| self.rank * (input + out))
            .sum()
    }

    /// Numbers of the attention matrices.
    pub fn matrix_numbers(&self) -> usize {
        self.matrices().map(|(input, out)| input * out).sum()
    }

    /// What each attention matrix reads and writes.
    fn matrices(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let of = |module: Module| Projection::ALL.map(|projection| module.sizes(projection));
        self.modules().flat_map(of)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};
    use likeness_domain::coefficients::Coefficients;

    use super::*;
    use crate::{Basis, ClipVision, Encoder, Kind};

    #[test]
    fn the_released_sizes_are_the_released_ones() {
        let sizes = Sizes::released();
        assert_eq!(sizes.module_count(), 140);
        assert_eq!(sizes.lora_numbers(), 11_612_160);
        assert_eq!(sizes.lora_numbers() * sizes.k, 1_486_356_480);
        assert_eq!(8 * sizes.module_count(), sizes.resampler.tokens);
    }

    #[test]
    fn random_models_of_tiny_sizes_run() {
        let (sizes, device) = (Sizes::pocket(), Device::Cpu);
        let basis = Basis::random(&sizes, 1, &device).unwrap();
        let values = vec![0.25; basis.tokens() * basis.k()];
        let coefficients = Coefficients::new(basis.tokens(), basis.k(), values).unwrap();
        let lora = basis.synthesize(&coefficients, Kind::Id).unwrap();
        assert_eq!(lora.matrices.len(), 4 * sizes.module_count());
        let numbers = |x: &Tensor| x.elem_count();
        let count: usize = lora
            .matrices
            .iter()
            .map(|m| numbers(&m.down) + numbers(&m.up))
            .sum();
        assert_eq!(count, sizes.lora_numbers());

        let clip = ClipVision::random(&sizes.clip, 2, &device).unwrap();
        let side = clip.image_size();
        let picture = Tensor::zeros((2, 3, side, side), candle_core::DType::F32, &device).unwrap();
        let states = clip.hidden_states(&picture).unwrap();
        let encoder = Encoder::random(&sizes, 3, &device).unwrap();
        let face = Tensor::full(512f32.sqrt().recip(), (2, 512), &device).unwrap();
        let found = encoder.per_photo(&states, &face).unwrap();
        assert_eq!((found.len(), found[0].tokens()), (2, encoder.tokens()));
    }
}
