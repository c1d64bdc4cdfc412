//! What can go wrong in an evaluation.

use std::path::PathBuf;

use likeness_domain::coefficients::CoefficientsError;

/// Why an evaluation ended early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something asked for that cannot be done.
    #[error("{0}")]
    Unfit(String),
    /// A file or folder that cannot be read.
    #[error("cannot read {}: {reason}", path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A file that cannot be written.
    #[error("cannot write {}: {reason}", path.display())]
    Write {
        /// Which one.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The bundle.
    #[error(transparent)]
    Bundle(#[from] likeness_bundle::Error),
    /// The face models.
    #[error(transparent)]
    Face(#[from] likeness_face::FaceError),
    /// The encoder, CLIP or the basis.
    #[error(transparent)]
    HyperLora(#[from] likeness_hyperlora::Error),
    /// The model that paints, or CLIP's text tower.
    #[error(transparent)]
    Sdxl(#[from] likeness_sdxl::Error),
    /// The judge.
    #[error(transparent)]
    Judge(#[from] likeness_train::Error),
    /// Coefficients that do not fit each other.
    #[error(transparent)]
    Coefficients(#[from] CoefficientsError),
    /// A failing device.
    #[error(transparent)]
    Compute(#[from] candle_core::Error),
}
