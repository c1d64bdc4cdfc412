//! SDXL's UNet: predicts the noise in latents from a timestep, text states, the pooled text and the
//! picture's size and crop.

mod blocks;
mod embedding;
mod segments;
mod transformer;

use candle_core::{DType, Tensor};

use self::blocks::{DownBlock, MidBlock, UpBlock};
use self::embedding::{EmbeddingMlp, Sinusoids};
use crate::Error;
use crate::config::UNetConfig;
use crate::conv::{Conv, ConvShape};
use crate::layers::GroupNorm;
use crate::merge::{Matrices, MatrixId, Unmerged};
use crate::weights::Weights;

/// What conditions every attention of one forward pass.
pub(crate) struct Context<'a> {
    /// The weights of the attention projections.
    pub matrices: &'a Matrices,
    /// Each sample's own low-rank terms; empty where there are none.
    pub unmerged: &'a [Option<&'a Unmerged>],
    /// Text states [b, tokens, cross_attention_dim].
    pub text: &'a Tensor,
}

impl Context<'_> {
    /// x · weightᵀ + bias of an attention projection, with each sample's own terms.
    pub fn project(
        &self,
        x: &Tensor,
        id: MatrixId,
        bias: Option<&Tensor>,
    ) -> candle_core::Result<Tensor> {
        self.matrices.project(x, id, bias, self.unmerged)
    }
}

/// What one forward pass is conditioned on.
pub struct Conditioning {
    /// Text states [b, tokens, cross_attention_dim], in the model's type.
    pub text: Tensor,
    /// Pooled text [b, pooled_dim].
    pub pooled: Tensor,
    /// Original height and width, crop top and left, target height and width.
    pub time_ids: [f32; 6],
}

/// The UNet with its attention matrices.
pub struct UNet {
    pub(crate) matrices: Matrices,
    config: UNetConfig,
    time_embedding: EmbeddingMlp,
    add_embedding: EmbeddingMlp,
    conv_in: Conv,
    down: Vec<DownBlock>,
    mid: MidBlock,
    up: Vec<UpBlock>,
    norm_out: GroupNorm,
    conv_out: Conv,
}

impl UNet {
    /// Loads all tensors.
    ///
    /// # Errors
    /// Missing tensors and wrong shapes.
    pub fn load(weights: &Weights, config: &UNetConfig) -> Result<UNet, Error> {
        let first = config.down[0].channels;
        let time = 4 * first;
        let mut matrices = Matrices::default();
        Ok(UNet {
            time_embedding: EmbeddingMlp::load(&weights.pp("time_embedding"), first, time)?,
            add_embedding: EmbeddingMlp::load(
                &weights.pp("add_embedding"),
                config.added_dim,
                time,
            )?,
            conv_in: Conv::load(&weights.pp("conv_in"), 4, first, ConvShape::SAME)?,
            down: blocks::load_down(&weights.pp("down_blocks"), &mut matrices, config)?,
            mid: MidBlock::load(&weights.pp("mid_block"), &mut matrices, config)?,
            up: blocks::load_up(&weights.pp("up_blocks"), &mut matrices, config)?,
            norm_out: GroupNorm::load(
                &weights.pp("conv_norm_out"),
                first,
                config.groups,
                config.norm_eps,
            )?,
            conv_out: Conv::load(&weights.pp("conv_out"), first, 4, ConvShape::SAME)?,
            matrices,
            config: config.clone(),
        })
    }

    /// The predicted noise [b, 4, h, w] in `latents` [b, 4, h, w] at one timestep or one for each of the b. `unmerged` names each
    /// sample's own low-rank terms; the samples divide b evenly, and none need be named.
    ///
    /// # Errors
    /// Shapes that do not fit; a failing device.
    pub fn forward(
        &self,
        latents: &Tensor,
        timesteps: &[f32],
        conditioning: &Conditioning,
        unmerged: &[Option<&Unmerged>],
    ) -> Result<Tensor, Error> {
        let context = Context {
            matrices: &self.matrices,
            text: &conditioning.text,
            unmerged,
        };
        let time = self.embed_time(timesteps, conditioning, latents.dtype())?;
        let mut x = self.conv_in.forward(latents)?;
        let mut skips = vec![x.clone()];
        for block in &self.down {
            x = block.forward(&x, &time, &context, &mut skips)?;
        }
        x = self.mid.forward(&x, &time, &context)?;
        for block in &self.up {
            x = block.forward(&x, &time, &context, &mut skips)?;
        }
        Ok(self.conv_out.forward(&self.norm_out.forward_silu(&x)?)?)
    }

    /// Numbers per latent pixel that one sample's forward pass holds at its peak, estimated: at the
    /// widest residual block the gathered columns of a convolution, its input and its f32 norm, and
    /// the skips.
    pub(crate) fn numbers_per_latent(&self) -> usize {
        let levels = self.config.down.iter().take(2);
        let widest: usize = levels.map(|level| level.channels).sum();
        20 * widest
    }

    /// SiLU of the embedding of timestep, pooled text and time ids, [b, 4 · first channels].
    fn embed_time(
        &self,
        timesteps: &[f32],
        conditioning: &Conditioning,
        dtype: DType,
    ) -> candle_core::Result<Tensor> {
        let Conditioning {
            pooled, time_ids, ..
        } = conditioning;
        let (batch, device) = (pooled.dim(0)?, pooled.device());
        let sinusoids = Sinusoids {
            flip: self.config.flip_sin_to_cos,
            shift: self.config.freq_shift,
        };
        let time = sinusoids.embed(timesteps, self.config.down[0].channels, device)?;
        let time = self.time_embedding.forward(&time.to_dtype(dtype)?)?;
        let ids = sinusoids.embed(time_ids, self.config.time_id_dim, device)?;
        let ids = ids
            .flatten_all()?
            .unsqueeze(0)?
            .to_dtype(dtype)?
            .repeat((batch, 1))?;
        let added = self
            .add_embedding
            .forward(&Tensor::cat(&[pooled, &ids], 1)?)?;
        added.broadcast_add(&time)?.silu()
    }
}
