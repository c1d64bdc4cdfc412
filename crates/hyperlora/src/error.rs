//! What can go wrong: one type, no values of weights or of people in it.

use std::fmt;
use std::path::PathBuf;

use likeness_domain::coefficients::CoefficientsError;
use thiserror::Error;

/// How many problems of one file its message names; the rest are counted.
const NAMED_PROBLEMS: usize = 8;

/// What the tensor library answers.
pub(crate) type Computed<T> = candle_core::Result<T>;

/// Why a model could not be loaded or used.
#[derive(Debug, Error)]
pub enum Error {
    /// A file is missing or unreadable, or could not be written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not a whole safetensors file.
    #[error("{}: not a complete safetensors file ({source}); download it again", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What the reader said.
        source: safetensors::SafeTensorError,
    },
    /// A file is not the JSON that belongs there.
    #[error("{}: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What the parser said, with line and column.
        source: serde_json::Error,
    },
    /// A file holds something that is not supported or contradicts itself.
    #[error("{}: {problem}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What was found and what was expected.
        problem: String,
    },
    /// Tensors are missing, too many, misshapen or of another number type.
    #[error("{}: {}", path.display(), list(problems))]
    Tensors {
        /// The file.
        path: PathBuf,
        /// Every problem found, in the order of the names.
        problems: Vec<Problem>,
    },
    /// A weight is infinite or not a number.
    #[error("{}: tensor {tensor} holds a value that is not finite; the file is damaged", path.display())]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// An input's shape does not fit the model.
    #[error("{what}: found shape {found:?}, expected {expected}")]
    Input {
        /// Which input.
        what: &'static str,
        /// Its shape.
        found: Vec<usize>,
        /// The shape that belongs there, in words.
        expected: String,
    },
    /// The model needs an input that was not given.
    #[error("this model needs {what}, and none was given")]
    InputMissing {
        /// Which input.
        what: &'static str,
    },
    /// Coefficients are of another encoder than the basis.
    #[error(
        "coefficients of {found_tokens} x {found_k} numbers, but the basis takes {tokens} x {k}: \
         they belong to another encoder"
    )]
    CoefficientsShape {
        /// Tokens that the basis takes.
        tokens: usize,
        /// Numbers per token that the basis takes.
        k: usize,
        /// Tokens given.
        found_tokens: usize,
        /// Numbers per token given.
        found_k: usize,
    },
    /// A Base-LoRA was asked of a model without one.
    #[error("this HyperLoRA has no Base-LoRA; only the ID-LoRA can be made from it")]
    NoBase,
    /// A LoRA is for another model.
    #[error("the LoRA does not fit this model: {}", list(problems))]
    DoesNotFit {
        /// Every matrix that the model lacks or that has another shape.
        problems: Vec<Problem>,
    },
    /// A LoRA's weight is infinite or not a number.
    #[error("the scale of a LoRA is {scale}, expected a finite number")]
    Scale {
        /// The weight given.
        scale: f64,
    },
    /// Two LoRAs that are to be added have different shapes for one matrix.
    #[error(
        "two LoRAs differ in the shape of {matrix}: {first:?} and {other:?}; they are for different models"
    )]
    Stack {
        /// The matrix, in diffusers naming.
        matrix: String,
        /// `[out, in]` of those before.
        first: Vec<usize>,
        /// `[out, in]` of the one that differs.
        other: Vec<usize>,
    },
    /// A block has no name in the naming asked for.
    #[error("{block} has no place among SDXL's sgm blocks; export in diffusers naming")]
    NoName {
        /// The block, in diffusers naming.
        block: String,
    },
    /// Predicted coefficients are unusable.
    #[error(transparent)]
    Coefficients(#[from] CoefficientsError),
    /// The tensor library failed, for instance for want of memory.
    #[error("tensor computation failed: {0}")]
    Compute(#[from] candle_core::Error),
}

/// One tensor of a file that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// The tensor is not in the file.
    Missing {
        /// Its name.
        tensor: String,
        /// The shape it should have.
        expected: Vec<usize>,
    },
    /// The file has a tensor that does not belong there.
    Extra {
        /// Its name.
        tensor: String,
        /// Its shape.
        found: Vec<usize>,
    },
    /// The tensor has another shape.
    Shape {
        /// Its name.
        tensor: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape it should have.
        expected: Vec<usize>,
    },
    /// The tensor's numbers are of a type that is not read.
    Dtype {
        /// Its name.
        tensor: String,
        /// The type, as safetensors writes it.
        found: String,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { tensor, expected } if expected.is_empty() => {
                write!(f, "tensor {tensor} is missing")
            }
            Self::Missing { tensor, expected } => {
                write!(f, "tensor {tensor} {expected:?} is missing")
            }
            Self::Extra { tensor, found } => {
                write!(f, "tensor {tensor} {found:?} does not belong here")
            }
            Self::Shape {
                tensor,
                found,
                expected,
            } => {
                write!(
                    f,
                    "tensor {tensor} has shape {found:?}, expected {expected:?}"
                )
            }
            Self::Dtype { tensor, found } => {
                write!(f, "tensor {tensor} is {found}, expected F32, F16 or BF16")
            }
        }
    }
}

fn list(problems: &[Problem]) -> String {
    let mut text: Vec<String> = problems
        .iter()
        .take(NAMED_PROBLEMS)
        .map(ToString::to_string)
        .collect();
    if problems.len() > NAMED_PROBLEMS {
        text.push(format!("and {} more", problems.len() - NAMED_PROBLEMS));
    }
    text.join("; ")
}
