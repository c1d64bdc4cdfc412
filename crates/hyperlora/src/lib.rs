//! HyperLoRA on candle: from CLIP states and a face embedding to coefficients ([`Encoder`]), and from
//! coefficients to a LoRA for the attention matrices of SDXL ([`Basis`]). Several LoRAs, imported ones
//! too ([`Lora::load`]), become one update per matrix ([`Stack`]).
//!
//! Files are those of the released models; every size that a tensor's shape tells is read from it, and
//! what does not fit is refused with the file, the tensor, and both shapes. Weights may be f32, f16 or
//! bf16 on disk; all arithmetic is f32.

mod basis;
mod clip;
mod cpu;
mod encoder;
mod error;
mod files;
mod import;
mod lora;
mod names;
mod ops;
mod product;
mod provenance;
mod random;
mod resampler;
mod sizes;
mod stack;
mod write;

pub use basis::{Basis, Kind};
pub use clip::{ClipImage, ClipVision};
pub use encoder::{Encoder, Inputs};
pub use error::{Error, Problem};
pub use import::Imported;
pub use lora::{Lora, LoraMatrix};
pub use names::{Attention, Block, Naming, Place, Projection};
pub use provenance::Provenance;
pub use sizes::{ClipSizes, ResamplerSizes, Sizes, Transformers};
pub use stack::{Stack, Update};
