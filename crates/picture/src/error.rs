//! What a file may weigh, and why one is not read.

use std::fmt;

/// Bounds that a file has to keep. All are checked before a pixel is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest file, in bytes.
    pub max_bytes: u64,
    /// Largest picture, in pixels, by the header.
    pub max_pixels: u64,
    /// Longest side, in pixels.
    pub max_side: u32,
}

impl Default for Limits {
    /// Room for any phone's camera.
    fn default() -> Self {
        Self {
            // A 50-megapixel JPEG at top quality has about 25 MB.
            max_bytes: 32 << 20,
            // 8192 × 6144, the largest common phone sensor: 151 MB once decoded.
            max_pixels: 8192 * 6144,
            // Panoramas are longer, but no portrait is; also WebP's own bound.
            max_side: 16_383,
        }
    }
}

/// Why a file is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No picture, or a damaged or truncated one.
    #[error(
        "this is no picture, or a damaged or incomplete one; send a whole JPEG, PNG or WebP file"
    )]
    NotAnImage,
    /// A picture or film in a format that is recognised but not read.
    #[error("{hint}")]
    UnsupportedFormat {
        /// What it is and what to do about it.
        hint: &'static str,
    },
    /// More bytes or pixels than [`Limits`] allow.
    #[error("{0}; send a smaller copy")]
    TooLarge(Excess),
}

/// Which bound of [`Limits`] a file exceeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Excess {
    /// The file's size in bytes: found, allowed.
    Bytes(u64, u64),
    /// The picture's number of pixels: found, allowed.
    Pixels(u64, u64),
    /// The picture's longer side in pixels: found, allowed.
    Side(u32, u32),
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(found, most) => {
                write!(f, "the file has {found} bytes, at most {most} are read")
            }
            Self::Pixels(found, most) => {
                write!(f, "the picture has {found} pixels, at most {most} are read")
            }
            Self::Side(found, most) => {
                write!(
                    f,
                    "the picture's longer side has {found} pixels, at most {most} are read"
                )
            }
        }
    }
}
