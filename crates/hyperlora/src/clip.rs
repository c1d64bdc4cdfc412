//! CLIP's vision tower from a transformers folder, up to the penultimate hidden states.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde::Deserialize;

use crate::error::{Computed, Error};
use crate::files::{Layout, TensorFile, read_json};
use crate::ops::{LayerNorm, Linear, attention, gelu, quick_gelu};
use crate::sizes::ClipSizes;

mod image;

pub use image::ClipImage;

/// What the shapes do not say, and what they say again. Defaults are those of transformers'
/// CLIPVisionConfig, which leaves out what equals them.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct Config {
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_channels: usize,
    image_size: usize,
    patch_size: usize,
    hidden_act: String,
    layer_norm_eps: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_channels: 3,
            image_size: 224,
            patch_size: 32,
            hidden_act: "quick_gelu".into(),
            layer_norm_eps: 1e-5,
        }
    }
}

/// A whole CLIP's configuration holds the vision tower's inside.
#[derive(Deserialize)]
struct ConfigFile {
    vision_config: Option<Config>,
    #[serde(flatten)]
    own: Config,
}

#[derive(Debug, Clone, Copy)]
enum Activation {
    Gelu,
    QuickGelu,
}

/// CLIP's vision tower without its last layer.
pub struct ClipVision {
    image_size: usize,
    width: usize,
    class: Tensor,
    patches: Linear,
    patch_size: usize,
    positions: Tensor,
    norm: LayerNorm,
    layers: Vec<Layer>,
}

impl ClipVision {
    /// Loads `config.json` and `model.safetensors` of a CLIPVisionModel, with or without projection, or
    /// of a whole CLIPModel.
    ///
    /// # Errors
    /// If a file is missing or damaged, the configuration is not of such a model, or a tensor is
    /// missing, misshapen, not finite or too many.
    pub fn load(dir: &Path, device: &Device) -> Result<Self, Error> {
        Opened::open(dir)?.tower(device)
    }

    /// A tower of random numbers.
    ///
    /// # Errors
    /// If sizes do not go with each other, or memory is short.
    pub fn random(sizes: &ClipSizes, seed: u64, device: &Device) -> Result<Self, Error> {
        let config = Config {
            hidden_size: sizes.width,
            intermediate_size: sizes.ff,
            num_hidden_layers: sizes.layers,
            num_attention_heads: sizes.heads,
            image_size: sizes.image_size,
            patch_size: sizes.patch_size,
            ..Config::default()
        };
        // Halves: they are converted one by one when loaded, and the source goes afterwards.
        let file = TensorFile::random(&config.layout(""), DType::F16, seed)?;
        let activation = config.check().map_err(|problem| file.content(problem))?;
        config.load(&file, "", activation, device)
    }

    /// The side of the square pictures that it takes, in pixels.
    pub fn image_size(&self) -> usize {
        self.image_size
    }

    /// Width of the hidden states.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Normalised pictures `[n, 3, size, size]` to the hidden states `[n, 1 + patches, width]` after
    /// the last layer but one, class token first, without the final LayerNorm.
    ///
    /// # Errors
    /// If the pictures are not of this shape.
    pub fn hidden_states(&self, pixel_values: &Tensor) -> Result<Tensor, Error> {
        let size = self.image_size;
        match *pixel_values.dims() {
            [n, 3, height, width] if n > 0 && height == size && width == size => {}
            _ => {
                return Err(Error::Input {
                    what: "pictures for CLIP",
                    found: pixel_values.dims().to_vec(),
                    expected: format!("[n, 3, {size}, {size}]"),
                });
            }
        }
        let pixels = pixel_values.to_dtype(DType::F32)?;
        let photos = (0..pixels.dim(0)?)
            .map(|photo| self.one(&pixels.get(photo)?))
            .collect::<Result<Vec<_>, Error>>()?;
        Ok(Tensor::stack(&photos, 0)?)
    }

    fn one(&self, pixels: &Tensor) -> Result<Tensor, Error> {
        let patches = self.patches.forward(&cut(pixels, self.patch_size)?)?;
        let tokens = (Tensor::cat(&[&self.class, &patches], 0)? + &self.positions)?;
        let mut states = self.norm.forward(&tokens)?;
        for layer in &self.layers {
            states = layer.forward(states)?;
        }
        Ok(states)
    }
}

