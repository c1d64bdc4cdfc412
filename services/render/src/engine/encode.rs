//! Pictures as files.

use std::io::Cursor;

use bytes::Bytes;
use image::{
    ExtendedColorType, ImageEncoder, ImageError, RgbImage,
    codecs::{jpeg::JpegEncoder, png::PngEncoder, webp::WebPEncoder},
};
use likeness_domain::render::ImageFormat;

/// As the contract promises for JPEG.
const JPEG_QUALITY: u8 = 92;

/// A picture as a file of the format.
pub fn encode(picture: &RgbImage, format: ImageFormat) -> Result<Bytes, ImageError> {
    let mut file = Cursor::new(Vec::new());
    match format {
        ImageFormat::Png => write(PngEncoder::new(&mut file), picture)?,
        ImageFormat::Jpeg => {
            write(
                JpegEncoder::new_with_quality(&mut file, JPEG_QUALITY),
                picture,
            )?;
        }
        ImageFormat::Webp => write(WebPEncoder::new_lossless(&mut file), picture)?,
    }
    Ok(file.into_inner().into())
}

fn write(encoder: impl ImageEncoder, picture: &RgbImage) -> Result<(), ImageError> {
    let (width, height) = picture.dimensions();
    encoder.write_image(picture.as_raw(), width, height, ExtendedColorType::Rgb8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_reads_back_with_its_size() {
        let picture = RgbImage::from_fn(24, 16, |x, y| image::Rgb([x as u8 * 10, y as u8 * 15, 9]));
        for format in ImageFormat::ALL {
            let file = encode(&picture, *format).unwrap();
            let read = image::load_from_memory(&file).unwrap();
            assert_eq!((read.width(), read.height()), (24, 16), "{format}");
            let lossless = *format != ImageFormat::Jpeg;
            assert_eq!(read.to_rgb8() == picture, lossless, "{format}");
        }
    }
}
