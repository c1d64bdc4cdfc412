//! Places of a part of the drawing in the picture.

use crate::level::Level;
use crate::setting::Setting;

/// x to the right, y downwards.
pub(crate) type Point = [f32; 2];

/// The drawing's units on the picture's side.
pub(crate) const UNITS: f32 = 64.0;

/// Where the middle of the face is when nothing is shifted.
const MIDDLE: Point = [32.0, 33.0];
/// How far it moves to each side of there.
const SHIFT: Point = [3.0, 2.0];
/// The person's size.
const SCALE: [f32; 2] = [0.93, 1.07];
/// The tangent of half the largest lean: five degrees.
const HALF_LEAN: f32 = 0.0437;

/// A similarity from the drawing's units around the middle of the face to the picture's pixels.
#[derive(Clone, Copy)]
pub(crate) struct Frame {
    origin: Point,
    /// A unit to the right, in pixels; a unit downwards is this turned by a right angle.
    right: Point,
    /// The same over its squared length: what leads back from pixels to units.
    back: Point,
}

impl Frame {
    /// The head's.
    pub fn head(setting: &Setting, side: u32) -> Self {
        // The half angle's tangent gives sine and cosine without any function that platforms round differently.
        let t = setting.roll.between(-HALF_LEAN, HALF_LEAN);
        let norm = 1.0 + t * t;
        let turned = [(1.0 - t * t) / norm, 2.0 * t / norm];
        let upright = Self::body(setting, side);
        let scale = upright.scale();
        Self::new(upright.origin, turned.map(|k| scale * k))
    }

    /// That of neck and shoulders: they do not lean with the head.
    pub fn body(setting: &Setting, side: u32) -> Self {
        let pixels = side as f32 / UNITS;
        let shift = [setting.shift_x, setting.shift_y];
        let place = |k: usize, level: Level| MIDDLE[k] + level.between(-SHIFT[k], SHIFT[k]);
        let origin = [0, 1].map(|k| pixels * place(k, shift[k]));
        Self::new(
            origin,
            [pixels * setting.scale.between(SCALE[0], SCALE[1]), 0.0],
        )
    }

    fn new(origin: Point, right: Point) -> Self {
        let squared = right[0] * right[0] + right[1] * right[1];
        Self {
            origin,
            right,
            back: right.map(|k| k / squared),
        }
    }

    /// Pixels per unit.
    pub fn scale(&self) -> f32 {
        let [c, s] = self.right;
        (c * c + s * s).sqrt()
    }

    /// A point in units → in pixels, the picture's upper left corner being (0, 0).
    pub fn to_pixels(self, [x, y]: Point) -> Point {
        let ([c, s], [ox, oy]) = (self.right, self.origin);
        [ox + c * x - s * y, oy + s * x + c * y]
    }

    /// A point in pixels → in units.
    pub fn to_units(self, [x, y]: Point) -> Point {
        let [[c, s], [ox, oy]] = [self.back, self.origin];
        let (dx, dy) = (x - ox, y - oy);
        [c * dx + s * dy, c * dy - s * dx]
    }

    /// Half the sides, in pixels, of the upright box around a box of these half sides in units.
    pub fn half_box(&self, [x, y]: Point) -> Point {
        let [c, s] = self.right.map(f32::abs);
        [c * x + s * y, s * x + c * y]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_and_units_are_each_others_inverse() {
        for seed in 0..50 {
            let frame = Frame::head(&Setting::drawn(seed), 100);
            let back = frame.to_units(frame.to_pixels([7.0, -12.0]));
            assert!((back[0] - 7.0).abs() < 1e-4 && (back[1] + 12.0).abs() < 1e-4);
        }
    }

    #[test]
    fn a_lean_to_the_right_moves_the_crown_to_the_right() {
        let setting = Setting {
            roll: Level::MOST,
            ..Setting::drawn(3)
        };
        let (head, body) = (Frame::head(&setting, 64), Frame::body(&setting, 64));
        assert!(head.to_pixels([0.0, -10.0])[0] > body.to_pixels([0.0, -10.0])[0] + 0.7);
        assert!((head.scale() - body.scale()).abs() < 1e-6);
    }
}
