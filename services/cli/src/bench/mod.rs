//! `likeness bench …`: how fast this machine does the main steps, on random weights, beside what its memory and its
//! arithmetic units allow.

mod count;
mod enroll;
mod machine;
mod report;
mod sample;
mod swap;

use candle_core::{DType, Device};
use clap::{Args, Subcommand, ValueEnum};
use likeness_hyperlora::Sizes;
use likeness_sdxl::{DeviceName, NumberType};

use crate::{
    args::Output,
    fail::{Failure, failed},
};

/// What to measure.
#[derive(Subcommand)]
pub enum BenchCommand {
    /// Another identity into the weights: synthesis of its LoRA and merge into all attention matrices.
    Swap(swap::SwapArgs),
    /// Steps of the U-Net, and the decoding of a picture.
    Sample(sample::SampleArgs),
    /// From a photo's crops to coefficients: CLIP, id projector and resampler.
    Enroll(enroll::EnrollArgs),
}

/// Runs a bench.
pub fn run(command: &BenchCommand, output: Output) -> Result<(), Failure> {
    match command {
        BenchCommand::Swap(args) => swap::swap(args, output),
        BenchCommand::Sample(args) => sample::sample(args, output),
        BenchCommand::Enroll(args) => enroll::enroll(args, output),
    }
}

/// What all benches take.
#[derive(Args)]
pub struct Common {
    /// Released sizes, or tiny ones that take a moment.
    #[arg(long, value_enum, default_value_t = Size::Full)]
    size: Size,
    /// `cpu` or `cuda:N`.
    #[arg(long, default_value = "cpu")]
    device: DeviceName,
    /// Measured runs; one more goes before them, unmeasured.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    runs: u32,
    /// Start of the random numbers.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// How large the models are.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Size {
    Pocket,
    Full,
}

impl Size {
    fn name(self) -> &'static str {
        match self {
            Self::Pocket => "pocket",
            Self::Full => "full",
        }
    }

    /// HyperLoRA's sizes.
    fn hyperlora(self) -> Sizes {
        match self {
            Self::Pocket => Sizes::pocket(),
            Self::Full => Sizes::released(),
        }
    }
}

/// An opened device and what to compute in there.
struct Place {
    device: Device,
    dtype: DType,
}

impl Common {
    /// Opens the device. `asked` is the number type of the weights.
    fn place(&self, asked: Option<NumberType>) -> Result<Place, Failure> {
        let dtype = self.device.number_type(asked);
        Ok(Place {
            dtype: dtype
                .map_err(|error| Failure::usage(error.to_string()))?
                .into(),
            device: self.device.open().map_err(failed)?,
        })
    }
}

impl Place {
    /// Waits until the device has done all that it was told.
    fn wait(&self) -> Result<(), Failure> {
        self.device.synchronize().map_err(failed)
    }
}