/// A folder whose files fit each other.
struct Opened {
    config: Config,
    activation: Activation,
    file: TensorFile,
    prefix: &'static str,
}

impl Opened {
    fn open(dir: &Path) -> Result<Self, Error> {
        let config_path = dir.join("config.json");
        let ConfigFile { vision_config, own } = read_json(&config_path)?;
        let config = vision_config.unwrap_or(own);
        let activation = config.check().map_err(|problem| Error::Content {
            path: config_path,
            problem,
        })?;
        let file = TensorFile::open(&weights(dir)?)?;
        let prefix = if file.has("embeddings.class_embedding") {
            ""
        } else {
            "vision_model."
        };
        file.check(&config.layout(prefix), ignored)?;
        Ok(Self {
            config,
            activation,
            file,
            prefix,
        })
    }

    fn tower(&self, device: &Device) -> Result<ClipVision, Error> {
        self.config
            .load(&self.file, self.prefix, self.activation, device)
    }
}

/// The folder's tensors. A vision tower comes in one file, and pickles are not read.
fn weights(dir: &Path) -> Result<PathBuf, Error> {
    let path = dir.join("model.safetensors");
    let others = [
        ("model.safetensors.index.json", "join its shards in one"),
        (
            "pytorch_model.bin",
            "convert it, since a PyTorch pickle can run code,",
        ),
    ];
    let other = others.iter().find(|(name, _)| dir.join(name).exists());
    match other {
        Some((name, what)) if !path.exists() => Err(Error::Content {
            path: dir.join(name),
            problem: format!("model.safetensors is missing beside it; {what} to model.safetensors"),
        }),
        _ => Ok(path),
    }
}

/// Cuts a picture `[c, h, w]` into its square patches, `[patches, c · side · side]`: what a convolution
/// with a stride of its own size sees.
fn cut(pixels: &Tensor, side: usize) -> Computed<Tensor> {
    let (channels, height, width) = pixels.dims3()?;
    let (rows, columns) = (height / side, width / side);
    pixels
        .reshape((channels, rows, side, columns, side))?
        .permute((1, 3, 0, 2, 4))?
        .reshape((rows * columns, channels * side * side))
}

/// What a file may hold beside the vision tower.
fn ignored(name: &str) -> bool {
    [
        "text_model.",
        "text_projection.",
        "visual_projection.",
        "logit_scale",
    ]
    .iter()
    .any(|prefix| name.starts_with(prefix))
        || name.ends_with("embeddings.position_ids")
}

impl Config {
    /// Whether the sizes make sense, and which activation they come with.
    fn check(&self) -> Result<Activation, String> {
        let sizes = [
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("image_size", self.image_size),
            ("patch_size", self.patch_size),
        ];
        // No CLIP has a tenth of this; names of layers without end are not made up.
        if self.num_hidden_layers > 1024 {
            return Err(format!(
                "num_hidden_layers = {} is no depth of a CLIP vision model",
                self.num_hidden_layers
            ));
        }
        if let Some((name, size)) = sizes.iter().find(|(_, size)| !(1..=1 << 20).contains(size)) {
            return Err(format!(
                "{name} = {size} is not a size of a CLIP vision model"
            ));
        }
        if self.num_channels != 3 {
            return Err(format!("num_channels = {}, expected 3", self.num_channels));
        }
        for (name, whole, part) in [
            (
                "num_attention_heads does not divide hidden_size",
                self.hidden_size,
                self.num_attention_heads,
            ),
            (
                "patch_size does not divide image_size",
                self.image_size,
                self.patch_size,
            ),
        ] {
            if !whole.is_multiple_of(part) {
                return Err(format!("{name}: {part} and {whole}"));
            }
        }
        match self.hidden_act.as_str() {
            "gelu" => Ok(Activation::Gelu),
            "quick_gelu" => Ok(Activation::QuickGelu),
            other => Err(format!(
                "hidden_act = {other:?}, expected \"gelu\" or \"quick_gelu\""
            )),
        }
    }

