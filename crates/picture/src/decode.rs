//! From an uploaded file to upright RGB, at a cost that the file's header fixes.

use std::io::Cursor;

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Rgb, RgbImage};

use crate::error::{Excess, Limits, Refused};
use crate::format::{self, Kind};

/// Grey that shows through transparent pixels: the colour that background removal paints, too.
pub const GREY: u8 = 0x7f;

/// What a decoder may allocate beside the picture itself (WebP's and PNG's working rows).
const WORKING_BYTES: u64 = 64 << 20;

/// Decodes JPEG, PNG or WebP to 8-bit RGB, upright after its EXIF orientation, transparency over grey.
///
/// The size of the file and the header's dimensions are checked before any pixel is decoded, so that a decompression
/// bomb costs nothing.
///
/// # Errors
/// [`Refused::TooLarge`], [`Refused::UnsupportedFormat`], or [`Refused::NotAnImage`] for anything damaged.
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<RgbImage, Refused> {
    let mut decoder = opened(bytes, limits)?;
    // A damaged EXIF block says nothing about the pixels: the picture is then taken as it is stored.
    let orientation = decoder
        .orientation()
        .unwrap_or(image::metadata::Orientation::NoTransforms);
    let mut image = DynamicImage::from_decoder(decoder).map_err(|_| Refused::NotAnImage)?;
    image.apply_orientation(orientation);
    Ok(opaque(image))
}

/// All that [`decode`] checks before it decodes a pixel, for those who pass a file on: what it is, by its media type.
/// A file that is damaged behind its header goes through.
///
/// # Errors
/// As [`decode`].
pub fn check(bytes: &[u8], limits: &Limits) -> Result<&'static str, Refused> {
    opened(bytes, limits)?;
    Ok(readable(bytes)?.to_mime_type())
}

fn opened<'a>(bytes: &'a [u8], limits: &Limits) -> Result<impl ImageDecoder + use<'a>, Refused> {
    if bytes.len() as u64 > limits.max_bytes {
        let excess = Excess::Bytes(bytes.len() as u64, limits.max_bytes);
        return Err(Refused::TooLarge(excess));
    }
    let format = readable(bytes)?;
    if format == ImageFormat::Jpeg && !format::jpeg_is_complete(bytes) {
        return Err(Refused::NotAnImage);
    }
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(allocation_limits(limits));
    let decoder = reader.into_decoder().map_err(|_| Refused::NotAnImage)?;
    let (width, height) = decoder.dimensions();
    check_dimensions(width, height, limits)?;
    Ok(decoder)
}

fn readable(bytes: &[u8]) -> Result<ImageFormat, Refused> {
    match format::sniff(bytes) {
        Kind::Readable(format) => Ok(format),
        Kind::Refused(hint) => Err(Refused::UnsupportedFormat { hint }),
        Kind::Unknown => Err(Refused::NotAnImage),
    }
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

fn check_dimensions(width: u32, height: u32, limits: &Limits) -> Result<(), Refused> {
    let (side, pixels) = (width.max(height), u64::from(width) * u64::from(height));
    if pixels == 0 {
        return Err(Refused::NotAnImage);
    }
    if side > limits.max_side {
        return Err(Refused::TooLarge(Excess::Side(side, limits.max_side)));
    }
    if pixels > limits.max_pixels {
        return Err(Refused::TooLarge(Excess::Pixels(pixels, limits.max_pixels)));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn png(width: u32, height: u32) -> Vec<u8> {
        let mut file = Cursor::new(Vec::new());
        let picture = RgbImage::from_pixel(width, height, Rgb([9; 3]));
        picture.write_to(&mut file, ImageFormat::Png).unwrap();
        file.into_inner()
    }

    #[test]
    fn a_check_says_what_the_file_is_and_refuses_what_decoding_would() {
        let limits = Limits::default();
        assert_eq!(check(&png(3, 2), &limits), Ok("image/png"));
        let small = Limits {
            max_side: 2,
            ..limits
        };
        let excess = Refused::TooLarge(Excess::Side(3, 2));
        assert_eq!(check(&png(3, 2), &small), Err(excess));
        assert_eq!(check(b"", &limits), Err(Refused::NotAnImage));
        let gif = check(b"GIF89a", &limits);
        assert!(matches!(gif, Err(Refused::UnsupportedFormat { .. })));
    }

    #[test]
    fn damage_behind_the_header_shows_when_it_is_decoded() {
        let file = png(64, 64);
        let cut = &file[..file.len() - 20];
        assert!(check(cut, &Limits::default()).is_ok());
        assert_eq!(decode(cut, &Limits::default()), Err(Refused::NotAnImage));
    }
}
