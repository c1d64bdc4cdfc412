//! From an uploaded photo to upright RGB.

use image::RgbImage;

use crate::error::{Limits, Rejection};

/// Decodes JPEG, PNG or WebP to 8-bit RGB, upright after its EXIF orientation, transparency over grey; see
/// [`likeness_picture::decode`].
///
/// # Errors
/// [`Rejection::TooLarge`], [`Rejection::UnsupportedFormat`], or [`Rejection::NotAnImage`] for anything damaged.
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<RgbImage, Rejection> {
    Ok(likeness_picture::decode(bytes, &limits.picture())?)
}
