//! From an uploaded file to upright RGB, at a cost that the file's header fixes.

use std::io::Cursor;

use image::{DynamicImage, ImageDecoder, ImageReader, Rgb, RgbImage};

use crate::error::{Excess, Limits, Rejection};
use crate::format::{self, Kind};

/// Grey that shows through transparent pixels: the colour that background removal paints, too.
pub(crate) const GREY: u8 = 0x7f;

/// What a decoder may allocate beside the picture itself (WebP's and PNG's working rows).
const WORKING_BYTES: u64 = 64 << 20;

/// Decodes JPEG, PNG or WebP to 8-bit RGB, upright after its EXIF orientation, transparency over grey.
///
/// The size of the file and the header's dimensions are checked before any pixel is decoded, so that a decompression
/// bomb costs nothing.
///
/// # Errors
/// [`Rejection::TooLarge`], [`Rejection::UnsupportedFormat`], or [`Rejection::NotAnImage`] for anything damaged.
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<RgbImage, Rejection> {
    if bytes.len() as u64 > limits.max_bytes {
        return Err(Rejection::TooLarge(Excess::Bytes(
            bytes.len() as u64,
            limits.max_bytes,
        )));
    }
    let format = match format::sniff(bytes) {
        Kind::Readable(format) => format,
        Kind::Refused(hint) => return Err(Rejection::UnsupportedFormat { hint }),
        Kind::Unknown => return Err(Rejection::NotAnImage),
    };
    if format == image::ImageFormat::Jpeg && !format::jpeg_is_complete(bytes) {
        return Err(Rejection::NotAnImage);
    }
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(allocation_limits(limits));
    upright(
        reader.into_decoder().map_err(|_| Rejection::NotAnImage)?,
        limits,
    )
}

fn upright(mut decoder: impl ImageDecoder, limits: &Limits) -> Result<RgbImage, Rejection> {
    let (width, height) = decoder.dimensions();
    check_dimensions(width, height, limits)?;
    // A damaged EXIF block says nothing about the pixels: the photo is then taken as it is stored.
    let orientation = decoder
        .orientation()
        .unwrap_or(image::metadata::Orientation::NoTransforms);
    let mut image = DynamicImage::from_decoder(decoder).map_err(|_| Rejection::NotAnImage)?;
    image.apply_orientation(orientation);
    Ok(opaque(image))
}

/// Eight bytes per pixel are the most that a decoded picture takes (RGBA of 16 bits).
fn allocation_limits(limits: &Limits) -> image::Limits {
    let mut bound = image::Limits::no_limits();
    bound.max_alloc = Some(
        limits
            .max_pixels
            .saturating_mul(8)
            .saturating_add(WORKING_BYTES),
    );
    bound
}

fn check_dimensions(width: u32, height: u32, limits: &Limits) -> Result<(), Rejection> {
    let (side, pixels) = (width.max(height), u64::from(width) * u64::from(height));
    if pixels == 0 {
        return Err(Rejection::NotAnImage);
    }
    if side > limits.max_side {
        return Err(Rejection::TooLarge(Excess::Side(side, limits.max_side)));
    }
    if pixels > limits.max_pixels {
        return Err(Rejection::TooLarge(Excess::Pixels(
            pixels,
            limits.max_pixels,
        )));
    }
    Ok(())
}

fn opaque(image: DynamicImage) -> RgbImage {
    if !image.color().has_alpha() {
        return image.into_rgb8();
    }
    let rgba = image.into_rgba8();
    let over = |c: u8, a: u8| {
        ((u32::from(c) * u32::from(a) + u32::from(GREY) * (255 - u32::from(a)) + 127) / 255) as u8
    };
    RgbImage::from_fn(rgba.width(), rgba.height(), |x, y| {
        let [r, g, b, a] = rgba.get_pixel(x, y).0;
        Rgb([over(r, a), over(g, a), over(b, a)])
    })
}
