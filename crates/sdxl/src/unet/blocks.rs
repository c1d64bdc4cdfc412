//! The UNet's levels, down, middle and up.

use candle_core::{Result as Compute, Tensor};

use super::Context;
use super::segments::{Segment, given};
use super::transformer::{SpatialTransformer, TransformerConfig};
use crate::Error;
use crate::config::{LevelConfig, UNetConfig};
use crate::merge::Matrices;
use crate::resnet::{Downsample, Resnet, ResnetConfig, Upsample};
use crate::weights::Weights;

/// A residual block and the transformer behind it, if the level has attention.
struct Layer {
    resnet: Resnet,
    transformer: Option<SpatialTransformer>,
}

/// What loading a level needs beside its own sizes.
struct Loader<'a> {
    weights: Weights,
    matrices: &'a mut Matrices,
    config: &'a UNetConfig,
}

impl Loader<'_> {
    fn resnet(&self, index: usize, input: usize, output: usize) -> Result<Resnet, Error> {
        let config = ResnetConfig {
            input,
            output,
            time: Some(4 * self.config.down[0].channels),
            groups: self.config.groups,
            eps: self.config.norm_eps,
        };
        Resnet::load(&self.weights.pp("resnets").pp(index), config)
    }

    fn transformer(
        &mut self,
        index: usize,
        level: &LevelConfig,
    ) -> Result<SpatialTransformer, Error> {
        let config = TransformerConfig {
            channels: level.channels,
            heads: level.heads,
            layers: level.transformers,
            context: self.config.cross_attention_dim,
            groups: self.config.groups,
            linear_projection: self.config.linear_projection,
        };
        let weights = self.weights.pp("attentions").pp(index);
        SpatialTransformer::load(&weights, self.matrices, config)
    }

    fn layer(&mut self, index: usize, input: usize, level: &LevelConfig) -> Result<Layer, Error> {
        let resnet = self.resnet(index, input, level.channels)?;
        let attention = level.transformers > 0;
        let transformer = attention
            .then(|| self.transformer(index, level))
            .transpose()?;
        Ok(Layer {
            resnet,
            transformer,
        })
    }
}

impl Layer {
    fn forward(&self, x: &Tensor, time: &Tensor, context: &Context<'_>) -> Compute<Tensor> {
        let x = self.resnet.forward(x, Some(time))?;
        match &self.transformer {
            None => Ok(x),
            Some(transformer) => transformer.forward(&x, context),
        }
    }

    /// The same in pieces. A layer of the way up takes a skip, one of the way down is kept as a skip.
    fn segments<'a>(&'a self, way: Way, segments: &mut Vec<Segment<'a>>) {
        let kept = way == Way::Down;
        let own = kept && self.transformer.is_none();
        segments.push(if way == Way::Up {
            Segment::taking(|x, skip, pass| {
                let x = Tensor::cat(&[x, skip], 1)?;
                Ok(given(self.resnet.forward(&x, Some(&pass.time))?, false))
            })
        } else {
            Segment::plain(false, move |x, _, pass| {
                Ok(given(self.resnet.forward(x, Some(&pass.time))?, own))
            })
        });
        if let Some(transformer) = &self.transformer {
            transformer.segments(kept, segments);
        }
    }
}

/// Which part of the UNet a layer belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Down,
    Middle,
    Up,
}

/// One level on the way down; all but the last halve the size.
pub struct DownBlock {
    layers: Vec<Layer>,
    downsample: Option<Downsample>,
}

/// Loads `down_blocks`.
pub fn load_down(
    weights: &Weights,
    matrices: &mut Matrices,
    config: &UNetConfig,
) -> Result<Vec<DownBlock>, Error> {
    let mut input = config.down[0].channels;
    let mut blocks = Vec::with_capacity(config.down.len());
    for (i, level) in config.down.iter().enumerate() {
        let mut loader = Loader {
            weights: weights.pp(i),
            matrices,
            config,
        };
        let mut layers = Vec::with_capacity(level.layers);
        for index in 0..level.layers {
            layers.push(loader.layer(index, input, level)?);
            input = level.channels;
        }
        let halves = i + 1 < config.down.len();
        let downsample = halves
            .then(|| Downsample::load(&loader.weights.pp("downsamplers.0"), level.channels))
            .transpose()?;
        blocks.push(DownBlock { layers, downsample });
    }
    Ok(blocks)
}

impl DownBlock {
    /// Pushes what the way up will need onto `skips`.
    pub fn forward(
        &self,
        x: &Tensor,
        time: &Tensor,
        context: &Context<'_>,
        skips: &mut Vec<Tensor>,
    ) -> Compute<Tensor> {
        let mut x = x.clone();
        for layer in &self.layers {
            x = layer.forward(&x, time, context)?;
            skips.push(x.clone());
        }
        if let Some(downsample) = &self.downsample {
            x = downsample.forward(&x)?;
            skips.push(x.clone());
        }
        Ok(x)
    }
}

