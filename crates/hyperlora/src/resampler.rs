//! The perceiver resampler: learnt latents that attend to themselves, to one condition, and to a second
//! one if there is one; what they end as are coefficients.

use std::path::Path;

use candle_core::{DType, Device, Tensor};

use crate::error::{Computed, Error};
use crate::files::{Layout, TensorFile};
use crate::ops::{LayerNorm, Linear, attention, gelu};
use crate::sizes::ResamplerSizes;

/// Epsilon of every LayerNorm here.
pub(crate) const EPS: f64 = 1e-5;

/// Its presence says that there is a second condition.
const SECOND: &str = "proj_in_2.weight";

/// All sizes of a resampler. Only the width of a head is not in the tensors' shapes.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    tokens: usize,
    dim: usize,
    k: usize,
    inner: usize,
    ff: usize,
    depth: usize,
    first: usize,
    second: Option<usize>,
}

pub(crate) struct Resampler {
    sizes: Sizes,
    /// The learnt latents after the first layer's attention to themselves, which is the same for every photo.
    start: Tensor,
    first: Linear,
    second: Option<Linear>,
    layers: Vec<Layer>,
    out: Linear,
}

impl Resampler {
    pub(crate) fn load(path: &Path, dim_head: usize, device: &Device) -> Result<Self, Error> {
        Self::from_file(&TensorFile::open(path)?, dim_head, device)
    }

    /// A resampler of random numbers.
    pub(crate) fn random(
        sizes: &ResamplerSizes,
        seed: u64,
        device: &Device,
    ) -> Result<Self, Error> {
        let layout = Sizes::of(sizes).layout();
        let file = TensorFile::random(&layout, DType::F32, seed)?;
        Self::from_file(&file, sizes.dim_head, device)
    }

    fn from_file(file: &TensorFile, dim_head: usize, device: &Device) -> Result<Self, Error> {
        let sizes = Sizes::read(file)?;
        file.check(&sizes.layout(), |_| false)?;
        let heads = sizes.heads(file, dim_head)?;
        let second = sizes
            .second
            .map(|_| Linear::load(file, "proj_in_2", device))
            .transpose()?;
        let layers = (0..sizes.depth)
            .map(|layer| Layer::load(file, layer, heads, second.is_some(), device))
            .collect::<Result<Vec<_>, _>>()?;
        let mut start = file.tensor("latents", device)?.squeeze(0)?;
        if let Some(layer) = layers.first() {
            start = layer.add_itself(start)?;
        }
        Ok(Self {
            sizes,
            start,
            first: Linear::load(file, "proj_in", device)?,
            second,
            layers,
            out: Linear::load(file, "proj_out", device)?,
        })
    }

    pub(crate) fn tokens(&self) -> usize {
        self.sizes.tokens
    }

    pub(crate) fn k(&self) -> usize {
        self.sizes.k
    }

    /// Width of the first condition's tokens.
    pub(crate) fn first_width(&self) -> usize {
        self.sizes.first
    }

    /// Width of the second condition's tokens, if there is a second condition.
    pub(crate) fn second_width(&self) -> Option<usize> {
        self.sizes.second
    }

    /// One photo's conditions, `[t, width]` each, to its coefficients `[tokens, k]`, as predicted. The
    /// second condition must be given if and only if the model has one.
    pub(crate) fn forward(&self, first: &Tensor, second: Option<&Tensor>) -> Computed<Tensor> {
        let first = self.first.forward(first)?;
        let second = match (&self.second, second) {
            (Some(projection), Some(second)) => Some(projection.forward(second)?),
            _ => None,
        };
        // A copy, because layers add to it in place.
        let mut latents = self.start.copy()?;
        for (number, layer) in self.layers.iter().enumerate() {
            if number > 0 {
                latents = layer.add_itself(latents)?;
            }
            latents = layer.add_conditions(latents, &first, second.as_ref())?;
        }
        self.out.forward(&latents)
    }
}

impl Sizes {
    /// Of a model that looks at both, face and CLIP.
    fn of(sizes: &ResamplerSizes) -> Self {
        Self {
            tokens: sizes.tokens,
            dim: sizes.dim,
            k: sizes.k,
            inner: sizes.heads * sizes.dim_head,
            ff: sizes.ff,
            depth: sizes.depth,
            first: sizes.dim,
            second: Some(sizes.clip_width),
        }
    }

    fn read(file: &TensorFile) -> Result<Self, Error> {
        let [_, tokens, dim] = file.shape("latents")?;
        let [_, first] = file.shape("proj_in.weight")?;
        let [k, _] = file.shape("proj_out.weight")?;
        let [inner, _] = file.shape("layers.0.attn1.to_q.weight")?;
        let [ff, _] = file.shape("layers.0.ff.net.0.proj.weight")?;
        let second = file
            .has(SECOND)
            .then(|| file.shape::<2>(SECOND))
            .transpose()?;
        let second = second.map(|[_, width]| width);
        let depth = file.count_numbered("layers.");
        let sizes = Self {
            tokens,
            dim,
            k,
            inner,
            ff,
            depth,
            first,
            second,
        };
        if [tokens, dim, k, inner, ff, first, second.unwrap_or(1)].contains(&0) {
            return Err(file.content(format!("a size is zero: {sizes:?}")));
        }
        Ok(sizes)
    }

