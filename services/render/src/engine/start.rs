//! The picture that a render starts from, as the model takes it.

use std::sync::Arc;

use likeness_domain::render::{RenderSpec, Strength};
use likeness_picture::{Limits, cover, decode};
use likeness_sdxl::Init;

use super::Failure;

/// The largest file that is read, in bytes.
pub fn most_bytes() -> usize {
    usize::try_from(Limits::default().max_bytes).unwrap_or(usize::MAX)
}

/// Decodes a file, upright, and brings it to the render's size: scaled to cover it, cropped around the centre.
///
/// # Errors
/// A file that cannot be read, for good: its header had passed when the render was taken in.
pub fn init(file: &[u8], spec: &RenderSpec, strength: Strength) -> Result<Init, Failure> {
    let picture = decode(file, &Limits::default()).map_err(|refused| Failure::Permanent {
        reason: "START_PICTURE_UNREADABLE",
        message: format!("the picture to start from: {refused}"),
    })?;
    Ok(Init {
        picture: Arc::new(cover(&picture, spec.width, spec.height)),
        strength: strength.get(),
    })
}

#[cfg(test)]
mod tests {
    use image::{Rgb, RgbImage};
    use likeness_domain::render::ImageFormat;

    use super::*;
    use crate::engine::{encode::encode, group::tests::spec};

    #[test]
    fn a_file_becomes_a_picture_of_the_renders_size() {
        let wide = RgbImage::from_fn(200, 50, |x, _| Rgb([(x / 50) as u8 * 60, 10, 10]));
        let file = encode(&wide, ImageFormat::Png).unwrap();
        let half = Strength::try_from(0.5).unwrap();
        let init = init(&file, &spec(), half).unwrap();
        assert_eq!(init.picture.dimensions(), (64, 64));
        // Its middle: of the second and the third quarter.
        assert_eq!(init.picture.get_pixel(2, 30).0, [60, 10, 10]);
        assert_eq!(init.picture.get_pixel(61, 30).0, [120, 10, 10]);
        assert!((init.strength - 0.5).abs() < 1e-9);
    }

    #[test]
    fn a_damaged_file_fails_the_render_for_good() {
        let picture = RgbImage::from_pixel(64, 64, Rgb([7; 3]));
        let file = encode(&picture, ImageFormat::Png).unwrap();
        let end = init(
            &file[..file.len() - 20],
            &spec(),
            Strength::try_from(1.0).unwrap(),
        );
        let Err(Failure::Permanent { reason, message }) = end else {
            panic!("it was read");
        };
        assert_eq!(reason, "START_PICTURE_UNREADABLE");
        assert!(message.contains("damaged"), "{message}");
    }
}
