//! The spatial transformer: self-attention, cross-attention on the text states, feed-forward.

use candle_core::{Result as Compute, Tensor};

use super::Context;
use super::segments::{Segment, given};
use crate::Error;
use crate::attention::attention;
use crate::conv::{Conv, ConvShape};
use crate::layers::{GroupNorm, LayerNorm, Linear, geglu};
use crate::merge::{Matrices, MatrixId};
use crate::weights::Weights;

/// Sizes of a spatial transformer.
#[derive(Clone, Copy, Debug)]
pub struct TransformerConfig {
    pub channels: usize,
    pub heads: usize,
    pub layers: usize,
    pub context: usize,
    pub groups: usize,
    pub linear_projection: bool,
}

/// The projection in front of and behind the blocks.
enum Projection {
    Linear(Linear),
    Conv(Conv),
}

/// Norm, projection, blocks, projection, all added to the input.
pub struct SpatialTransformer {
    norm: GroupNorm,
    project_in: Projection,
    blocks: Vec<Block>,
    project_out: Projection,
}

impl SpatialTransformer {
    pub fn load(
        weights: &Weights,
        matrices: &mut Matrices,
        config: TransformerConfig,
    ) -> Result<SpatialTransformer, Error> {
        let TransformerConfig {
            channels, groups, ..
        } = config;
        if !channels.is_multiple_of(config.heads) {
            let what = format!(
                "{channels} channels are not a multiple of {} heads",
                config.heads
            );
            return Err(Error::unsupported(weights.path(), what));
        }
        let blocks = weights.pp("transformer_blocks");
        Ok(SpatialTransformer {
            norm: GroupNorm::load(&weights.pp("norm"), channels, groups, 1e-6)?,
            project_in: Projection::load(&weights.pp("proj_in"), config)?,
            blocks: (0..config.layers)
                .map(|i| Block::load(&blocks.pp(i), matrices, config))
                .collect::<Result<_, _>>()?,
            project_out: Projection::load(&weights.pp("proj_out"), config)?,
        })
    }

    /// `x` [b, c, h, w].
    pub fn forward(&self, x: &Tensor, context: &Context<'_>) -> Compute<Tensor> {
        let size = x.dims4()?;
        let mut tokens = self.project_in.forward_in(&self.norm.forward(x)?)?;
        for block in &self.blocks {
            tokens = block.forward(&tokens, context)?;
        }
        x + self.project_out.forward_out(&tokens, size)?
    }

    /// The same block by block; what comes out is held if it is `kept` for the way up.
    pub fn segments<'a>(&'a self, kept: bool, segments: &mut Vec<Segment<'a>>) {
        segments.push(Segment::plain(false, |x, _, _| {
            let tokens = self.project_in.forward_in(&self.norm.forward(x)?)?;
            Ok((tokens, vec![x.clone()]))
        }));
        for block in &self.blocks {
            segments.push(Segment::plain(true, |x, _, pass| {
                Ok(given(block.forward(x, &pass.context)?, false))
            }));
        }
        segments.push(Segment::taking(move |tokens, x, _| {
            let y = (x + self.project_out.forward_out(tokens, x.dims4()?)?)?;
            Ok(given(y, kept))
        }));
    }
}

impl Projection {
    fn load(weights: &Weights, config: TransformerConfig) -> Result<Projection, Error> {
        let channels = config.channels;
        if config.linear_projection {
            return Ok(Projection::Linear(Linear::load(
                weights, channels, channels,
            )?));
        }
        Ok(Projection::Conv(Conv::load(
            weights,
            channels,
            channels,
            ConvShape::POINT,
        )?))
    }

    /// [b, c, h, w] → [b, h·w, c].
    fn forward_in(&self, x: &Tensor) -> Compute<Tensor> {
        let tokens = |x: &Tensor| x.flatten_from(2)?.transpose(1, 2)?.contiguous();
        match self {
            Projection::Linear(layer) => layer.forward(&tokens(x)?),
            Projection::Conv(layer) => tokens(&layer.forward(x)?),
        }
    }

