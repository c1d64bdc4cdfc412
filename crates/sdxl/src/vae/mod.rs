//! The autoencoder between pictures and latents. It runs in f32 whatever the UNet's type: SDXL's
//! own autoencoder overflows in f16. A batch goes through it one sample at a time, and a picture of
//! more than 1024² pixels in tiles, so that its memory is bounded by that of one picture of 1024².

mod tiling;

use candle_core::{DType, Device, Result as Compute, Tensor};

use crate::Error;
use crate::attention::attention;
use crate::config::VaeConfig;
use crate::conv::{Conv, ConvShape};
use crate::layers::{GroupNorm, Linear};
use crate::resnet::{Downsample, Resnet, ResnetConfig, Upsample};
use crate::weights::Weights;

use tiling::{Tiles, in_tiles};

/// Pixels that are decoded or encoded as a whole. All sizes that SDXL was trained with have at most
/// as many, and agree with an autoencoder that knows no tiles.
const MAX_WHOLE: usize = 1024 * 1024;
/// A tile's side in pixels; neighbours share a quarter of it.
const TILE_SIDE: usize = 1024;

const EPS: f64 = 1e-6;

/// Encoder and decoder.
pub struct Vae {
    config: VaeConfig,
    encoder: Encoder,
    decoder: Decoder,
    quant: Option<Conv>,
    post_quant: Option<Conv>,
    tiling: Tiling,
}

/// When to take tiles, and which, in latents.
#[derive(Clone, Copy)]
struct Tiling {
    max_whole: usize,
    tiles: Tiles,
}

impl Tiling {
    fn new(factor: usize) -> Tiling {
        let side = TILE_SIDE / factor;
        Tiling {
            max_whole: MAX_WHOLE / (factor * factor),
            tiles: Tiles {
                side,
                overlap: side / 4,
            },
        }
    }
}

impl Vae {
    /// Loads all tensors; `weights` must be of type f32.
    ///
    /// # Errors
    /// Missing tensors and wrong shapes.
    pub fn load(weights: &Weights, config: &VaeConfig) -> Result<Vae, Error> {
        let quant = config
            .quant_conv
            .then(|| Conv::load(&weights.pp("quant_conv"), 8, 8, ConvShape::POINT));
        let post = config
            .post_quant_conv
            .then(|| Conv::load(&weights.pp("post_quant_conv"), 4, 4, ConvShape::POINT));
        Ok(Vae {
            encoder: Encoder::load(&weights.pp("encoder"), config)?,
            decoder: Decoder::load(&weights.pp("decoder"), config)?,
            quant: quant.transpose()?,
            post_quant: post.transpose()?,
            tiling: Tiling::new(config.factor()),
            config: config.clone(),
        })
    }

    /// The picture [b, 3, h·factor, w·factor], about -1 to 1, of the UNet's latents [b, 4, h, w].
    ///
    /// # Errors
    /// A failing device.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor, Error> {
        let latents = latents.to_dtype(DType::F32)?;
        let scaled = (self.unscale(&latents)? / self.config.scaling_factor)?;
        let shifted = match self.statistics(latents.device())? {
            None => scaled,
            Some((mean, _)) => scaled.broadcast_add(&mean)?,
        };
        Ok(self.decode_unscaled(&shifted)?)
    }

    /// The UNet's latents [b, 4, h/factor, w/factor] of a picture [b, 3, h, w] from -1 to 1: the
    /// mean of the encoder's distribution.
    ///
    /// # Errors
    /// A failing device; sides that are not multiples of the factor.
    pub fn encode(&self, picture: &Tensor) -> Result<Tensor, Error> {
        let mean = self.encode_mean(&picture.to_dtype(DType::F32)?)?;
        let scaled = match self.statistics(mean.device())? {
            None => mean,
            Some((centre, deviation)) => mean.broadcast_sub(&centre)?.broadcast_div(&deviation)?,
        };
        Ok((scaled * self.config.scaling_factor)?)
    }

    fn unscale(&self, latents: &Tensor) -> Compute<Tensor> {
        match self.statistics(latents.device())? {
            None => Ok(latents.clone()),
            Some((_, deviation)) => latents.broadcast_mul(&deviation),
        }
    }

    fn statistics(&self, device: &Device) -> Compute<Option<(Tensor, Tensor)>> {
        let Some((mean, deviation)) = &self.config.latent_statistics else {
            return Ok(None);
        };
        let tensor = |values: &[f32; 4]| Tensor::new(values, device)?.reshape((1, 4, 1, 1));
        Ok(Some((tensor(mean)?, tensor(deviation)?)))
    }

    pub(crate) fn decode_unscaled(&self, latents: &Tensor) -> Compute<Tensor> {
        let (_, _, h, w) = latents.dims4()?;
        let Tiling { max_whole, tiles } = self.tiling;
        let output = tiles.enlarged(self.config.factor());
        one_by_one(latents, &|latents| {
            if h * w <= max_whole {
                return self.decode_whole(latents);
            }
            in_tiles(latents, tiles, output, &|tile| self.decode_whole(tile))
        })
    }

    fn decode_whole(&self, latents: &Tensor) -> Compute<Tensor> {
        match &self.post_quant {
            None => self.decoder.forward(latents),
            Some(conv) => self.decoder.forward(&conv.forward(latents)?),
        }
    }

    pub(crate) fn encode_mean(&self, picture: &Tensor) -> Compute<Tensor> {
        let (_, _, h, w) = picture.dims4()?;
        let Tiling { max_whole, tiles } = self.tiling;
        let factor = self.config.factor();
        one_by_one(picture, &|picture| {
            if h * w <= max_whole * factor * factor {
                return self.encode_whole(picture);
            }
            in_tiles(picture, tiles.enlarged(factor), tiles, &|tile| {
                self.encode_whole(tile)
            })
        })
    }

    fn encode_whole(&self, picture: &Tensor) -> Compute<Tensor> {
        self.moments(picture)?.narrow(1, 0, 4)
    }

    /// For training, where a whole batch goes through at once: mean and logarithm of the variance, [b, 8, h/factor,
    /// w/factor], of pictures [b, 3, h, w] from -1 to 1, before any scaling.
    ///
    /// # Errors
    /// A failing device.
    pub fn moments(&self, pictures: &Tensor) -> Compute<Tensor> {
        let moments = self.encoder.forward(pictures)?;
        match &self.quant {
            None => Ok(moments),
            Some(conv) => conv.forward(&moments),
        }
    }

    /// For training: the pictures of latents as [`Self::moments`] gives them, a whole batch at once.
    ///
    /// # Errors
    /// A failing device.
    pub fn pictures(&self, latents: &Tensor) -> Compute<Tensor> {
        self.decode_whole(latents)
    }
}

