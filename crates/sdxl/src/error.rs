//! What can go wrong when a model is loaded, merged or sampled.

use std::path::{Path, PathBuf};

use likeness_checkpoint::NotSdxl;

/// One error type for the crate. No message holds a prompt or an identity's numbers.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A JSON file is not JSON, lacks a field or holds one of the wrong type.
    #[error("{}: not the configuration that was expected: {source}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A model of a kind that this crate cannot run.
    #[error("{}: {what}", path.display())]
    Unsupported {
        /// The file that says so.
        path: PathBuf,
        /// What is not supported, and what is.
        what: String,
    },
    /// A number type that the device does not compute with.
    #[error("cannot compute with {dtype} on {device}: take {expected}")]
    NumberType {
        /// The type that was asked for.
        dtype: &'static str,
        /// `the CPU` or `a GPU`.
        device: &'static str,
        /// The types that work.
        expected: &'static str,
    },
    /// One file that is something else than an SDXL base checkpoint.
    #[error("{}: {kind}", path.display())]
    OtherModel {
        /// The file.
        path: PathBuf,
        /// What it is.
        kind: NotSdxl,
    },
    /// A file of torch's own format, which can run code when it is opened.
    #[error(
        "{}: this is a pickle (.ckpt, .bin, .pt), which may run code when it is opened: convert it to \
         .safetensors",
        path.display()
    )]
    Pickle {
        /// The file.
        path: PathBuf,
    },
    /// A weight file cannot be read: truncated, or not safetensors.
    #[error("{}: not a readable safetensors file: {reason}", path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A weight file lacks a tensor.
    #[error("{}: tensor `{tensor}` is missing", path.display())]
    MissingTensor {
        /// The file or folder.
        path: PathBuf,
        /// The tensor's full name.
        tensor: String,
    },
    /// A tensor has another shape than the configuration says.
    #[error("{}: tensor `{tensor}` has shape {found:?}, expected {expected:?}", path.display())]
    TensorShape {
        /// The file or folder.
        path: PathBuf,
        /// The tensor's full name.
        tensor: String,
        /// The shape that the configuration asks for.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// A tensor has a number type that is not read.
    #[error("{}: tensor `{tensor}` holds {found}, expected F32, F16 or BF16", path.display())]
    TensorType {
        /// The file or folder.
        path: PathBuf,
        /// The tensor's full name.
        tensor: String,
        /// The type in the file.
        found: String,
    },
    /// A weight file holds tensors that belong to no part of the configured model.
    #[error("{}: {count} tensors belong to no part of the model, the first is `{first}`", path.display())]
    UnknownTensors {
        /// The file or folder.
        path: PathBuf,
        /// How many.
        count: usize,
        /// The first of them in alphabetical order.
        first: String,
    },
    /// The tokenizer's files do not fit together.
    #[error("{}: {reason}", path.display())]
    Tokenizer {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A request's value is out of range.
    #[error("{field}: {problem}")]
    BadRequest {
        /// The request's field, as [`crate::SampleRequest`] names it.
        field: &'static str,
        /// What was expected.
        problem: String,
    },
    /// An update names a matrix that the model lacks.
    #[error("the model has no attention matrix `{matrix}`: the LoRA is for another architecture")]
    UnknownMatrix {
        /// The name.
        matrix: String,
    },
    /// An update's factors do not fit the matrix.
    #[error(
        "update of `{matrix}`: {part} has shape {found:?}, expected {expected}: the LoRA is for \
         another architecture"
    )]
    UpdateShape {
        /// The matrix.
        matrix: String,
        /// `down` or `up`.
        part: &'static str,
        /// The shape that fits.
        expected: String,
        /// The shape that was given.
        found: Vec<usize>,
    },
    /// An update holds NaN or infinity, or numbers that overflow the model's type.
    #[error("update of `{matrix}`: {problem}")]
    NotFinite {
        /// The matrix.
        matrix: String,
        /// What is not finite.
        problem: &'static str,
    },
    /// The model computed NaN or infinity.
    #[error(
        "the model computed numbers that are not finite: its weights are damaged, or overflow this number type; \
         take f32 or bf16"
    )]
    NotFinitePicture,
    /// The caller stopped the sampling.
    #[error("sampling was cancelled")]
    Cancelled,
    /// The tensor library failed: out of memory, or a device error.
    #[error("tensor computation failed: {0}")]
    Compute(#[from] candle_core::Error),
}

impl Error {
    /// Whether the device had no memory left: fewer pictures at once may do. The tensor library hands
    /// the driver's own words on.
    pub fn is_out_of_memory(&self) -> bool {
        let Error::Compute(error) = self else {
            return false;
        };
        let text = error.to_string().to_ascii_lowercase();
        let words = [
            "out of memory",
            "out_of_memory",
            "alloc_failed",
            "allocation_failed",
        ];
        words.iter().any(|words| text.contains(words))
    }

    pub(crate) fn unsupported(path: &Path, what: impl Into<String>) -> Error {
        Error::Unsupported {
            path: path.to_path_buf(),
            what: what.into(),
        }
    }

    pub(crate) fn bad_request(field: &'static str, problem: impl Into<String>) -> Error {
        Error::BadRequest {
            field,
            problem: problem.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lack_of_memory_is_told_from_other_faults() {
        let fault = |text: &str| Error::Compute(candle_core::Error::Msg(text.to_owned()));
        let driver = "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")";
        assert!(fault(driver).is_out_of_memory());
        assert!(fault("CUBLAS_STATUS_ALLOC_FAILED").is_out_of_memory());
        let cudnn = "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED";
        assert!(fault(cudnn).is_out_of_memory());
        assert!(!fault("CUDA_ERROR_ILLEGAL_ADDRESS").is_out_of_memory());
        assert!(!Error::Cancelled.is_out_of_memory());
    }
}