    /// [b, h·w, c] → [b, c, h, w].
    fn forward_out(&self, x: &Tensor, size: (usize, usize, usize, usize)) -> Compute<Tensor> {
        let picture = |x: &Tensor| x.transpose(1, 2)?.contiguous()?.reshape(size);
        match self {
            Projection::Linear(layer) => picture(&layer.forward(x)?),
            Projection::Conv(layer) => layer.forward(&picture(x)?),
        }
    }
}

struct Block {
    norm1: LayerNorm,
    attn1: Attention,
    norm2: LayerNorm,
    attn2: Attention,
    norm3: LayerNorm,
    ff: FeedForward,
}

impl Block {
    fn load(
        weights: &Weights,
        matrices: &mut Matrices,
        config: TransformerConfig,
    ) -> Result<Block, Error> {
        let TransformerConfig {
            channels,
            heads,
            context,
            ..
        } = config;
        let norm = |name| LayerNorm::load(&weights.pp(name), channels, 1e-5);
        let (self_size, cross_size) = ((channels, channels), (channels, context));
        Ok(Block {
            norm1: norm("norm1")?,
            attn1: Attention::load(&weights.pp("attn1"), matrices, self_size, heads)?,
            norm2: norm("norm2")?,
            attn2: Attention::load(&weights.pp("attn2"), matrices, cross_size, heads)?,
            norm3: norm("norm3")?,
            ff: FeedForward::load(&weights.pp("ff.net"), channels)?,
        })
    }

    fn forward(&self, x: &Tensor, context: &Context<'_>) -> Compute<Tensor> {
        let normed = self.norm1.forward(x)?;
        let x = (x + self.attn1.forward(&normed, &normed, context)?)?;
        let normed = self.norm2.forward(&x)?;
        let x = (&x + self.attn2.forward(&normed, context.text, context)?)?;
        &x + self.ff.forward(&self.norm3.forward(&x)?)?
    }
}

/// Multi-head attention whose four matrices live in [`Matrices`].
struct Attention {
    to_q: MatrixId,
    to_k: MatrixId,
    to_v: MatrixId,
    to_out: MatrixId,
    out_bias: Tensor,
    heads: usize,
}

impl Attention {
    fn load(
        weights: &Weights,
        matrices: &mut Matrices,
        (width, context): (usize, usize),
        heads: usize,
    ) -> Result<Attention, Error> {
        let mut matrix = |name: &str, columns: usize| {
            let part = weights.pp(name);
            let base = part.get("weight", &[width, columns])?;
            Ok::<_, Error>(matrices.insert(part.name(), base))
        };
        Ok(Attention {
            to_q: matrix("to_q", width)?,
            to_k: matrix("to_k", context)?,
            to_v: matrix("to_v", context)?,
            to_out: matrix("to_out.0", width)?,
            out_bias: weights.get("to_out.0.bias", &[width])?,
            heads,
        })
    }

    /// Queries from `x`, keys and values from `states`.
    fn forward(&self, x: &Tensor, states: &Tensor, context: &Context<'_>) -> Compute<Tensor> {
        let q = context.project(x, self.to_q, None)?;
        let k = context.project(states, self.to_k, None)?;
        let v = context.project(states, self.to_v, None)?;
        let mixed = attention(&q, &k, &v, self.heads)?;
        context.project(&mixed, self.to_out, Some(&self.out_bias))
    }
}

/// GEGLU: half of the first layer's output gates the other through the exact GELU.
struct FeedForward {
    project: Linear,
    out: Linear,
}

impl FeedForward {
    fn load(weights: &Weights, width: usize) -> Result<FeedForward, Error> {
        Ok(FeedForward {
            project: Linear::load(&weights.pp("0.proj"), width, 8 * width)?,
            out: Linear::load(&weights.pp("2"), 4 * width, width)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Compute<Tensor> {
        self.out.forward(&geglu(&self.project.forward(x)?)?)
    }
}
