//! What every training run needs: gradients that are complete, an optimiser whose steps repeat to the bit, and checkpoints
//! that a run resumes from as if it had never stopped.
//!
//! Nothing here keeps a generator of random numbers: what a step draws follows from the seed, the step and what it is drawn
//! for ([`Chance`]), so a checkpoint is the weights, the optimiser's moments and a step count.

mod adam;
pub mod attributes;
pub mod autoencoder;
pub mod base;
mod chance;
mod checkpoint;
pub mod contrast;
mod cores;
pub mod crops;
pub mod denoise;
pub mod detector;
mod error;
pub mod export;
mod gradients;
pub mod hyperlora;
pub mod hypernetwork;
pub mod judge;
pub mod landmarker;
mod layer;
mod pictures;
mod ranks;
mod rate;
pub mod recipe;
pub mod recognizer;
mod record;
pub mod run;
pub mod scenes;
pub mod vision;

pub use adam::{AdamW, Group, Settings};
pub use chance::Chance;
pub use checkpoint::{load, save};
pub use error::Error;
pub use gradients::Gradients;
pub use pictures::{images, pictures};
pub use ranks::Ranks;
pub use rate::Rate;

use likeness_chart as chart;
