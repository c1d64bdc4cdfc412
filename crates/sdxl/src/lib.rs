//! SDXL text to image on candle: text encoders, UNet, autoencoder, samplers, and low-rank updates
//! merged into the UNet's attention weights. Synchronous, device and number type are parameters.
//!
//! ```no_run
//! # fn main() -> Result<(), likeness_sdxl::Error> {
//! use std::ops::ControlFlow;
//! use likeness_sdxl::{LoadOptions, SampleRequest, Scheduler, Sdxl};
//!
//! let device = candle_core::Device::Cpu;
//! let options = LoadOptions { device, dtype: candle_core::DType::F32 };
//! let model = Sdxl::load(std::path::Path::new("sdxl"), &options)?;
//! let request = SampleRequest {
//!     prompt: "a lighthouse at dusk".to_owned(),
//!     negative_prompt: None,
//!     width: 1024,
//!     height: 1024,
//!     steps: 20,
//!     guidance: 3.5,
//!     guidance_rescale: 0.0,
//!     scheduler: Scheduler::Dpmpp2mKarras,
//!     seed: 7,
//!     clip_skip: 2,
//!     init: None,
//! };
//! let picture = model.sample(&request, &mut |_| ControlFlow::Continue(()))?;
//! # drop(picture);
//! # Ok(())
//! # }
//! ```

#![allow(
    clippy::inline_always,
    reason = "what runs inside a dispatch to wide registers is compiled for them only where it is inlined"
)]

mod attention;
mod config;
mod conv;
mod cpu;
mod device;
mod direct;
mod error;
mod gradients;
mod layers;
mod merge;
mod noise;
#[cfg(test)]
mod parity;
mod pipeline;
mod preview;
mod prompt;
mod random;
mod resnet;
mod schedulers;
#[cfg(test)]
mod testing;
mod text;
mod tokenizer;
mod unet;
mod upsample;
mod vae;
mod weights;
mod work;

/// The model's parts, for training: each loads from [`Variables`](parts::Variables) as from files, and gradients flow
/// through its fast operations.
pub mod parts {
    pub use crate::attention::attention;
    pub use crate::config::{TextConfig, UNetConfig, VaeConfig};
    pub use crate::conv::{Conv, ConvShape};
    pub use crate::layers::{GroupNorm, LayerNorm, Linear, apply_linear};
    pub use crate::text::{ClipSkip, TextEncoder, TextStates};
    pub use crate::tokenizer::Tokenizer;
    pub use crate::unet::{Conditioning, UNet};
    pub use crate::vae::Vae;
    pub use crate::weights::{Variables, Weights};
}

pub use config::SdxlConfig;
pub use device::{DeviceError, DeviceName, NumberType, device_class, device_model};
pub use error::Error;
pub use likeness_checkpoint::NotSdxl;
pub use merge::{AttentionMatrix, BareMatrices, LowRankUpdate, Unmerged};
pub use noise::TorchNoise;
pub use pipeline::{
    BatchKey, Init, LoadOptions, OnStep, PromptEmbeddings, Sample, SampleRequest, Sdxl, SizeLimits,
    Step,
};
pub use prompt::{has_trigger, with_trigger};
pub use schedulers::Scheduler;
pub use work::Work;
