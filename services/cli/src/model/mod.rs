//! Models without any server: one step each, from files to files, for people who debug a bundle and for
//! comparisons with other implementations.

mod coefficients;
mod crops;
mod encode;
mod inputs;
mod photo;
mod sample;
mod synthesize;
mod tensors;
mod timings;
mod whole;

use clap::Subcommand;

use crate::{args::Output, fail::Failure};

/// Which step to run.
#[derive(Subcommand)]
pub enum ModelCommand {
    /// From a photo to what CLIP and ArcFace see of it.
    Photo(photo::PhotoArgs),
    /// From photos, or from what the encoder sees of them, to coefficients.
    Encode(encode::EncodeArgs),
    /// From coefficients to a LoRA file that other programs load.
    Synthesize(synthesize::SynthesizeArgs),
    /// From a prompt, and whom to show, to a picture.
    Sample(Box<sample::SampleArgs>),
}

/// Runs a step.
pub fn run(command: &ModelCommand, output: Output) -> Result<(), Failure> {
    match command {
        ModelCommand::Photo(args) => photo::photo(args, output),
        ModelCommand::Encode(args) => encode::encode(args, output),
        ModelCommand::Synthesize(args) => synthesize::synthesize(args, output),
        ModelCommand::Sample(args) => sample::sample(args, output),
    }
}
