//! CLIP's text encoder, as SDXL uses it twice: the states of a layer near the end condition the UNet's
//! cross-attention, and the second encoder's projected end token is the pooled text.

use candle_core::{D, DType, Device, Result as Compute, Tensor};

use crate::Error;
use crate::attention::masked_attention;
use crate::config::{Activation, TextConfig};
use crate::layers::{LayerNorm, Linear};
use crate::weights::Weights;

/// The historical value of `eos_token_id` that means "the largest id of the window".
const EOS_IS_LARGEST: u32 = 2;

/// One text encoder.
pub struct TextEncoder {
    config: TextConfig,
    tokens: Tensor,
    positions: Tensor,
    layers: Vec<Layer>,
    final_norm: LayerNorm,
    projection: Option<Tensor>,
}

/// What one encoder makes of a batch of windows.
pub struct TextStates {
    /// Output of the layer that clip skip names, [b, tokens, hidden], without the final norm.
    pub states: Tensor,
    /// Projection of the end token, [b, projection], where the encoder has one: always from the last
    /// layer, with the final norm.
    pub pooled: Option<Tensor>,
}

/// Which layer's output is taken, counted from the end as ComfyUI counts ("stop at clip layer"
/// without the sign): 1 is the last layer, 2 the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClipSkip(usize);

impl ClipSkip {
    /// Refuses 0 and more than `layers`.
    pub fn new(count: u32, layers: usize) -> Option<ClipSkip> {
        let count = count as usize;
        (1..=layers).contains(&count).then_some(ClipSkip(count))
    }

    /// The count.
    pub fn get(self) -> usize {
        self.0
    }
}

impl TextEncoder {
    /// How many layers it has.
    pub fn layer_count(&self) -> usize {
        self.layers.len()
    }

    /// Loads an encoder; `projected` says that it has a pooled projection. The `text_model.` prefix
    /// may be missing.
    ///
    /// # Errors
    /// Missing tensors and wrong shapes.
    pub fn load(
        weights: &Weights,
        config: &TextConfig,
        projected: bool,
    ) -> Result<TextEncoder, Error> {
        let prefixed = weights.pp("text_model");
        let bare = weights.contains("embeddings.token_embedding.weight");
        let model = if bare { weights.clone() } else { prefixed };
        let width = config.hidden_size;
        let embeddings = model.pp("embeddings");
        let layers = model.pp("encoder.layers");
        let projection = [config.projection_dim, width];
        Ok(TextEncoder {
            tokens: embeddings.get("token_embedding.weight", &[config.vocab_size, width])?,
            positions: embeddings.get(
                "position_embedding.weight",
                &[config.max_position_embeddings, width],
            )?,
            layers: (0..config.num_hidden_layers)
                .map(|i| Layer::load(&layers.pp(i), config))
                .collect::<Result<_, _>>()?,
            final_norm: LayerNorm::load(
                &model.pp("final_layer_norm"),
                width,
                config.layer_norm_eps,
            )?,
            projection: projected
                .then(|| weights.get("text_projection.weight", &projection))
                .transpose()?,
            config: config.clone(),
        })
    }

    /// Encodes windows of equal length.
    ///
    /// # Errors
    /// Ids outside the vocabulary; a failing device.
    pub fn forward(&self, windows: &[Vec<u32>], clip_skip: ClipSkip) -> Result<TextStates, Error> {
        let (b, n) = (windows.len(), windows.first().map_or(0, Vec::len));
        let device = self.tokens.device();
        let ids = Tensor::from_vec(windows.concat(), (b, n), device)?;
        let embedded = self
            .tokens
            .embedding(&ids.flatten_all()?)?
            .reshape((b, n, ()))?;
        let mut x = embedded.broadcast_add(&self.positions.narrow(0, 0, n)?)?;
        let mask = causal_mask(n, x.dtype(), device)?;
        let (kept, skipped) = self.split_layers(clip_skip);
        for layer in kept {
            x = layer.forward(&x, &mask)?;
        }
        let states = x.clone();
        let Some(projection) = &self.projection else {
            let pooled = None;
            return Ok(TextStates { states, pooled });
        };
        for layer in skipped {
            x = layer.forward(&x, &mask)?;
        }
        let pooled = Some(self.pool(&x, windows, projection)?);
        Ok(TextStates { states, pooled })
    }

