//! The residual block that UNet and autoencoder share, and the resampling between levels.

use candle_core::{Result as Compute, Tensor};

use crate::Error;
use crate::conv::{Conv, ConvShape};
use crate::layers::{GroupNorm, Linear};
use crate::upsample::nearest;
use crate::weights::Weights;

/// Sizes of a residual block.
#[derive(Clone, Copy, Debug)]
pub struct ResnetConfig {
    /// Input channels.
    pub input: usize,
    /// Output channels.
    pub output: usize,
    /// Width of the time embedding, where there is one.
    pub time: Option<usize>,
    /// Groups of the norms.
    pub groups: usize,
    /// Epsilon of the norms.
    pub eps: f64,
}

/// Norm, SiLU, convolution, twice, with the time embedding added between and the input added after.
#[derive(Debug)]
pub struct Resnet {
    norm1: GroupNorm,
    conv1: Conv,
    time: Option<Linear>,
    norm2: GroupNorm,
    conv2: Conv,
    shortcut: Option<Conv>,
}

impl Resnet {
    /// Loads the block at `weights`.
    pub fn load(weights: &Weights, config: ResnetConfig) -> Result<Resnet, Error> {
        let ResnetConfig {
            input,
            output,
            time,
            groups,
            eps,
        } = config;
        let time = time.map(|width| Linear::load(&weights.pp("time_emb_proj"), width, output));
        let shortcut = (input != output).then(|| {
            Conv::load(
                &weights.pp("conv_shortcut"),
                input,
                output,
                ConvShape::POINT,
            )
        });
        Ok(Resnet {
            norm1: GroupNorm::load(&weights.pp("norm1"), input, groups, eps)?,
            conv1: Conv::load(&weights.pp("conv1"), input, output, ConvShape::SAME)?,
            time: time.transpose()?,
            norm2: GroupNorm::load(&weights.pp("norm2"), output, groups, eps)?,
            conv2: Conv::load(&weights.pp("conv2"), output, output, ConvShape::SAME)?,
            shortcut: shortcut.transpose()?,
        })
    }

    /// `x` [b, input, h, w]; `time` [b, t] is the SiLU of the time embedding.
    pub fn forward(&self, x: &Tensor, time: Option<&Tensor>) -> Compute<Tensor> {
        let mut h = self.conv1.forward(&self.norm1.forward_silu(x)?)?;
        if let (Some(project), Some(time)) = (&self.time, time) {
            h = h.broadcast_add(&project.forward(time)?.unsqueeze(2)?.unsqueeze(3)?)?;
        }
        let h = self.conv2.forward(&self.norm2.forward_silu(&h)?)?;
        match &self.shortcut {
            None => x + h,
            Some(shortcut) => shortcut.forward(x)? + h,
        }
    }
}

/// Halves a picture's sides with a strided convolution.
#[derive(Debug)]
pub struct Downsample {
    conv: Conv,
    /// The autoencoder pads only right and below.
    pad_end: bool,
}

impl Downsample {
    /// The UNet's: padding 1 on all sides.
    pub fn load(weights: &Weights, channels: usize) -> Result<Downsample, Error> {
        let conv = Conv::load(
            &weights.pp("conv"),
            channels,
            channels,
            ConvShape {
                kernel: 3,
                stride: 2,
                padding: 1,
            },
        )?;
        Ok(Downsample {
            conv,
            pad_end: false,
        })
    }

    /// The autoencoder's: one row and column of zeros at the end.
    pub fn load_pad_end(weights: &Weights, channels: usize) -> Result<Downsample, Error> {
        let conv = Conv::load(
            &weights.pp("conv"),
            channels,
            channels,
            ConvShape {
                kernel: 3,
                stride: 2,
                padding: 0,
            },
        )?;
        Ok(Downsample {
            conv,
            pad_end: true,
        })
    }

    /// [b, c, h, w] → [b, c, ⌈h/2⌉, ⌈w/2⌉] (⌊⌋ with end padding).
    pub fn forward(&self, x: &Tensor) -> Compute<Tensor> {
        if !self.pad_end {
            return self.conv.forward(x);
        }
        self.conv
            .forward(&x.pad_with_zeros(2, 0, 1)?.pad_with_zeros(3, 0, 1)?)
    }
}

/// Enlarges a picture by repeating pixels, then convolves.
#[derive(Debug)]
pub struct Upsample(Conv);

impl Upsample {
    /// Loads the convolution.
    pub fn load(weights: &Weights, channels: usize) -> Result<Upsample, Error> {
        Ok(Upsample(Conv::load(
            &weights.pp("conv"),
            channels,
            channels,
            ConvShape::SAME,
        )?))
    }

    /// To the given height and width: twice the input's, or one less where the level below had an
    /// odd size.
    pub fn forward(&self, x: &Tensor, (height, width): (usize, usize)) -> Compute<Tensor> {
        self.0.forward(&nearest(x, height, width)?)
    }
}