    fn heads(&self, file: &TensorFile, dim_head: usize) -> Result<usize, Error> {
        if dim_head == 0 || !self.inner.is_multiple_of(dim_head) {
            let inner = self.inner;
            return Err(file.content(format!(
                "dim_head = {dim_head} does not divide the {inner} rows of layers.0.attn1.to_q"
            )));
        }
        Ok(self.inner / dim_head)
    }

    /// Every tensor of the file.
    fn layout(&self) -> Layout {
        let mut names = Layout::from([("latents".into(), vec![1, self.tokens, self.dim])]);
        Linear::names(&mut names, "proj_in", self.dim, self.first);
        if let Some(second) = self.second {
            Linear::names(&mut names, "proj_in_2", self.dim, second);
        }
        Linear::names(&mut names, "proj_out", self.k, self.dim);
        for layer in 0..self.depth {
            self.layer_layout(&mut names, layer);
        }
        names
    }

    fn layer_layout(&self, names: &mut Layout, layer: usize) {
        let at = format!("layers.{layer}");
        let third = self.second.is_some();
        for norm in norm_names(third) {
            LayerNorm::names(names, &format!("{at}.{norm}"), self.dim);
        }
        for attention in 1..=if third { 3 } else { 2 } {
            for matrix in ["to_q", "to_k", "to_v"] {
                let name = format!("{at}.attn{attention}.{matrix}");
                Linear::names_no_bias(names, &name, self.inner, self.dim);
            }
            let name = format!("{at}.attn{attention}.to_out.0");
            Linear::names_no_bias(names, &name, self.dim, self.inner);
        }
        Linear::names(names, &format!("{at}.ff.net.0.proj"), self.ff, self.dim);
        Linear::names(names, &format!("{at}.ff.net.2"), self.dim, self.ff);
    }
}

fn norm_names(third: bool) -> Vec<&'static str> {
    let mut names = vec!["norm_attn1", "norm_attn2_l", "norm_attn2_x", "norm_ff"];
    if third {
        names.extend(["norm_attn3_l", "norm_attn3_y"]);
    }
    names
}

struct Layer {
    itself: (LayerNorm, Attention),
    first: Cross,
    second: Option<Cross>,
    ff_norm: LayerNorm,
    ff_in: Linear,
    ff_out: Linear,
}

impl Layer {
    fn load(
        file: &TensorFile,
        layer: usize,
        heads: usize,
        second: bool,
        device: &Device,
    ) -> Result<Self, Error> {
        let at = |name: &str| format!("layers.{layer}.{name}");
        let norm = |name: &str| LayerNorm::load(file, &at(name), EPS, device);
        let attention = |name: &str| Attention::load(file, &at(name), heads, device);
        let cross = |name: &str, latents: &str, condition: &str| {
            let (latents_norm, condition_norm) = (norm(latents)?, norm(condition)?);
            Ok::<_, Error>(Cross {
                latents_norm,
                condition_norm,
                attention: attention(name)?,
            })
        };
        let second = second
            .then(|| cross("attn3", "norm_attn3_l", "norm_attn3_y"))
            .transpose()?;
        Ok(Self {
            itself: (norm("norm_attn1")?, attention("attn1")?),
            first: cross("attn2", "norm_attn2_l", "norm_attn2_x")?,
            second,
            ff_norm: norm("norm_ff")?,
            ff_in: Linear::load(file, &at("ff.net.0.proj"), device)?,
            ff_out: Linear::load(file, &at("ff.net.2"), device)?,
        })
    }

    /// Attention of the latents to themselves.
    fn add_itself(&self, latents: Tensor) -> Computed<Tensor> {
        let (norm, attention) = &self.itself;
        let normed = norm.forward(&latents)?;
        attention.add_to(latents, &normed, &normed)
    }

    /// Attention to the conditions, and the feed-forward layer.
    fn add_conditions(&self, latents: Tensor, x: &Tensor, y: Option<&Tensor>) -> Computed<Tensor> {
        let mut latents = self.first.add_to(latents, x)?;
        if let (Some(second), Some(y)) = (&self.second, y) {
            latents = second.add_to(latents, y)?;
        }
        let hidden = gelu(self.ff_in.forward(&self.ff_norm.forward(&latents)?)?)?;
        self.ff_out.add_to(latents, &hidden)
    }
}

/// Attention of the latents to a condition, each normed on its own.
struct Cross {
    latents_norm: LayerNorm,
    condition_norm: LayerNorm,
    attention: Attention,
}

impl Cross {
    fn add_to(&self, latents: Tensor, condition: &Tensor) -> Computed<Tensor> {
        let normed = self.latents_norm.forward(&latents)?;
        let condition = self.condition_norm.forward(condition)?;
        self.attention.add_to(latents, &normed, &condition)
    }
}

struct Attention {
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    heads: usize,
}

impl Attention {
    fn load(file: &TensorFile, at: &str, heads: usize, device: &Device) -> Result<Self, Error> {
        let linear = |name: &str| Linear::load_no_bias(file, &format!("{at}.{name}"), device);
        let (q, k, v, out) = (
            linear("to_q")?,
            linear("to_k")?,
            linear("to_v")?,
            linear("to_out.0")?,
        );
        Ok(Self {
            q,
            k,
            v,
            out,
            heads,
        })
    }

    /// `latents` + the attention of `x` to `to`.
    fn add_to(&self, latents: Tensor, x: &Tensor, to: &Tensor) -> Computed<Tensor> {
        let (q, k, v) = (self.q.forward(x)?, self.k.forward(to)?, self.v.forward(to)?);
        self.out
            .add_to(latents, &attention(&q, &k, &v, self.heads)?)
    }
}
