//! What can go wrong in training.

use std::path::PathBuf;

/// Why a step or a checkpoint failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The tensor library drops some gradients without a word; a weight without one would stay as it is for the whole run.
    #[error(
        "the loss gives no gradient to `{name}`: freeze it, or use operations that have gradients"
    )]
    NoGradient {
        /// The variable.
        name: String,
    },
    /// Going on would spoil every weight.
    #[error(
        "the gradient's norm is {norm} at step {step}: lower the learning rate, or look for a damaged sample"
    )]
    NotFinite {
        /// NaN or infinity.
        norm: f64,
        /// The step that was not taken.
        step: u64,
    },
    /// A checkpoint that cannot be read or written.
    #[error("checkpoint {}: {reason}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what was expected.
        reason: String,
    },
    /// The system starts no more threads.
    #[error("threads for the parts of a step: {reason}; end other programs, or set `parts = 1`")]
    Threads {
        /// What it said.
        reason: String,
    },
    /// A recipe that cannot be followed.
    #[error("the recipe's {reason}")]
    Recipe {
        /// Where, and what was expected.
        reason: String,
    },
    /// A file of the run that cannot be written.
    #[error("{} cannot be written: {reason}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A file of a model needs all of its weights.
    #[error("`{name}` is not among the trained weights")]
    NotTrained {
        /// The missing one.
        name: String,
    },
    /// A low-rank update is made for whole attentions.
    #[error("the UNet's {module} lacks one of to_q, to_k, to_v and to_out.0")]
    Attention {
        /// Which one.
        module: String,
    },
    /// A worker that there is not.
    #[error("there is no worker {rank} of {world}; expected a rank from 0 to one less than world")]
    Rank {
        /// Its number.
        rank: usize,
        /// How many there are.
        world: usize,
    },
    /// Workers that do not find each other.
    #[error("the workers of this training do not meet: {reason}")]
    Meeting {
        /// Why not.
        reason: String,
    },
    /// A checkpoint's place in the data that cannot be read.
    #[error("the checkpoint {reason}; start the stage afresh")]
    Place {
        /// What is wrong with it.
        reason: String,
    },
    /// A whole epoch of data without one sample that can be used.
    #[error("no sample of a whole epoch can be used: {left}check the data, or `smallest_face`")]
    NoFaces {
        /// What was left out, and why.
        left: String,
    },
    /// The thread that reads the data is gone without having said why.
    #[error("the thread that reads the data died; run the same command again, and report this")]
    ReaderGone,
    /// Shards that cannot be read.
    #[error(transparent)]
    Data(#[from] likeness_webdataset::Error),
    /// A bundle that cannot be opened.
    #[error(transparent)]
    Bundle(#[from] likeness_bundle::Error),
    /// CLIP's vision tower.
    #[error(transparent)]
    Clip(#[from] likeness_hyperlora::Error),
    /// A face model that does not work.
    #[error(transparent)]
    Face(#[from] likeness_face::FaceError),
    /// A part of the model that is misshapen or cannot compute.
    #[error(transparent)]
    Model(#[from] likeness_sdxl::Error),
    /// A failing device, or shapes that do not fit.
    #[error(transparent)]
    Compute(#[from] candle_core::Error),
}