    /// The layers up to the one whose output is taken, and those behind it.
    fn split_layers(&self, clip_skip: ClipSkip) -> (&[Layer], &[Layer]) {
        let kept = (self.layers.len() + 1).saturating_sub(clip_skip.get());
        self.layers.split_at(kept.min(self.layers.len()))
    }

    fn pool(&self, x: &Tensor, windows: &[Vec<u32>], projection: &Tensor) -> Compute<Tensor> {
        let ends: Vec<Tensor> = windows
            .iter()
            .enumerate()
            .map(|(row, ids)| x.get(row)?.narrow(0, self.end_position(ids), 1))
            .collect::<Compute<_>>()?;
        self.final_norm
            .forward(&Tensor::cat(&ends, 0)?)?
            .matmul(&projection.t()?)
    }

    /// Where the window's end token stands: the first of its id, or of the largest id.
    fn end_position(&self, ids: &[u32]) -> usize {
        let largest = ids.iter().copied().max().unwrap_or(0);
        let eos = self.config.eos_token_id;
        let eos = if eos == EOS_IS_LARGEST { largest } else { eos };
        ids.iter().position(|&id| id == eos).unwrap_or(0)
    }
}

/// [n, n]: 0 on and below the diagonal, -∞ above.
fn causal_mask(n: usize, dtype: DType, device: &Device) -> Compute<Tensor> {
    let value = |i: usize, j: usize| if j > i { f32::NEG_INFINITY } else { 0.0 };
    let mask: Vec<f32> = (0..n * n).map(|at| value(at / n, at % n)).collect();
    Tensor::from_vec(mask, (n, n), device)?.to_dtype(dtype)
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
    activation: Activation,
}

impl Layer {
    fn load(weights: &Weights, config: &TextConfig) -> Result<Layer, Error> {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let attention = |name| Linear::load(&weights.pp("self_attn").pp(name), width, width);
        let norm = |name| LayerNorm::load(&weights.pp(name), width, config.layer_norm_eps);
        Ok(Layer {
            norm1: norm("layer_norm1")?,
            q: attention("q_proj")?,
            k: attention("k_proj")?,
            v: attention("v_proj")?,
            out: attention("out_proj")?,
            norm2: norm("layer_norm2")?,
            fc1: Linear::load(&weights.pp("mlp.fc1"), width, inner)?,
            fc2: Linear::load(&weights.pp("mlp.fc2"), inner, width)?,
            heads: config.num_attention_heads,
            activation: config.hidden_act,
        })
    }

    fn forward(&self, x: &Tensor, mask: &Tensor) -> Compute<Tensor> {
        let normed = self.norm1.forward(x)?;
        let (q, k, v) = (
            self.q.forward(&normed)?,
            self.k.forward(&normed)?,
            self.v.forward(&normed)?,
        );
        let mixed = masked_attention(&q, &k, &v, self.heads, mask)?;
        let x = (x + self.out.forward(&mixed)?)?;
        let inner = activate(
            &self.fc1.forward(&self.norm2.forward(&x)?)?,
            self.activation,
        )?;
        &x + self.fc2.forward(&inner)?
    }
}

fn activate(x: &Tensor, activation: Activation) -> Compute<Tensor> {
    match activation {
        Activation::QuickGelu => x * candle_nn::ops::sigmoid(&(x * 1.702)?)?,
        Activation::Gelu => x.gelu_erf(),
    }
}

/// Joins windows behind one another: [w, n, c] → [1, w·n, c].
pub(crate) fn join_windows(states: &Tensor) -> Compute<Tensor> {
    let width = states.dim(D::Minus1)?;
    states.reshape((1, (), width))
}
