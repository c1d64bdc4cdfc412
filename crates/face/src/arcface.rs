//! The aligned face that ArcFace recognisers see.

use image::{Rgb, RgbImage};

use crate::face::Face;
use crate::geometry::Similarity;

/// Side of the aligned face.
pub const ARCFACE_SIDE: u32 = 112;

/// Where eyes, nose tip and corners of the mouth lie in the aligned face.
const TEMPLATE: [[f32; 2]; 5] = [
    [38.2946, 51.6963],
    [73.5318, 51.5014],
    [56.0252, 71.7366],
    [41.5493, 92.3655],
    [70.7299, 92.2041],
];

/// Rotates, scales and moves the face's key points to ArcFace's template: 112 × 112 pixels, bilinear, black border.
pub fn arcface_input(image: &RgbImage, face: &Face) -> RgbImage {
    let alignment = Similarity::fit(&face.keypoints, &TEMPLATE);
    RgbImage::from_fn(ARCFACE_SIDE, ARCFACE_SIDE, |x, y| {
        let (x, y) = alignment.inverse_apply(x as f32, y as f32);
        bilinear(image, x, y)
    })
}

/// The image at a point between pixels; everything outside is black.
fn bilinear(image: &RgbImage, x: f32, y: f32) -> Rgb<u8> {
    let (x0, y0) = (x.floor(), y.floor());
    let (fx, fy) = (x - x0, y - y0);
    let at = |dx: f32, dy: f32| {
        let (x, y) = (whole(x0 + dx), whole(y0 + dy));
        let pixel = x.zip(y).and_then(|(x, y)| image.get_pixel_checked(x, y));
        pixel.map_or([0.0; 3], |p| p.0.map(f32::from))
    };
    let (nw, ne, sw, se) = (at(0.0, 0.0), at(1.0, 0.0), at(0.0, 1.0), at(1.0, 1.0));
    Rgb(std::array::from_fn(|c| {
        let (north, south) = (nw[c] + fx * (ne[c] - nw[c]), sw[c] + fx * (se[c] - sw[c]));
        (north + fy * (south - north)).round() as u8
    }))
}

/// A coordinate as an index, if it can be one.
fn whole(v: f32) -> Option<u32> {
    (0.0..u32::MAX as f32).contains(&v).then_some(v as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_face_already_in_place_is_left_alone() {
        let image = RgbImage::from_fn(112, 112, |x, y| Rgb([x as u8, y as u8, 7]));
        let mut face = crate::template::place([0.0, 0.0, 112.0, 112.0], 1.0);
        face.keypoints = TEMPLATE;
        let aligned = arcface_input(&image, &face);
        let differs =
            |a: &Rgb<u8>, b: &Rgb<u8>| a.0.iter().zip(b.0).any(|(a, b)| a.abs_diff(b) > 1);
        assert!(
            !aligned
                .pixels()
                .zip(image.pixels())
                .any(|(a, b)| differs(a, b))
        );
    }

    #[test]
    fn beyond_the_border_is_black() {
        let image = RgbImage::from_pixel(4, 4, Rgb([200; 3]));
        assert_eq!(bilinear(&image, -5.0, 1.0).0, [0; 3]);
        assert_eq!(bilinear(&image, -0.5, 1.0).0, [100; 3]);
        assert_eq!(bilinear(&image, f32::NAN, 1e30).0, [0; 3]);
    }
}
