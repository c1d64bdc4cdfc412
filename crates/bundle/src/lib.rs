//! Bundles: one versioned set of model files with a manifest, `bundle.toml`.
//!
//! [`Bundle::open`] reads the manifest; accessors hand out the parts' paths and say which section is
//! missing. Digests name a bundle and its encoder, [`Bundle::verify`] compares files with their hashes,
//! and [`pocket`] writes tiny bundles in the real formats: a trained one, and one of random weights for tests. Nothing here
//! loads a model: at most a file's header is read.

mod digest;
mod error;
mod hash;
mod inspect;
mod layout;
mod manifest;
mod open;
pub mod pocket;
#[cfg(feature = "pull")]
pub mod pull;
mod verify;

pub use digest::PREPROCESSING_VERSION;
pub use error::Error;
pub use hash::Hashed;
pub use inspect::{Component, FileReport, Inspection, PartReport, Problem};
pub use manifest::{
    About, Builtin, Defaults, Face, HyperLora, MANIFEST, Manifest, Model, Name, Part, RelPath,
    Sha256,
};
pub use open::{Bundle, Detector, FacePart, HyperLoraPart, SdxlModel};
pub use verify::{Changed, Progress, Verification};
