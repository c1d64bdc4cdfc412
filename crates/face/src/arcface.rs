//! The aligned face that ArcFace recognisers see.

use image::RgbImage;

use crate::face::Face;
use crate::geometry::Similarity;
use crate::warp::warp;

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
    warp(image, &alignment, ARCFACE_SIDE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

    #[test]
    fn a_face_already_in_place_is_left_alone() {
        let image = RgbImage::from_fn(112, 112, |x, y| Rgb([x as u8, y as u8, 7]));
        let face = crate::template::place(&crate::face::Detection {
            bbox: [0.0, 0.0, 112.0, 112.0],
            score: 1.0,
            keypoints: Some(TEMPLATE),
        });
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
}