    fn layout(&self, prefix: &str) -> Layout {
        let width = self.hidden_size;
        let tokens = 1 + (self.image_size / self.patch_size).pow(2);
        let embeddings = |name: &str| format!("{prefix}embeddings.{name}");
        let mut names = Layout::from([
            (embeddings("class_embedding"), vec![width]),
            (
                embeddings("patch_embedding.weight"),
                vec![width, self.num_channels, self.patch_size, self.patch_size],
            ),
            (embeddings("position_embedding.weight"), vec![tokens, width]),
        ]);
        LayerNorm::names(&mut names, &format!("{prefix}pre_layrnorm"), width);
        LayerNorm::names(&mut names, &format!("{prefix}post_layernorm"), width);
        for layer in 0..self.num_hidden_layers {
            let at = format!("{prefix}encoder.layers.{layer}");
            LayerNorm::names(&mut names, &format!("{at}.layer_norm1"), width);
            LayerNorm::names(&mut names, &format!("{at}.layer_norm2"), width);
            for matrix in ["q_proj", "k_proj", "v_proj", "out_proj"] {
                Linear::names(
                    &mut names,
                    &format!("{at}.self_attn.{matrix}"),
                    width,
                    width,
                );
            }
            Linear::names(
                &mut names,
                &format!("{at}.mlp.fc1"),
                self.intermediate_size,
                width,
            );
            Linear::names(
                &mut names,
                &format!("{at}.mlp.fc2"),
                width,
                self.intermediate_size,
            );
        }
        names
    }

    fn load(
        &self,
        file: &TensorFile,
        prefix: &str,
        activation: Activation,
        device: &Device,
    ) -> Result<ClipVision, Error> {
        let tensor = |name: &str| file.tensor(&format!("{prefix}embeddings.{name}"), device);
        let kernel = tensor("patch_embedding.weight")?;
        // The last layer's output is not used.
        let layers = (0..self.num_hidden_layers - 1)
            .map(|layer| {
                let at = format!("{prefix}encoder.layers.{layer}");
                Layer::load(file, &at, self, activation, device)
            })
            .collect::<Result<_, _>>()?;
        let norm = format!("{prefix}pre_layrnorm");
        Ok(ClipVision {
            image_size: self.image_size,
            width: self.hidden_size,
            class: tensor("class_embedding")?.unsqueeze(0)?,
            patches: Linear::from_rows(kernel.flatten_from(1)?),
            patch_size: self.patch_size,
            positions: tensor("position_embedding.weight")?,
            norm: LayerNorm::load(file, &norm, self.layer_norm_eps, device)?,
            layers,
        })
    }
}

struct Layer {
    attention_norm: LayerNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    heads: usize,
    mlp_norm: LayerNorm,
    mlp_in: Linear,
    mlp_out: Linear,
    activation: Activation,
}

impl Layer {
    fn load(
        file: &TensorFile,
        at: &str,
        config: &Config,
        activation: Activation,
        device: &Device,
    ) -> Result<Self, Error> {
        let linear = |name: &str| Linear::load(file, &format!("{at}.{name}"), device);
        let eps = config.layer_norm_eps;
        let norm = |name: &str| LayerNorm::load(file, &format!("{at}.{name}"), eps, device);
        Ok(Self {
            attention_norm: norm("layer_norm1")?,
            q: linear("self_attn.q_proj")?,
            k: linear("self_attn.k_proj")?,
            v: linear("self_attn.v_proj")?,
            out: linear("self_attn.out_proj")?,
            heads: config.num_attention_heads,
            mlp_norm: norm("layer_norm2")?,
            mlp_in: linear("mlp.fc1")?,
            mlp_out: linear("mlp.fc2")?,
            activation,
        })
    }

    fn forward(&self, states: Tensor) -> Computed<Tensor> {
        let normed = self.attention_norm.forward(&states)?;
        let (q, k, v) = (
            self.q.forward(&normed)?,
            self.k.forward(&normed)?,
            self.v.forward(&normed)?,
        );
        let mixed = attention(&q, &k, &v, self.heads)?;
        let states = self.out.add_to(states, &mixed)?;
        let hidden = self.mlp_in.forward(&self.mlp_norm.forward(&states)?)?;
        let hidden = match self.activation {
            Activation::Gelu => gelu(hidden)?,
            Activation::QuickGelu => quick_gelu(hidden)?,
        };
        self.mlp_out.add_to(states, &hidden)
    }
}
