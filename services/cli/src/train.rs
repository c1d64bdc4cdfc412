//! `likeness train …`: models from a recipe.

use std::ops::ControlFlow;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Device;
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use likeness_sdxl::DeviceName;
use likeness_train::Ranks;
use likeness_train::base::{self, Watch};
use likeness_train::hyperlora;
use likeness_train::recipe::Recipe;
use likeness_train::run::{Ended, Progress};

use crate::fail::{Failure, failed};

/// What to train.
#[derive(Subcommand)]
pub enum TrainCommand {
    /// A base model: autoencoder, encoders of text, pictures and faces, and UNet.
    Base(TrainArgs),
    /// A HyperLoRA in the paper's three stages, and its base before it where that is not trained yet.
    Hyperlora(HyperLoraArgs),
    /// What tells attributes of drawn people in an evaluation. It is part of no bundle.
    Judge(TrainArgs),
}

/// What every training takes.
#[derive(Args)]
pub struct TrainArgs {
    /// The recipe, a TOML file such as `configs/pocket.toml`.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The folder for weights, checkpoints, loss curves and sheets. A training that was stopped goes on from what is there.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// `cpu` or `cuda:N`.
    #[arg(long, default_value = "cpu")]
    device: DeviceName,
}

/// How many threads candle takes for elementwise operations.
const CANDLE_THREADS: &str = "CANDLE_NUM_THREADS";

/// What a HyperLoRA's training takes beside.
#[derive(Args)]
pub struct HyperLoraArgs {
    #[command(flatten)]
    train: TrainArgs,
    /// How many workers train together, each a process with a GPU of its own; over a bundle's base only.
    #[arg(long, default_value_t = 1)]
    world: usize,
    /// Which of them this is, from 0.
    #[arg(long, default_value_t = 0)]
    rank: usize,
    /// The file by which they meet, which all of them see. It must not be there from an earlier run.
    #[arg(long, value_name = "FILE")]
    meet: Option<PathBuf>,
}

/// Runs a training.
pub fn run(command: &TrainCommand) -> Result<(), Failure> {
    one_candle_thread()?;
    match command {
        TrainCommand::Base(args) => train(args, base::train),
        TrainCommand::Hyperlora(args) => train(&args.train, |recipe, out, device, watch| {
            let ranks = ranks(args, device)?;
            hyperlora::train_with(recipe, out, device, &ranks, watch)
        }),
        TrainCommand::Judge(args) => train(args, base::train_judge),
    }
}

/// Begins again with one thread for candle's elementwise operations, unless somebody has set how many. Its threads wait for each
/// other spinning, and for one another's callers: half of all time goes there when a step's parts run side by side. Candle asks
/// the environment, which a running program cannot change safely.
#[allow(
    clippy::disallowed_methods,
    reason = "candle's own setting, which it reads from there"
)]
fn one_candle_thread() -> Result<(), Failure> {
    if std::env::var_os(CANDLE_THREADS).is_some() {
        return Ok(());
    }
    let own = std::env::current_exe().map_err(failed)?;
    let mut again = std::process::Command::new(own);
    again.args(std::env::args_os().skip(1));
    // Returns only when it failed.
    Err(failed(again.env(CANDLE_THREADS, "1").exec()))
}

#[cfg(feature = "nccl")]
fn ranks(args: &HyperLoraArgs, device: &Device) -> Result<Ranks, likeness_train::Error> {
    match &args.meet {
        Some(file) => Ranks::nccl(args.rank, args.world, device, file),
        None if args.world == 1 => Ok(Ranks::One),
        None => Err(likeness_train::Error::Meeting {
            reason: "--meet is missing".to_owned(),
        }),
    }
}

#[cfg(not(feature = "nccl"))]
fn ranks(args: &HyperLoraArgs, _: &Device) -> Result<Ranks, likeness_train::Error> {
    if args.world == 1 && args.meet.is_none() {
        return Ok(Ranks::One);
    }
    Err(likeness_train::Error::Meeting {
        reason: "this program was built without the feature `nccl`".to_owned(),
    })
}

fn train(
    args: &TrainArgs,
    training: impl FnOnce(
        &Recipe,
        &Path,
        &Device,
        &mut Watch<'_>,
    ) -> Result<Ended, likeness_train::Error>,
) -> Result<(), Failure> {
    let recipe = Recipe::read(&args.config).map_err(failed)?;
    let device = args.device.open().map_err(failed)?;
    let stopped = stop_on_interrupt()?;
    let bar = Bar::default();
    let mut watch = |progress: Progress<'_>| bar.show(progress, &stopped);
    let ended = training(&recipe, &args.out, &device, &mut watch).map_err(failed)?;
    report(ended, args)
}

#[allow(clippy::print_stderr, reason = "the command line's own output")]
fn report(ended: Ended, args: &TrainArgs) -> Result<(), Failure> {
    if ended == Ended::Stopped {
        return Err(Failure::new(format!(
            "stopped; the same command goes on from the checkpoint in {}",
            args.out.display()
        )));
    }
    eprintln!("done: {}", args.out.display());
    Ok(())
}

/// True after the first interrupt: the stage then saves its checkpoint and ends. A second one ends the process.
fn stop_on_interrupt() -> Result<Arc<AtomicBool>, Failure> {
    let stopped = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&stopped);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    let wait = move || {
        runtime.block_on(async {
            while tokio::signal::ctrl_c().await.is_ok() {
                if seen.swap(true, Ordering::Relaxed) {
                    std::process::exit(130);
                }
            }
        });
    };
    std::thread::Builder::new()
        .name("interrupt".to_owned())
        .spawn(wait)
        .map_err(failed)?;
    Ok(stopped)
}

/// A progress bar for each stage.
struct Bar(ProgressBar);

impl Default for Bar {
    fn default() -> Self {
        let style = "{prefix:12} {wide_bar} {pos}/{len} {msg} {eta}";
        let style = ProgressStyle::with_template(style);
        Self(ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())))
    }
}

impl Bar {
    fn show(&self, progress: Progress<'_>, stopped: &AtomicBool) -> ControlFlow<()> {
        if self.0.prefix() != progress.stage {
            self.0.reset();
            self.0.set_prefix(progress.stage.to_owned());
        }
        self.0.set_length(progress.steps);
        self.0.set_position(progress.done);
        let Progress {
            loss,
            rate,
            skipped,
            ..
        } = progress;
        let left_out = match skipped {
            0 => String::new(),
            count => format!(", {count} samples left out"),
        };
        self.0
            .set_message(format!("loss {loss:.4}, {rate:.2}/s{left_out}"));
        if stopped.load(Ordering::Relaxed) {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }
}
