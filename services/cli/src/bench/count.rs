//! How much work the steps of a HyperLoRA are, from their sizes alone.

use candle_core::DType;
use likeness_hyperlora::{ClipSizes, ResamplerSizes, Sizes};
use likeness_sdxl::Work;

/// Bytes of a number of the released basis.
const HALF: f64 = 2.0;
/// Bytes of a number of the encoder and of a LoRA.
const SINGLE: f64 = 4.0;

/// Coefficients × basis: every number of the basis is read and used once.
pub fn synthesis(sizes: &Sizes) -> Work {
    let lora = sizes.lora_numbers() as f64;
    let basis = lora * sizes.k as f64;
    Work {
        flops: 2.0 * basis,
        bytes: HALF * basis + SINGLE * lora,
        weights: basis,
    }
}

/// W' = W + up · down: every matrix is read and written once.
pub fn merge(sizes: &Sizes, dtype: DType) -> Work {
    let matrices = sizes.matrix_numbers() as f64;
    Work {
        flops: (2 * sizes.rank + 1) as f64 * matrices,
        bytes: 2.0 * dtype.size_in_bytes() as f64 * matrices + SINGLE * sizes.lora_numbers() as f64,
        weights: matrices,
    }
}

/// One picture through CLIP's vision tower, without its last layer.
pub fn clip(sizes: &ClipSizes) -> Work {
    let patches = (sizes.image_size / sizes.patch_size).pow(2);
    let (width, tokens) = (sizes.width, patches + 1);
    let mut count = Count::default();
    count.matrix(patches, 3 * sizes.patch_size.pow(2), width);
    for _ in 1..sizes.layers {
        for _ in 0..4 {
            count.matrix(tokens, width, width);
        }
        count.attention(tokens, tokens, width);
        count.matrix(tokens, width, sizes.ff);
        count.matrix(tokens, sizes.ff, width);
    }
    count.work()
}

/// One photo through id projector and resampler, given `clip_tokens` states of CLIP. The latents' first attention to
/// themselves is not among it: it is the same for every photo, and done when loading.
pub fn resampler(sizes: &ResamplerSizes, clip_tokens: usize) -> Work {
    let ResamplerSizes { tokens, dim, .. } = *sizes;
    let mut count = Count::default();
    count.matrix(1, sizes.embedding, sizes.id_tokens * dim);
    count.matrix(sizes.id_tokens, dim, dim);
    count.matrix(clip_tokens, sizes.clip_width, dim);
    for layer in 0..sizes.depth {
        if layer > 0 {
            count.attend(sizes, tokens);
        }
        count.attend(sizes, sizes.id_tokens);
        count.attend(sizes, clip_tokens);
        count.matrix(tokens, dim, sizes.ff);
        count.matrix(tokens, sizes.ff, dim);
    }
    count.matrix(tokens, dim, sizes.k);
    count.work()
}

/// Adds operations and f32 numbers up.
#[derive(Default)]
struct Count {
    flops: usize,
    weights: usize,
    activations: usize,
}

impl Count {
    fn matrix(&mut self, rows: usize, input: usize, output: usize) {
        self.flops += 2 * rows * input * output;
        self.weights += input * output;
        self.activations += rows * (input + output);
    }

    fn attention(&mut self, queries: usize, keys: usize, width: usize) {
        self.flops += 4 * queries * keys * width;
        self.activations += 2 * (queries + keys) * width;
    }

    /// The latents attend to some tokens, with all four matrices.
    fn attend(&mut self, sizes: &ResamplerSizes, to: usize) {
        let (dim, inner) = (sizes.dim, sizes.heads * sizes.dim_head);
        self.matrix(sizes.tokens, dim, inner);
        self.matrix(to, dim, inner);
        self.matrix(to, dim, inner);
        self.attention(sizes.tokens, to, inner);
        self.matrix(sizes.tokens, inner, dim);
    }

    fn work(self) -> Work {
        Work {
            flops: self.flops as f64,
            bytes: SINGLE * (self.weights + self.activations) as f64,
            weights: self.weights as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The released resampler was measured at 155 GFLOP a photo, 10.9 of which are the first attention.
    #[test]
    fn the_counts_are_those_of_the_released_models() {
        let sizes = Sizes::released();
        let photo = resampler(&sizes.resampler, 257).flops;
        assert!((140e9..150e9).contains(&photo), "{photo}");
        // 2 × 0.29 G numbers × 257 tokens, and the attention.
        let picture = clip(&sizes.clip).flops;
        assert!((145e9..160e9).contains(&picture), "{picture}");
        let read = synthesis(&sizes).bytes;
        assert!((2.97e9..3.03e9).contains(&read), "{read}");
    }
}
