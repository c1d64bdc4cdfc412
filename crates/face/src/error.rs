//! What a photo may weigh and show, and the two kinds of "no": a refused photo and a broken model.

use std::fmt;
use std::path::PathBuf;

use likeness_picture::{Excess, Refused};

use crate::onnx::ModelRole;

/// Bounds that a photo has to keep. All are checked before the work that they guard.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Largest file, in bytes.
    pub max_bytes: u64,
    /// Largest picture, in pixels, by the header and before any pixel is decoded.
    pub max_pixels: u64,
    /// Longest side, in pixels.
    pub max_side: u32,
    /// Smallest face: the shorter side of the detector's box, in pixels of the photo.
    pub min_face: u32,
    /// Greatest share of the face outside the picture, as [`QualityReport::outside`](crate::QualityReport::outside) has it.
    pub max_outside: f32,
    /// Least sharpness, as [`QualityReport::sharpness`](crate::QualityReport::sharpness) measures it.
    pub min_sharpness: f32,
    /// Least brightness, as [`QualityReport::brightness`](crate::QualityReport::brightness) measures it (0 to 255).
    pub min_brightness: f32,
}

impl Default for Limits {
    /// Room for any phone's camera, and the quality below which an identity is not worth enrolling.
    fn default() -> Self {
        let picture = likeness_picture::Limits::default();
        Self {
            max_bytes: picture.max_bytes,
            max_pixels: picture.max_pixels,
            max_side: picture.max_side,
            // The recogniser sees 112 px across the face and CLIP 224: below 64 more than half of that is invented.
            min_face: 64,
            // A forehead or an ear may be cut off; without the mouth or an eye a face is another one to the recogniser.
            max_outside: 0.25,
            // A sharp portrait has about 0.34; blurred by 1 % of the face's width 0.10, by 2 % 0.02.
            min_sharpness: 0.05,
            // Of 255: less light than this and the sensor's noise outweighs the features.
            min_brightness: 48.0,
        }
    }
}

impl Limits {
    /// The bounds of the file.
    pub(crate) fn picture(&self) -> likeness_picture::Limits {
        likeness_picture::Limits {
            max_bytes: self.max_bytes,
            max_pixels: self.max_pixels,
            max_side: self.max_side,
        }
    }
}

/// Why a photo was refused. It refuses this photo only; the numbers inside say what was found and what was expected.
#[derive(Debug, Clone, PartialEq)]
pub enum Rejection {
    /// No picture, or a damaged or truncated one.
    NotAnImage,
    /// A picture or film in a format that is recognised but not read.
    UnsupportedFormat {
        /// What it is and what to do about it.
        hint: &'static str,
    },
    /// More bytes or pixels than [`Limits`] allow.
    TooLarge(Excess),
    /// The detector saw no face.
    NoFace,
    /// Several faces of comparable size, and nobody said which.
    SeveralFaces {
        /// Number of faces that count.
        found: usize,
    },
    /// A face was asked for by a number that none has.
    NoSuchFace {
        /// The number asked for, from 0.
        index: usize,
        /// Number of faces.
        found: usize,
    },
    /// More of the face than [`Limits::max_outside`] lies outside the picture.
    FaceCut {
        /// Share of the face outside, 0 to 1.
        found: f32,
        /// The limit.
        most: f32,
    },
    /// The face is smaller than [`Limits::min_face`].
    FaceTooSmall {
        /// Shorter side of the face's box in pixels.
        found: u32,
        /// The limit.
        least: u32,
    },
    /// The face is less sharp than [`Limits::min_sharpness`].
    TooBlurry {
        /// Measured sharpness.
        found: f32,
        /// The limit.
        least: f32,
    },
    /// The face is darker than [`Limits::min_brightness`].
    TooDark {
        /// Measured brightness, 0 to 255.
        found: f32,
        /// The limit.
        least: f32,
    },
}

impl Rejection {
    /// The reason as API and database spell it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::NotAnImage => "NOT_AN_IMAGE",
            Self::UnsupportedFormat { .. } => "UNSUPPORTED_FORMAT",
            Self::TooLarge(_) => "TOO_LARGE",
            // The API has one word for a face that is not there, not there as a whole, or not there under a number.
            Self::NoFace | Self::NoSuchFace { .. } | Self::FaceCut { .. } => "NO_FACE",
            Self::SeveralFaces { .. } => "SEVERAL_FACES",
            Self::FaceTooSmall { .. } => "FACE_TOO_SMALL",
            Self::TooBlurry { .. } => "TOO_BLURRY",
            Self::TooDark { .. } => "TOO_DARK",
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnImage => Refused::NotAnImage.fmt(f),
            Self::UnsupportedFormat { hint } => Refused::UnsupportedFormat { hint }.fmt(f),
            Self::TooLarge(excess) => Refused::TooLarge(*excess).fmt(f),
            Self::NoFace => f.write_str(
                "no face was found; send a photo with one face that looks towards the camera, upright and unobstructed",
            ),
            Self::SeveralFaces { found } => write!(
                f,
                "{found} faces were found, expected one; crop the photo, or ask for the largest face"
            ),
            Self::NoSuchFace { index, found } => write!(
                f,
                "face {index} was asked for, but {found} were found, counted from 0; ask for a smaller number"
            ),
            Self::FaceCut { found, most } => write!(
                f,
                "{:.0} % of the face lies outside the picture, at most {:.0} % may; send a photo that shows the whole face",
                found * 100.0,
                most * 100.0
            ),
            Self::FaceTooSmall { found, least } => write!(
                f,
                "the face is {found} pixels wide, at least {least} are needed; send a closer or larger photo"
            ),
            Self::TooBlurry { found, least } => write!(
                f,
                "the face's sharpness is {found:.3}, at least {least:.3} is needed; send a sharper photo"
            ),
            Self::TooDark { found, least } => write!(
                f,
                "the face's brightness is {found:.0} of 255, at least {least:.0} is needed; send a photo in more light"
            ),
        }
    }
}

impl std::error::Error for Rejection {}

impl From<Refused> for Rejection {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::NotAnImage => Self::NotAnImage,
            Refused::UnsupportedFormat { hint } => Self::UnsupportedFormat { hint },
            Refused::TooLarge(excess) => Self::TooLarge(excess),
        }
    }
}

/// A model or an argument that cannot work, whatever the photo.
#[derive(Debug, thiserror::Error)]
pub enum FaceError {
    /// A model file could not be read, is no ONNX model, or is a damaged one.
    #[error("cannot load {path} as a {role}: {reason}; expected {}, whole and undamaged", role.contract())]
    Load {
        /// The file.
        path: PathBuf,
        /// What it was to be.
        role: ModelRole,
        /// What the reader said.
        reason: String,
    },
    /// A model file is an ONNX model, but another one.
    #[error("{path} is no {role}: expected {}; found {found}", role.contract())]
    Contract {
        /// The file.
        path: PathBuf,
        /// What it was to be.
        role: ModelRole,
        /// What the file has.
        found: String,
    },
    /// A model ran and failed.
    #[error("the {role} failed: {reason}")]
    Run {
        /// Which model.
        role: ModelRole,
        /// What it did.
        reason: String,
    },
    /// An input has the wrong size.
    #[error("expected an aligned face of 112x112 pixels, found {width}x{height}")]
    AlignedSize {
        /// Width found.
        width: u32,
        /// Height found.
        height: u32,
    },
    /// Landmarks that no face can have.
    #[error("unusable landmarks: {0}")]
    Landmarks(&'static str),
    /// The built-in detector's model is damaged.
    #[error("the built-in detector's model cannot be read: {0}")]
    BuiltinModel(String),
}
