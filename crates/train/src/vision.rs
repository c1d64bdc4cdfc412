//! CLIP's vision tower as it is trained. The weights bear transformers' names.

use candle_core::{Result as Compute, Tensor};
use likeness_sdxl::parts::{LayerNorm, Linear, Weights, apply_linear, attention};
use serde::Deserialize;

use crate::Error;

/// What `vision_config` says of the tower's sizes.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct VisionConfig {
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    /// Side of a picture in pixels.
    pub image_size: usize,
    patch_size: usize,
    projection_dim: usize,
    layer_norm_eps: f64,
    hidden_act: String,
}

impl VisionConfig {
    /// From the part of a file of this name.
    ///
    /// # Errors
    /// [`Error::Recipe`] for sizes that do not fit each other, and activations other than "gelu".
    pub fn parse(json: serde_json::Value, name: &str) -> Result<VisionConfig, Error> {
        let wrong = |reason: String| Error::Recipe {
            reason: format!("model file {name}: {reason}"),
        };
        let config: VisionConfig =
            serde_json::from_value(json).map_err(|e| wrong(e.to_string()))?;
        let VisionConfig {
            hidden_size,
            num_attention_heads: heads,
            image_size,
            patch_size,
            num_hidden_layers: layers,
            ..
        } = config;
        if heads == 0 || !hidden_size.is_multiple_of(heads) || layers < 2 {
            return Err(wrong(
                "`hidden_size` must be a multiple of `num_attention_heads`, with 2 layers or more"
                    .to_owned(),
            ));
        }
        if patch_size == 0 || !image_size.is_multiple_of(patch_size) || image_size == 0 {
            return Err(wrong(
                "`image_size` must be a multiple of `patch_size`".to_owned(),
            ));
        }
        if config.hidden_act != "gelu" {
            return Err(wrong(
                "`hidden_act` must be \"gelu\" to be trained".to_owned(),
            ));
        }
        Ok(config)
    }

    /// Width of the hidden states.
    pub fn width(&self) -> usize {
        self.hidden_size
    }
}

/// The tower.
pub struct Vision {
    class: Tensor,
    /// [width, 3 · patch · patch].
    patches: Tensor,
    positions: Tensor,
    first_norm: LayerNorm,
    layers: Vec<Layer>,
    last_norm: LayerNorm,
    projection: Tensor,
    patch: usize,
}

impl Vision {
    /// From a CLIPModel's names.
    ///
    /// # Errors
    /// Missing tensors and wrong shapes.
    pub fn load(weights: &Weights, config: &VisionConfig) -> Result<Vision, Error> {
        let (width, patch) = (config.hidden_size, config.patch_size);
        let model = weights.pp("vision_model");
        let embeddings = model.pp("embeddings");
        let across = config.image_size / patch;
        let kernel = embeddings.get("patch_embedding.weight", &[width, 3, patch, patch])?;
        let eps = config.layer_norm_eps;
        let layers = (0..config.num_hidden_layers)
            .map(|layer| Layer::load(&model.pp("encoder.layers").pp(layer), config));
        Ok(Vision {
            class: embeddings.get("class_embedding", &[width])?,
            patches: kernel.reshape((width, 3 * patch * patch))?,
            positions: embeddings
                .get("position_embedding.weight", &[1 + across * across, width])?,
            first_norm: LayerNorm::load(&model.pp("pre_layrnorm"), width, eps)?,
            layers: layers.collect::<Result<_, Error>>()?,
            last_norm: LayerNorm::load(&model.pp("post_layernorm"), width, eps)?,
            projection: weights.get("visual_projection.weight", &[config.projection_dim, width])?,
            patch,
        })
    }

    /// Normalised pictures [b, 3, side, side] to the states after the last layer but one, [b, 1 + patches, width].
    ///
    /// # Errors
    /// Shapes that do not fit; a failing device.
    pub fn states(&self, pictures: &Tensor) -> Compute<Tensor> {
        let (b, _, h, w) = pictures.dims4()?;
        let (rows, columns, p) = (h / self.patch, w / self.patch, self.patch);
        let cut = pictures.reshape(&[b, 3, rows, p, columns, p][..])?;
        let cut = cut.permute([0, 2, 4, 1, 3, 5].as_slice())?.contiguous()?;
        let cut = cut.reshape((b, rows * columns, 3 * p * p))?;
        let patches = apply_linear(&cut, &self.patches, None)?;
        let class = self.class.reshape((1, 1, ()))?.repeat((b, 1, 1))?;
        let x = Tensor::cat(&[&class, &patches], 1)?.broadcast_add(&self.positions)?;
        let x = self.first_norm.forward(&x)?;
        let used = self.layers.len() - 1;
        let through = |x: Compute<Tensor>, layer: &Layer| layer.forward(&x?);
        self.layers[..used].iter().fold(Ok(x), through)
    }

    /// The pictures' embeddings [b, projection] from their states, not of unit length.
    ///
    /// # Errors
    /// Shapes that do not fit; a failing device.
    pub fn embeddings(&self, states: &Tensor) -> Compute<Tensor> {
        let x = self.layers[self.layers.len() - 1].forward(states)?;
        let class = x.narrow(1, 0, 1)?.squeeze(1)?;
        apply_linear(&self.last_norm.forward(&class)?, &self.projection, None)
    }
}

struct Layer {
    norm1: LayerNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    heads: usize,
}

impl Layer {
    fn load(weights: &Weights, config: &VisionConfig) -> Result<Layer, Error> {
        let (width, eps) = (config.hidden_size, config.layer_norm_eps);
        let own = weights.pp("self_attn");
        let square = |name: &str| Linear::load(&own.pp(name), width, width);
        let mlp = weights.pp("mlp");
        Ok(Layer {
            norm1: LayerNorm::load(&weights.pp("layer_norm1"), width, eps)?,
            q: square("q_proj")?,
            k: square("k_proj")?,
            v: square("v_proj")?,
            out: square("out_proj")?,
            norm2: LayerNorm::load(&weights.pp("layer_norm2"), width, eps)?,
            fc1: Linear::load(&mlp.pp("fc1"), width, config.intermediate_size)?,
            fc2: Linear::load(&mlp.pp("fc2"), config.intermediate_size, width)?,
            heads: config.num_attention_heads,
        })
    }

    fn forward(&self, x: &Tensor) -> Compute<Tensor> {
        let normed = self.norm1.forward(x)?;
        let (q, k) = (self.q.forward(&normed)?, self.k.forward(&normed)?);
        let seen = attention(&q, &k, &self.v.forward(&normed)?, self.heads)?;
        let x = (x + self.out.forward(&seen)?)?;
        let hidden = self.fc1.forward(&self.norm2.forward(&x)?)?.gelu_erf()?;
        &x + self.fc2.forward(&hidden)?
    }
}

#[cfg(test)]
mod tests;
