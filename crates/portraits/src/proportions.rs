//! A face in numbers: what its picture and its landmarks have in common.
//!
//! Units are the drawing's, the origin is the middle of the face, x goes to the right and y downwards. What is on both sides
//! is given for the right of the picture; the left is its mirror image.

use crate::frame::Point;
use crate::identity::Identity;

/// Half the sides of the white of an eye.
pub(crate) const EYE: Point = [3.4, 2.7];
/// Half the thickness of a brow.
pub(crate) const BROW_RADIUS: f32 = 0.95;
/// How much higher the corners of the mouth are than its middle.
const SMILE: f32 = 0.9;
/// Thickness of the lips in the middle of the mouth.
const UPPER_LIP: f32 = 1.4;
const LOWER_LIP: f32 = 2.0;
/// How much narrower than an ellipse the face is at the chin (and wider at the crown), as a share.
const TAPER: f32 = 0.13;

pub(crate) struct Proportions {
    /// Half of the face's width and height.
    pub half: Point,
    /// The middle of the eye.
    pub eye: Point,
    /// The brow, from its outer end over its highest point to its inner end.
    pub brow: [Point; 3],
    pub nose: Nose,
    pub mouth: Mouth,
}

/// A nose on the midline.
pub(crate) struct Nose {
    /// Height of the tip.
    pub tip: f32,
    /// Half of its width at the tip.
    pub half_width: f32,
}

/// A mouth on the midline.
pub(crate) struct Mouth {
    /// Height of the line between the lips, in the middle.
    pub y: f32,
    pub half_width: f32,
}

impl Proportions {
    pub fn of(identity: &Identity) -> Self {
        let half = [
            identity.face_width.between(11.8, 16.2),
            identity.face_height.between(14.0, 19.0),
        ];
        let eye = [identity.eye_spacing.between(4.8, 7.2), -0.02 * half[1]];
        Self {
            half,
            eye,
            brow: [[3.6, -4.2], [0.8, -5.6], [-3.2, -4.8]].map(|p| [eye[0] + p[0], eye[1] + p[1]]),
            nose: Nose {
                tip: eye[1] + half[1] * identity.nose_size.between(0.26, 0.35),
                half_width: identity.nose_size.between(1.8, 4.0),
            },
            mouth: Mouth {
                y: 0.6 * half[1],
                half_width: identity.mouth_width.between(2.6, 6.8),
            },
        }
    }

    /// The point of the outline in this direction (a unit vector).
    pub fn outline(&self, [c, s]: Point) -> Point {
        [self.half[0] * c * (1.0 - TAPER * s), self.half[1] * s]
    }

    /// How far a point is outside of the face grown by `growth` to all sides; negative inside.
    pub fn beyond_face(&self, [x, y]: Point, growth: f32) -> f32 {
        let width = 1.0 - TAPER / self.half[1] * y;
        beyond_ellipse([x / width, y], self.half.map(|half| half + growth))
    }
}

impl Nose {
    /// Half the height of its lower end, around the tip.
    pub fn half_height(&self) -> f32 {
        0.5 * self.half_width
    }
}

impl Mouth {
    /// Heights of the upper edge, of the line between the lips and of the lower edge, at `share` of the way from the
    /// middle to a corner.
    pub fn lips(&self, share: f32) -> [f32; 3] {
        let rise = share * share;
        let line = self.y - SMILE * rise;
        let full = 1.0 - rise;
        [line - UPPER_LIP * full, line, line + LOWER_LIP * full]
    }
}

/// How far a point is outside of an ellipse around the origin, to first order; negative inside.
pub(crate) fn beyond_ellipse([x, y]: Point, [rx, ry]: Point) -> f32 {
    // The compiler divides once for all pixels of a shape, where the sides alone are in the division.
    let (wx, wy) = (1.0 / (rx * rx), 1.0 / (ry * ry));
    let (gx, gy) = (wx * x, wy * y);
    // At the origin itself this is minus infinity, which is as far inside as can be.
    (x * gx + y * gy - 1.0) / (2.0 * (gx * gx + gy * gy).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::level::Level;

    #[test]
    fn the_outline_is_where_the_face_ends() {
        let face = Proportions::of(&Identity::drawn(11));
        for step in 0..20 {
            let (s, c) = (step as f32 / 20.0 * std::f32::consts::TAU).sin_cos();
            let beyond = face.beyond_face(face.outline([c, s]), 0.0);
            assert!(beyond.abs() < 1e-3, "{step}: {beyond}");
        }
        assert!(face.beyond_face([0.0, 0.0], 0.0) < -10.0);
        assert!(face.beyond_face([0.0, face.half[1] + 2.0], 0.0) > 1.5);
    }

    #[test]
    fn parts_of_every_face_keep_their_order() {
        for seed in 0..10_000 {
            let face = Proportions::of(&Identity::drawn(seed));
            let brow = face.brow[1][1] - BROW_RADIUS;
            let nose_end = face.nose.tip + face.nose.half_height();
            let [upper, line, lower] = face.mouth.lips(0.0);
            let heights = [
                -face.half[1],
                brow,
                face.eye[1],
                nose_end,
                upper + 0.3,
                line,
                lower,
                face.half[1],
            ];
            assert!(heights.is_sorted(), "{seed}: {heights:?}");
            assert!(face.eye[0] - EYE[0] > 1.0 && face.eye[0] + EYE[0] < face.half[0]);
        }
    }

    #[test]
    fn sizes_change_by_several_units() {
        let with = |level| {
            let mut identity = Identity::drawn(1);
            identity.nose_size = level;
            identity.mouth_width = level;
            identity.face_width = level;
            Proportions::of(&identity)
        };
        let (least, most) = (with(Level::LEAST), with(Level::MOST));
        assert!(most.nose.half_width - least.nose.half_width > 2.0);
        assert!(most.mouth.half_width - least.mouth.half_width > 4.0);
        assert!(most.half[0] - least.half[0] > 4.0);
    }
}
