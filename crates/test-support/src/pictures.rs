//! Pictures for tests.

use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::{ImageFormat, Rgb, RgbImage};

/// A PNG of one colour.
pub fn png(width: u32, height: u32, rgb: [u8; 3]) -> Vec<u8> {
    encode(width, height, rgb, ImageFormat::Png)
}

/// A JPEG of one colour.
pub fn jpeg(width: u32, height: u32, rgb: [u8; 3]) -> Vec<u8> {
    encode(width, height, rgb, ImageFormat::Jpeg)
}

/// A file of `tests/fixtures`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures")
        .join(name)
}

#[allow(
    clippy::expect_used,
    reason = "only tests call it, with sizes that they choose"
)]
fn encode(width: u32, height: u32, rgb: [u8; 3], format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    RgbImage::from_pixel(width, height, Rgb(rgb))
        .write_to(&mut bytes, format)
        .expect("a picture of one colour can be encoded");
    bytes.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_have_the_asked_size_and_colour() {
        let picture = image::load_from_memory(&png(3, 2, [10, 20, 30]))
            .unwrap()
            .to_rgb8();
        assert_eq!(picture.dimensions(), (3, 2));
        assert_eq!(picture.get_pixel(2, 1).0, [10, 20, 30]);
        let photo = jpeg(8, 8, [0, 0, 0]);
        assert_eq!(image::guess_format(&photo).unwrap(), ImageFormat::Jpeg);
    }
}
