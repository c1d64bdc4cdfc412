//! SDXL in one `.safetensors` file, as ComfyUI and the original training code name its tensors: what
//! such a file is, which sizes its model has, and which of its tensors is which of diffusers'.
//!
//! Only names and shapes are looked at; nothing here opens a file or holds a number.

mod kind;
mod names;
mod sizes;

use std::collections::BTreeMap;

pub use kind::{NotSdxl, ignorable, recognise};
pub use names::{Form, Source};
pub use sizes::{Configs, Sizes};

/// Every tensor of a file: its name and shape.
pub type Shapes = BTreeMap<String, Vec<usize>>;

/// One of the models within the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// CLIP ViT-L's text encoder.
    TextEncoder,
    /// OpenCLIP ViT-bigG's text encoder.
    TextEncoder2,
    /// The UNet.
    Unet,
    /// The autoencoder.
    Vae,
}

impl Part {
    /// All, in the order in which they are used.
    pub const ALL: [Part; 4] = [Part::TextEncoder, Part::TextEncoder2, Part::Unet, Part::Vae];

    /// The name of its folder in diffusers' layout.
    pub fn folder(self) -> &'static str {
        match self {
            Part::TextEncoder => "text_encoder",
            Part::TextEncoder2 => "text_encoder_2",
            Part::Unet => "unet",
            Part::Vae => "vae",
        }
    }

    /// How the names of its tensors start.
    pub fn prefix(self) -> &'static str {
        match self {
            Part::TextEncoder => "conditioner.embedders.0.transformer.",
            Part::TextEncoder2 => "conditioner.embedders.1.model.",
            Part::Unet => "model.diffusion_model.",
            Part::Vae => "first_stage_model.",
        }
    }
}

/// Whether any tensor's name starts so.
pub(crate) fn has(shapes: &Shapes, prefix: &str) -> bool {
    let mut from = shapes.range(prefix.to_owned()..);
    from.next()
        .is_some_and(|(name, _)| name.starts_with(prefix))
}
