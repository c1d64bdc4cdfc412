//! Bringing a picture to a given size.

use image::{
    RgbImage,
    imageops::{self, FilterType},
};

/// Scales a picture until it covers `width` × `height`, and leaves away what lies outside, as much on either side. One
/// that has this size already stays as it is. Neither size may be 0.
pub fn cover(picture: &RgbImage, width: u32, height: u32) -> RgbImage {
    if picture.dimensions() == (width, height) {
        return picture.clone();
    }
    // Cut before it is scaled: a long, thin picture would otherwise grow without bounds.
    let (x, y, cut_width, cut_height) = centre(picture.dimensions(), (width, height));
    let cut = imageops::crop_imm(picture, x, y, cut_width, cut_height);
    imageops::resize(&*cut, width, height, FilterType::Lanczos3)
}

/// The largest part of the target's shape in the middle of a picture: left, top, width, height.
fn centre((width, height): (u32, u32), (to_width, to_height): (u32, u32)) -> (u32, u32, u32, u32) {
    let [w, h] = [width, height].map(u64::from);
    let [to_w, to_h] = [to_width, to_height].map(u64::from);
    let rounded = |side: u64, by: u64, most: u64| ((side + by / 2) / by).clamp(1, most) as u32;
    let (cut_width, cut_height) = if w * to_h > h * to_w {
        (rounded(h * to_w, to_h, w), height)
    } else {
        (width, rounded(w * to_h, to_w, h))
    };
    let (x, y) = ((width - cut_width) / 2, (height - cut_height) / 2);
    (x, y, cut_width, cut_height)
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    #[test]
    fn the_middle_of_the_wanted_shape_is_taken() {
        assert_eq!(centre((300, 100), (64, 64)), (100, 0, 100, 100));
        assert_eq!(centre((100, 300), (64, 64)), (0, 100, 100, 100));
        assert_eq!(centre((90, 160), (64, 32)), (0, 57, 90, 45));
        assert_eq!(centre((1, 16_383), (2048, 8)), (0, 8191, 1, 1));
    }

    #[test]
    fn a_picture_covers_the_size_without_a_border() {
        // Grey in the middle, white to the left and to the right of it.
        let wide = RgbImage::from_fn(300, 100, |x, _| {
            Rgb([if (100..200).contains(&x) { 90 } else { 255 }; 3])
        });
        let square = cover(&wide, 64, 64);
        assert_eq!(square.dimensions(), (64, 64));
        assert!(square.pixels().all(|pixel| pixel.0 == [90; 3]));
    }

    #[test]
    fn a_picture_of_the_size_stays_as_it_is() {
        let picture = RgbImage::from_fn(16, 8, |x, y| Rgb([x as u8, y as u8, 7]));
        assert_eq!(cover(&picture, 16, 8), picture);
    }

    #[test]
    fn extreme_shapes_cost_no_more_than_the_picture() {
        for (width, height) in [(1, 16_383), (16_383, 1), (1, 1)] {
            let thin = RgbImage::from_pixel(width, height, Rgb([5; 3]));
            assert_eq!(cover(&thin, 2048, 8).dimensions(), (2048, 8));
        }
    }
}