/// `run` of every sample of a batch, one after another.
fn one_by_one(x: &Tensor, run: &dyn Fn(&Tensor) -> Compute<Tensor>) -> Compute<Tensor> {
    if x.dim(0)? == 1 {
        return run(x);
    }
    let samples = (0..x.dim(0)?).map(|sample| run(&x.narrow(0, sample, 1)?));
    Tensor::cat(&samples.collect::<Compute<Vec<_>>>()?, 0)
}

fn resnet(
    weights: &Weights,
    config: &VaeConfig,
    input: usize,
    output: usize,
) -> Result<Resnet, Error> {
    let config = ResnetConfig {
        input,
        output,
        time: None,
        groups: config.groups,
        eps: EPS,
    };
    Resnet::load(weights, config)
}

fn resnets(
    weights: &Weights,
    config: &VaeConfig,
    layers: usize,
    mut input: usize,
    output: usize,
) -> Result<Vec<Resnet>, Error> {
    let mut resnets = Vec::with_capacity(layers);
    for index in 0..layers {
        resnets.push(resnet(&weights.pp(index), config, input, output)?);
        input = output;
    }
    Ok(resnets)
}

/// Residual block, attention over all pixels, residual block.
struct Middle {
    first: Resnet,
    attention: Option<PixelAttention>,
    last: Resnet,
}

