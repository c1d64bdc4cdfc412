//! Landmarks of a picture that is stored turned, as phones do.

use std::io::Cursor;

use image::metadata::Orientation;
use image::{ImageDecoder, ImageReader};

use crate::sample::Landmarks;

/// Turns landmarks as the decoder turns the picture. `file` is the picture as stored, `upright` its width and height once
/// turned. Points count from the middle of the top left pixel.
pub(crate) fn turn(landmarks: &mut Landmarks, file: &[u8], upright: (u32, u32)) {
    let orientation = orientation(file);
    for point in landmarks {
        *point = turned(*point, orientation, upright);
    }
}

/// A damaged EXIF block counts as none, as it does in the picture's decoder.
fn orientation(file: &[u8]) -> Orientation {
    let reader = ImageReader::new(Cursor::new(file)).with_guessed_format();
    let decoder = reader.ok().and_then(|reader| reader.into_decoder().ok());
    let orientation = decoder.and_then(|mut decoder| decoder.orientation().ok());
    orientation.unwrap_or(Orientation::NoTransforms)
}

fn turned([x, y]: [f32; 2], orientation: Orientation, upright: (u32, u32)) -> [f32; 2] {
    let [right, bottom] = [upright.0, upright.1].map(|side| side as f32 - 1.0);
    match orientation {
        Orientation::NoTransforms => [x, y],
        Orientation::FlipHorizontal => [right - x, y],
        Orientation::FlipVertical => [x, bottom - y],
        Orientation::Rotate180 => [right - x, bottom - y],
        Orientation::Rotate90 => [right - y, x],
        Orientation::Rotate270 => [y, bottom - x],
        Orientation::Rotate90FlipH => [y, x],
        Orientation::Rotate270FlipH => [right - y, bottom - x],
    }
}

#[cfg(test)]
mod tests {
    use image::codecs::jpeg::JpegEncoder;
    use image::{DynamicImage, ImageEncoder, Rgb, RgbImage};

    use super::*;

    #[test]
    fn a_point_stays_on_its_pixel_in_all_eight_ways() {
        for exif in 1..=8 {
            let orientation = Orientation::from_exif(exif).unwrap();
            let mut picture = RgbImage::new(7, 5);
            picture.put_pixel(5, 1, Rgb([255; 3]));
            let mut picture = DynamicImage::ImageRgb8(picture);
            picture.apply_orientation(orientation);
            let picture = picture.into_rgb8();
            let [x, y] = turned([5.0, 1.0], orientation, picture.dimensions());
            assert_eq!(picture.get_pixel(x as u32, y as u32).0, [255; 3], "{exif}");
        }
    }

    #[test]
    fn the_orientation_is_that_of_the_file() {
        // Big-endian TIFF with one entry: tag 0x0112, one short, 6: a quarter turn clockwise.
        let exif = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
        let mut file = Vec::new();
        let mut encoder = JpegEncoder::new(&mut file);
        encoder.set_exif_metadata(exif.to_vec()).unwrap();
        encoder.encode_image(&RgbImage::new(7, 5)).unwrap();
        let mut landmarks = [[5.0, 1.0]; 106];
        turn(&mut landmarks, &file, (5, 7));
        assert_eq!(landmarks, [[3.0, 5.0]; 106]);
    }
}
