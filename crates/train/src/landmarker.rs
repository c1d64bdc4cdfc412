//! A model of 106 landmarks as it is trained, with 2d106det's input and output.

use candle_core::{Device, Result as Compute, Tensor};
use image::RgbImage;
use likeness_sdxl::parts::{ConvShape, Linear, Weights};

use crate::Error;
use crate::crops::planes;
use crate::layer::{HALVING, Layer, prelu};

/// Side of the picture that it looks at.
pub const SIDE: usize = 192;
/// Channels before and after each convolution, on 192, 48, 24, 12, 6 and 3 pixels a side.
pub const CHANNELS: [usize; 6] = [3, 16, 24, 32, 48, 48];
/// Side of what the last convolution gives.
pub const LAST_SIDE: usize = 3;
/// Numbers between the two linear layers.
pub const HIDDEN: usize = 128;
/// x and y of each landmark.
pub const NUMBERS: usize = 212;
/// The first convolution: most of the picture's pixels are not needed.
pub const FIRST: ConvShape = ConvShape {
    kernel: 5,
    stride: 4,
    padding: 2,
};

/// The model.
pub struct Landmarker {
    layers: Vec<Layer>,
    hidden: Linear,
    slope: Tensor,
    last: Linear,
}

impl Landmarker {
    /// From the ONNX file's names.
    ///
    /// # Errors
    /// Missing tensors and wrong shapes.
    pub fn load(weights: &Weights) -> Result<Landmarker, Error> {
        let layers = CHANNELS.windows(2).enumerate().map(|(n, pair)| {
            let shape = if n == 0 { FIRST } else { HALVING };
            Layer::load(weights, n, (pair[0], pair[1]), shape)
        });
        let features = CHANNELS[CHANNELS.len() - 1] * LAST_SIDE * LAST_SIDE;
        Ok(Landmarker {
            layers: layers.collect::<Result<_, Error>>()?,
            hidden: Linear::load(&weights.pp("hidden"), features, HIDDEN)?,
            slope: weights.get("bent.slope", &[HIDDEN])?,
            last: Linear::load(&weights.pp("fc"), HIDDEN, NUMBERS)?,
        })
    }

    /// Views of faces [b, 3, 192, 192] in levels from 0 to 255 to places [b, 212] from −1 to 1.
    ///
    /// # Errors
    /// Shapes that do not fit; a failing device.
    pub fn forward(&self, views: &Tensor) -> Compute<Tensor> {
        let mut x = ((views - 127.5)? / 128.0)?;
        for layer in &self.layers {
            x = layer.forward(&x)?;
        }
        let x = self.hidden.forward(&x.flatten_from(1)?)?;
        self.last.forward(&prelu(&x, &self.slope)?)
    }
}

/// Views of faces as it looks at them.
///
/// # Errors
/// A failing device.
pub fn views(views: &[&RgbImage], device: &Device) -> Compute<Tensor> {
    planes(views, device, |level| level)
}