impl DownBlock {
    /// The same in pieces.
    pub fn segments<'a>(&'a self, segments: &mut Vec<Segment<'a>>) {
        for layer in &self.layers {
            layer.segments(Way::Down, segments);
        }
        if let Some(downsample) = &self.downsample {
            segments.push(Segment::plain(false, |x, _, _| {
                Ok(given(downsample.forward(x)?, true))
            }));
        }
    }
}

/// Residual block, transformer, residual block at the lowest resolution.
pub struct MidBlock {
    first: Layer,
    last: Resnet,
}

impl MidBlock {
    pub fn load(
        weights: &Weights,
        matrices: &mut Matrices,
        config: &UNetConfig,
    ) -> Result<MidBlock, Error> {
        let channels = config.mid.channels;
        let mut loader = Loader {
            weights: weights.clone(),
            matrices,
            config,
        };
        Ok(MidBlock {
            first: loader.layer(0, channels, &config.mid)?,
            last: loader.resnet(1, channels, channels)?,
        })
    }

    pub fn forward(&self, x: &Tensor, time: &Tensor, context: &Context<'_>) -> Compute<Tensor> {
        self.last
            .forward(&self.first.forward(x, time, context)?, Some(time))
    }

    /// The same in pieces.
    pub fn segments<'a>(&'a self, segments: &mut Vec<Segment<'a>>) {
        self.first.segments(Way::Middle, segments);
        segments.push(Segment::plain(false, |x, _, pass| {
            Ok(given(self.last.forward(x, Some(&pass.time))?, false))
        }));
    }
}

/// One level on the way up; all but the last enlarge.
pub struct UpBlock {
    layers: Vec<Layer>,
    upsample: Option<Upsample>,
}

/// Loads `up_blocks`. Each residual block takes one skip: their channels mirror the way down.
pub fn load_up(
    weights: &Weights,
    matrices: &mut Matrices,
    config: &UNetConfig,
) -> Result<Vec<UpBlock>, Error> {
    let mut skips = skip_channels(config);
    let mut input = config.mid.channels;
    let mut blocks = Vec::with_capacity(config.up.len());
    for (i, level) in config.up.iter().enumerate() {
        let mut loader = Loader {
            weights: weights.pp(i),
            matrices,
            config,
        };
        let mut layers = Vec::with_capacity(level.layers + 1);
        for index in 0..=level.layers {
            let skip = skips.pop().unwrap_or_default();
            layers.push(loader.layer(index, input + skip, level)?);
            input = level.channels;
        }
        let enlarges = i + 1 < config.up.len();
        let upsample = enlarges
            .then(|| Upsample::load(&loader.weights.pp("upsamplers.0"), level.channels))
            .transpose()?;
        blocks.push(UpBlock { layers, upsample });
    }
    Ok(blocks)
}

/// Channels of the skips in the order in which the way down pushes them.
fn skip_channels(config: &UNetConfig) -> Vec<usize> {
    let mut skips = vec![config.down[0].channels];
    for (i, level) in config.down.iter().enumerate() {
        let halves = usize::from(i + 1 < config.down.len());
        skips.extend(std::iter::repeat_n(level.channels, level.layers + halves));
    }
    skips
}

impl UpBlock {
    /// Pops this level's skips; enlarges to the size of the next skip.
    pub fn forward(
        &self,
        x: &Tensor,
        time: &Tensor,
        context: &Context<'_>,
        skips: &mut Vec<Tensor>,
    ) -> Compute<Tensor> {
        let mut x = x.clone();
        for layer in &self.layers {
            if let Some(skip) = skips.pop() {
                x = layer.forward(&Tensor::cat(&[&x, &skip], 1)?, time, context)?;
            }
        }
        match (&self.upsample, skips.last()) {
            (Some(upsample), Some(skip)) => {
                let (_, _, height, width) = skip.dims4()?;
                upsample.forward(&x, (height, width))
            }
            _ => Ok(x),
        }
    }

    /// The same in pieces.
    pub fn segments<'a>(&'a self, segments: &mut Vec<Segment<'a>>) {
        for layer in &self.layers {
            layer.segments(Way::Up, segments);
        }
        if let Some(upsample) = &self.upsample {
            segments.push(Segment::plain(false, |x, held, _| match held.last() {
                Some(skip) => {
                    let (_, _, height, width) = skip.dims4()?;
                    Ok(given(upsample.forward(x, (height, width))?, false))
                }
                None => Ok(given(x.clone(), false)),
            }));
        }
    }
}