impl Middle {
    fn load(weights: &Weights, config: &VaeConfig, channels: usize) -> Result<Middle, Error> {
        let block = |i: usize| resnet(&weights.pp("resnets").pp(i), config, channels, channels);
        let attention = config
            .mid_attention
            .then(|| PixelAttention::load(&weights.pp("attentions.0"), config, channels));
        Ok(Middle {
            first: block(0)?,
            attention: attention.transpose()?,
            last: block(1)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Compute<Tensor> {
        let mut x = self.first.forward(x, None)?;
        if let Some(attention) = &self.attention {
            x = attention.forward(&x)?;
        }
        self.last.forward(&x, None)
    }
}

/// Single-head self-attention over pixels.
struct PixelAttention {
    norm: GroupNorm,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
}

impl PixelAttention {
    fn load(weights: &Weights, config: &VaeConfig, c: usize) -> Result<PixelAttention, Error> {
        // Checkpoints from before diffusers 0.17 have the second name.
        let layer = |name: &str, old: &str| {
            let named = weights.pp(name);
            let part = if named.contains("weight") {
                named
            } else {
                weights.pp(old)
            };
            if part.contains("weight") {
                Linear::load(&part, c, c)
            } else {
                Linear::load(&weights.pp(name), c, c)
            }
        };
        Ok(PixelAttention {
            norm: GroupNorm::load(&weights.pp("group_norm"), c, config.groups, EPS)?,
            to_q: layer("to_q", "query")?,
            to_k: layer("to_k", "key")?,
            to_v: layer("to_v", "value")?,
            to_out: layer("to_out.0", "proj_attn")?,
        })
    }

    fn forward(&self, x: &Tensor) -> Compute<Tensor> {
        let (b, c, h, w) = x.dims4()?;
        let pixels = self
            .norm
            .forward(x)?
            .reshape((b, c, h * w))?
            .transpose(1, 2)?
            .contiguous()?;
        let (q, k) = (self.to_q.forward(&pixels)?, self.to_k.forward(&pixels)?);
        let mixed = attention(&q, &k, &self.to_v.forward(&pixels)?, 1)?;
        let mixed = self.to_out.forward(&mixed)?.transpose(1, 2)?.contiguous()?;
        x + mixed.reshape((b, c, h, w))?
    }
}

struct Encoder {
    conv_in: Conv,
    levels: Vec<(Vec<Resnet>, Option<Downsample>)>,
    middle: Middle,
    norm_out: GroupNorm,
    conv_out: Conv,
}

impl Encoder {
    fn load(weights: &Weights, config: &VaeConfig) -> Result<Encoder, Error> {
        let channels = &config.channels;
        let last = channels[channels.len() - 1];
        let mut input = channels[0];
        let mut levels = Vec::with_capacity(channels.len());
        for (i, &output) in channels.iter().enumerate() {
            let level = weights.pp("down_blocks").pp(i);
            let blocks = resnets(&level.pp("resnets"), config, config.layers, input, output)?;
            let halves = i + 1 < channels.len();
            let down = halves
                .then(|| Downsample::load_pad_end(&level.pp("downsamplers.0"), output))
                .transpose()?;
            levels.push((blocks, down));
            input = output;
        }
        Ok(Encoder {
            conv_in: Conv::load(&weights.pp("conv_in"), 3, channels[0], ConvShape::SAME)?,
            levels,
            middle: Middle::load(&weights.pp("mid_block"), config, last)?,
            norm_out: GroupNorm::load(&weights.pp("conv_norm_out"), last, config.groups, EPS)?,
            conv_out: Conv::load(&weights.pp("conv_out"), last, 8, ConvShape::SAME)?,
        })
    }

    fn forward(&self, picture: &Tensor) -> Compute<Tensor> {
        let mut x = self.conv_in.forward(picture)?;
        for (blocks, down) in &self.levels {
            for block in blocks {
                x = block.forward(&x, None)?;
            }
            if let Some(down) = down {
                x = down.forward(&x)?;
            }
        }
        let x = self.middle.forward(&x)?;
        self.conv_out.forward(&self.norm_out.forward_silu(&x)?)
    }
}

struct Decoder {
    conv_in: Conv,
    middle: Middle,
    levels: Vec<(Vec<Resnet>, Option<Upsample>)>,
    norm_out: GroupNorm,
    conv_out: Conv,
}

impl Decoder {
    fn load(weights: &Weights, config: &VaeConfig) -> Result<Decoder, Error> {
        let channels = &config.channels;
        let last = channels[channels.len() - 1];
        let mut input = last;
        let mut levels = Vec::with_capacity(channels.len());
        for (i, &output) in channels.iter().rev().enumerate() {
            let level = weights.pp("up_blocks").pp(i);
            let blocks = resnets(
                &level.pp("resnets"),
                config,
                config.layers + 1,
                input,
                output,
            )?;
            let enlarges = i + 1 < channels.len();
            let up = enlarges
                .then(|| Upsample::load(&level.pp("upsamplers.0"), output))
                .transpose()?;
            levels.push((blocks, up));
            input = output;
        }
        Ok(Decoder {
            conv_in: Conv::load(&weights.pp("conv_in"), 4, last, ConvShape::SAME)?,
            middle: Middle::load(&weights.pp("mid_block"), config, last)?,
            levels,
            norm_out: GroupNorm::load(
                &weights.pp("conv_norm_out"),
                channels[0],
                config.groups,
                EPS,
            )?,
            conv_out: Conv::load(&weights.pp("conv_out"), channels[0], 3, ConvShape::SAME)?,
        })
    }

    fn forward(&self, latents: &Tensor) -> Compute<Tensor> {
        let mut x = self.middle.forward(&self.conv_in.forward(latents)?)?;
        for (blocks, up) in &self.levels {
            for block in blocks {
                x = block.forward(&x, None)?;
            }
            if let Some(up) = up {
                let (_, _, h, w) = x.dims4()?;
                x = up.forward(&x, (2 * h, 2 * w))?;
            }
        }
        self.conv_out.forward(&self.norm_out.forward_silu(&x)?)
    }
}

#[cfg(test)]
mod tests;
