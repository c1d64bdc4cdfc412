//! The id projector and the resampler.

use candle_core::{Result as Compute, Tensor};
use likeness_hyperlora::ResamplerSizes;
use likeness_sdxl::parts::{LayerNorm, Linear, Weights, apply_linear, attention};

use crate::Error;

/// Epsilon of every layer norm here.
const EPS: f64 = 1e-5;

/// A face embedding's way to tokens that a resampler attends to.
pub struct IdProjector {
    linear: Linear,
    norm: LayerNorm,
    tokens: usize,
    width: usize,
}

impl IdProjector {
    /// From `id_projector.safetensors`' names.
    ///
    /// # Errors
    /// Missing tensors and wrong shapes.
    pub fn load(weights: &Weights, sizes: &ResamplerSizes) -> Result<IdProjector, Error> {
        let (tokens, width) = (sizes.id_tokens, sizes.dim);
        Ok(IdProjector {
            linear: Linear::load(&weights.pp("0"), sizes.embedding, tokens * width)?,
            norm: LayerNorm::load(&weights.pp("2"), width, EPS)?,
            tokens,
            width,
        })
    }

    /// Embeddings of unit length [b, embedding] to tokens [b, tokens, dim].
    ///
    /// # Errors
    /// Shapes that do not fit; a failing device.
    pub fn forward(&self, embeddings: &Tensor) -> Compute<Tensor> {
        let tokens = self.linear.forward(embeddings)?;
        self.norm
            .forward(&tokens.reshape(((), self.tokens, self.width))?)
    }
}

/// Learnt latents that attend to themselves, to one condition, and to a second one where there is one.
pub struct Resampler {
    latents: Tensor,
    first: Linear,
    second: Option<Linear>,
    layers: Vec<Layer>,
    out: Linear,
}

impl Resampler {
    /// From `resampler.safetensors`' names. Its first condition is `first_width` wide: `dim` for an id projector's tokens, CLIP's
    /// width for CLIP's states. `second_width` is that of a second one.
    ///
    /// # Errors
    /// Missing tensors and wrong shapes.
    pub fn load(
        weights: &Weights,
        sizes: &ResamplerSizes,
        first_width: usize,
        second_width: Option<usize>,
    ) -> Result<Resampler, Error> {
        let dim = sizes.dim;
        let second = second_width.map(|width| Linear::load(&weights.pp("proj_in_2"), width, dim));
        let layers = (0..sizes.depth).map(|layer| {
            let at = weights.pp("layers").pp(layer);
            Layer::load(&at, sizes, second_width.is_some())
        });
        Ok(Resampler {
            latents: weights.get("latents", &[1, sizes.tokens, dim])?,
            first: Linear::load(&weights.pp("proj_in"), first_width, dim)?,
            second: second.transpose()?,
            layers: layers.collect::<Result<_, Error>>()?,
            out: Linear::load(&weights.pp("proj_out"), dim, sizes.k)?,
        })
    }

    /// Conditions [b, t, width] to coefficients [b, tokens, k], not normalised. The second one is not looked at by a resampler
    /// that has none.
    ///
    /// # Errors
    /// Shapes that do not fit; a failing device.
    pub fn forward(&self, first: &Tensor, second: Option<&Tensor>) -> Compute<Tensor> {
        let first = self.first.forward(first)?;
        let second = match (&self.second, second) {
            (Some(projection), Some(second)) => Some(projection.forward(second)?),
            _ => None,
        };
        let mut latents = self.latents.repeat((first.dim(0)?, 1, 1))?;
        for layer in &self.layers {
            latents = layer.forward(&latents, &first, second.as_ref())?;
        }
        self.out.forward(&latents)
    }
}

struct Layer {
    own_norm: LayerNorm,
    own: Attention,
    first: Cross,
    second: Option<Cross>,
    ff_norm: LayerNorm,
    ff_in: Linear,
    ff_out: Linear,
}

impl Layer {
    fn load(weights: &Weights, sizes: &ResamplerSizes, second: bool) -> Result<Layer, Error> {
        let dim = sizes.dim;
        let norm = |name: &str| LayerNorm::load(&weights.pp(name), dim, EPS);
        let cross = |name: &str, latents: &str, condition: &str| {
            Ok::<_, Error>(Cross {
                latents_norm: norm(latents)?,
                condition_norm: norm(condition)?,
                attention: Attention::load(&weights.pp(name), sizes)?,
            })
        };
        let second = second.then(|| cross("attn3", "norm_attn3_l", "norm_attn3_y"));
        let ff = weights.pp("ff").pp("net");
        Ok(Layer {
            own_norm: norm("norm_attn1")?,
            own: Attention::load(&weights.pp("attn1"), sizes)?,
            first: cross("attn2", "norm_attn2_l", "norm_attn2_x")?,
            second: second.transpose()?,
            ff_norm: norm("norm_ff")?,
            ff_in: Linear::load(&ff.pp("0").pp("proj"), dim, sizes.ff)?,
            ff_out: Linear::load(&ff.pp("2"), sizes.ff, dim)?,
        })
    }

    fn forward(&self, latents: &Tensor, x: &Tensor, y: Option<&Tensor>) -> Compute<Tensor> {
        let normed = self.own_norm.forward(latents)?;
        let mut latents = (latents + self.own.forward(&normed, &normed)?)?;
        latents = self.first.add_to(&latents, x)?;
        if let (Some(second), Some(y)) = (&self.second, y) {
            latents = second.add_to(&latents, y)?;
        }
        let hidden = self.ff_in.forward(&self.ff_norm.forward(&latents)?)?;
        &latents + self.ff_out.forward(&hidden.gelu_erf()?)?
    }
}

/// Attention of the latents to a condition, each normed on its own.
struct Cross {
    latents_norm: LayerNorm,
    condition_norm: LayerNorm,
    attention: Attention,
}

impl Cross {
    fn add_to(&self, latents: &Tensor, condition: &Tensor) -> Compute<Tensor> {
        let normed = self.latents_norm.forward(latents)?;
        let condition = self.condition_norm.forward(condition)?;
        latents + self.attention.forward(&normed, &condition)?
    }
}

struct Attention {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    heads: usize,
}

impl Attention {
    fn load(weights: &Weights, sizes: &ResamplerSizes) -> Result<Attention, Error> {
        let (inner, dim) = (sizes.heads * sizes.dim_head, sizes.dim);
        Ok(Attention {
            q: weights.get("to_q.weight", &[inner, dim])?,
            k: weights.get("to_k.weight", &[inner, dim])?,
            v: weights.get("to_v.weight", &[inner, dim])?,
            out: weights.get("to_out.0.weight", &[dim, inner])?,
            heads: sizes.heads,
        })
    }

    /// Of `x` to `to`.
    fn forward(&self, x: &Tensor, to: &Tensor) -> Compute<Tensor> {
        let q = apply_linear(x, &self.q, None)?;
        let k = apply_linear(to, &self.k, None)?;
        let v = apply_linear(to, &self.v, None)?;
        apply_linear(&attention(&q, &k, &v, self.heads)?, &self.out, None)
    }
}
