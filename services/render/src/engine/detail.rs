//! Where a second pass over small faces looks, and how its result goes back into the picture. Knows no model.

use image::{
    Rgb, RgbImage,
    imageops::{self, FilterType},
};

/// A face is small where its box's longer side is below this share of the picture's longer side: larger ones have been
/// drawn with as many pixels as the model is good for.
const SMALL: f32 = 0.25;
/// At most so many faces of a picture get a second pass, the largest first.
const MOST_FACES: usize = 4;
/// The crop's side in boxes: the model needs to see hair, neck and some of what is around.
const MARGIN: f32 = 1.8;
/// The share of the crop's side, from its rim inwards, over which old and new mix.
const FEATHER: f32 = 0.15;

/// A square within a picture, around one face.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crop {
    left: u32,
    top: u32,
    side: u32,
}

/// The crops around the small faces of a picture, the largest face first. `boxes` are left, top, right, bottom in pixels
/// and may reach outside; one whose crop has `resolution` pixels already gains nothing and is left away.
pub fn crops(boxes: &[[f32; 4]], picture: (u32, u32), resolution: u32) -> Vec<Crop> {
    let limit = SMALL * picture.0.max(picture.1) as f32;
    let mut small: Vec<_> = boxes
        .iter()
        .filter(|face| (1.0..limit).contains(&longer_side(face)))
        .collect();
    small.sort_by(|a, b| longer_side(b).total_cmp(&longer_side(a)));
    small
        .into_iter()
        .take(MOST_FACES)
        .map(|face| Crop::around(face, picture))
        .filter(|crop| crop.side < resolution)
        .collect()
}

fn longer_side([left, top, right, bottom]: &[f32; 4]) -> f32 {
    (right - left).max(bottom - top)
}

impl Crop {
    /// The square around a box's middle; where it would leave the picture it is moved, and shrunk only if it is larger.
    fn around(face: &[f32; 4], (width, height): (u32, u32)) -> Self {
        let [left, top, right, bottom] = *face;
        let wanted = (longer_side(face) * MARGIN).ceil() as u32;
        let side = wanted.clamp(1, width.min(height).max(1));
        let place = |low: f32, high: f32, whole: u32| {
            let from = f32::midpoint(low, high) - side as f32 / 2.0;
            (from.round().max(0.0) as u32).min(whole.saturating_sub(side))
        };
        Self {
            left: place(left, right, width),
            top: place(top, bottom, height),
            side,
        }
    }

    /// What the picture shows there, scaled to `resolution` × `resolution`.
    pub fn enlarge(&self, picture: &RgbImage, resolution: u32) -> RgbImage {
        let part = imageops::crop_imm(picture, self.left, self.top, self.side, self.side);
        imageops::resize(&*part, resolution, resolution, FilterType::Lanczos3)
    }

    /// Puts a square picture back in this place: in full in the middle, less and less towards the rim, not at all at
    /// the rim itself. Pixels outside stay as they are, to the bit.
    pub fn blend(&self, picture: &mut RgbImage, patch: &RgbImage) {
        let patch = imageops::resize(patch, self.side, self.side, FilterType::Lanczos3);
        for (x, y, new) in patch.enumerate_pixels() {
            let share = self.share(x).min(self.share(y));
            let old = picture.get_pixel_mut(self.left + x, self.top + y);
            *old = mix(*old, *new, share);
        }
    }

    /// How much of the new counts at this distance from the crop's left or top: a smooth step from 0 at the rim.
    fn share(&self, at: u32) -> f32 {
        let distance = at.min(self.side - 1 - at) as f32;
        let width = (self.side as f32 * FEATHER).max(1.0);
        let t = (distance / width).min(1.0);
        t * t * (3.0 - 2.0 * t)
    }
}

fn mix(old: Rgb<u8>, new: Rgb<u8>, share: f32) -> Rgb<u8> {
    let level = |i: usize| {
        let (old, new) = (f32::from(old.0[i]), f32::from(new.0[i]));
        (old + share * (new - old)).round() as u8
    };
    Rgb([level(0), level(1), level(2)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn square(left: f32, top: f32, side: f32) -> [f32; 4] {
        [left, top, left + side, top + side]
    }

    #[test]
    fn small_faces_are_taken_the_largest_first_and_four_at_most() {
        let boxes = [20.0, 60.0, 30.0, 130.0, 40.0, 50.0].map(|side| square(200.0, 200.0, side));
        let sides: Vec<_> = crops(&boxes, (512, 400), 1024)
            .iter()
            .map(|crop| crop.side)
            .collect();
        assert_eq!(sides, [108, 90, 72, 54], "the one of 130 is not small");
        let fine = crops(&boxes, (512, 400), 80);
        assert_eq!(fine.len(), 2, "two have the resolution already");
        let broken = [square(0.0, 0.0, f32::NAN), square(9.0, 9.0, -5.0)];
        assert!(crops(&broken, (512, 400), 1024).is_empty());
    }

    #[test]
    fn a_crop_lies_within_the_picture() {
        let far = [-300.0, -10.0, 0.0, 30.0, 250.0, 470.0, 5000.0];
        for (left, top) in far.iter().flat_map(|x| far.map(|y| (*x, y))) {
            for (width, height) in [(512, 400), (512, 40), (64, 512)] {
                let Crop { left, top, side } =
                    Crop::around(&square(left, top, 60.0), (width, height));
                assert!(left + side <= width && top + side <= height);
                assert_eq!(side, 108.min(width).min(height));
            }
        }
        let middle = Crop::around(&[100.0, 200.0, 140.0, 260.0], (512, 512));
        let expected = Crop {
            left: 66,
            top: 176,
            side: 108,
        };
        assert_eq!(middle, expected);
    }

    #[test]
    fn a_patch_counts_in_the_middle_and_not_at_the_rim_nor_outside() {
        let before = RgbImage::from_fn(90, 70, |x, y| Rgb([x as u8, y as u8, 50]));
        let crop = Crop {
            left: 20,
            top: 10,
            side: 40,
        };
        let mut after = before.clone();
        crop.blend(&mut after, &RgbImage::from_pixel(128, 128, Rgb([255; 3])));
        for (x, y, pixel) in after.enumerate_pixels() {
            let inside = (21..59).contains(&x) && (11..49).contains(&y);
            if inside {
                assert!(pixel.0 > before.get_pixel(x, y).0, "{x} {y}");
            } else {
                assert_eq!(pixel, before.get_pixel(x, y), "{x} {y}");
            }
        }
        assert_eq!(after.get_pixel(40, 30).0, [255; 3]);
        let ramp: Vec<_> = (20..30).map(|x| after.get_pixel(x, 30).0[2]).collect();
        assert!(
            ramp.is_sorted() && ramp[0] == 50 && ramp[9] == 255,
            "{ramp:?}"
        );
    }

    #[test]
    fn an_enlarged_crop_shows_its_part() {
        let picture = RgbImage::from_fn(60, 40, |x, _| Rgb([if x < 30 { 10 } else { 200 }; 3]));
        let crop = Crop {
            left: 30,
            top: 5,
            side: 20,
        };
        let large = crop.enlarge(&picture, 64);
        assert_eq!(large.dimensions(), (64, 64));
        assert!(large.pixels().all(|pixel| pixel.0 == [200; 3]));
    }
}
