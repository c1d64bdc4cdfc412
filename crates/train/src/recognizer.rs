//! A face embedder as it is trained: convolutions that halve the picture, each with a PReLU, and a linear layer.

use candle_core::{Result as Compute, Tensor};
use likeness_sdxl::parts::{Linear, Weights};

use crate::Error;
use crate::layer::{HALVING, Layer};

/// Channels before and after each convolution, on 112, 56, 28, 14, 7 and 4 pixels a side.
pub const CHANNELS: [usize; 6] = [3, 16, 32, 48, 64, 32];
/// The aligned face's side in pixels, ArcFace's.
pub const SIDE: usize = 112;
/// The side of what the last convolution gives.
pub const LAST_SIDE: usize = 4;
/// Numbers of an embedding, ArcFace's.
pub const EMBEDDING: usize = 512;
/// The embedder.
pub struct Recognizer {
    stages: Vec<Layer>,
    last: Linear,
}

impl Recognizer {
    /// From the ONNX file's names.
    ///
    /// # Errors
    /// Missing tensors and wrong shapes.
    pub fn load(weights: &Weights) -> Result<Recognizer, Error> {
        let stages = CHANNELS.windows(2).enumerate();
        let stages = stages.map(|(n, pair)| Layer::load(weights, n, (pair[0], pair[1]), HALVING));
        let features = CHANNELS[CHANNELS.len() - 1] * LAST_SIDE * LAST_SIDE;
        Ok(Recognizer {
            stages: stages.collect::<Result<_, Error>>()?,
            last: Linear::load(&weights.pp("fc"), features, EMBEDDING)?,
        })
    }

    /// Aligned faces [b, 3, 112, 112] from -1 to 1 to embeddings [b, 512], not of unit length.
    ///
    /// # Errors
    /// Shapes that do not fit; a failing device.
    pub fn forward(&self, faces: &Tensor) -> Compute<Tensor> {
        let mut x = faces.clone();
        for stage in &self.stages {
            x = stage.forward(&x)?;
        }
        self.last.forward(&x.flatten_from(1)?)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use likeness_sdxl::parts::Variables;

    use super::*;
    use crate::attributes::Attributes;
    use crate::contrast::{loss, unit};
    use crate::crops::{Crops, crops, face_pictures};
    use crate::{AdamW, Gradients, Group, Settings};

    #[test]
    fn a_few_steps_bring_two_pictures_of_a_person_together() {
        let variables = Variables::new(1, &Device::Cpu);
        let weights = Weights::variables(&variables, &Device::Cpu);
        let embedder = Recognizer::load(&weights.pp("face")).unwrap();
        let attributes = Attributes::load(&weights.pp("attributes"), EMBEDDING).unwrap();
        let who: Vec<(u64, u64)> = (0..16).map(|n| (n / 2, n)).collect();
        let seen = crops(&who, 32, 1);
        let side = |of: usize| {
            let faces: Vec<_> = seen.iter().skip(of).step_by(2).map(Crops::face).collect();
            let faces = face_pictures(&faces, &Device::Cpu).unwrap();
            unit(&embedder.forward(&faces).unwrap()).unwrap()
        };
        let people: Vec<u64> = (0..8).collect();
        let all = variables.all();
        let mut adam = AdamW::new(&all, Settings::default(), |_, var| Group::of(var)).unwrap();
        let mut losses = Vec::new();
        for _ in 0..60 {
            let (left, right) = (side(0), side(1));
            let told = attributes.loss(&(&left * 20.0).unwrap(), &people).unwrap();
            let paired = loss(&left, &right, 0.1).unwrap();
            let total = (told + &paired).unwrap();
            losses.push(paired.to_scalar::<f32>().unwrap());
            // The gradient of every weight is there: nothing of the network is dropped.
            let gradients = Gradients::of(&total, &all).unwrap();
            adam.step(&gradients, 1e-3).unwrap();
        }
        assert!(losses[59] < 0.5 * losses[0], "{losses:?}");
    }
}
