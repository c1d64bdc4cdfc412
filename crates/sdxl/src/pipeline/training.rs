//! What training over a loaded model needs of it: its parts as they are, and captions a batch at a time.

use candle_core::Tensor;

use super::Sdxl;
use crate::Error;
use crate::unet::UNet;
use crate::vae::Vae;

impl Sdxl {
    /// The UNet. Its weights are the files', so that no gradient is computed of them.
    pub fn unet(&self) -> &UNet {
        &self.unet
    }

    /// The autoencoder, in f32.
    pub fn vae(&self) -> &Vae {
        &self.vae
    }

    /// Pixels of a picture for one of its latents, in height and width.
    pub fn factor(&self) -> usize {
        self.factor
    }

    /// What captions condition the UNet on: states [n, tokens, width] of the penultimate layers, and pooled texts [n, projection].
    /// Unlike prompts, captions are words and nothing else (a bracket is a bracket), and what goes beyond one window is cut off.
    ///
    /// # Errors
    /// A character that a tokenizer does not know; a failing device.
    pub fn captions(&self, captions: &[String]) -> Result<(Tensor, Tensor), Error> {
        self.text.captions(captions)
    }
}
