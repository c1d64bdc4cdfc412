//! What all parts of a drawing need to know.

use crate::canvas::Ink;
use crate::classes::{EyeColour, HairStyle};
use crate::frame::{Frame, Point};
use crate::identity::Identity;
use crate::palette::{self, BLACK, Rgb};
use crate::proportions::Proportions;
use crate::setting::Setting;

/// How far the edge of a shadow lies from the edge of what is lit, in units: to the side at most, and downwards.
const SHADOW: Point = [2.6, 1.2];
/// How dark shadows are.
const SHADOW_OPACITY: f32 = 0.22;

pub(super) struct Scene {
    pub shape: Proportions,
    pub head: Frame,
    pub body: Frame,
    pub skin: Rgb,
    pub hair: Rgb,
    pub style: HairStyle,
    pub eyes: EyeColour,
    pub beard: bool,
    pub glasses: bool,
    pub shirt: Rgb,
    /// From the edge of a shape to the edge of the shadow on it: away from the light.
    pub shadow: Point,
}

impl Scene {
    pub fn new(identity: &Identity, setting: &Setting, side: u32) -> Self {
        Self {
            shape: Proportions::of(identity),
            head: Frame::head(setting, side),
            body: Frame::body(setting, side),
            skin: palette::skin(identity.skin),
            hair: palette::hair(identity.hair_colour),
            style: identity.hair_style,
            eyes: identity.eye_colour,
            beard: identity.beard,
            glasses: identity.glasses,
            shirt: palette::cloth(setting.shirt),
            shadow: [-SHADOW[0] * setting.light_from.value(), SHADOW[1]],
        }
    }

    /// How far a point is outside of the shadow on a shape: what is in the shape, but not in the shape moved towards the
    /// light.
    pub fn beyond_shadow(&self, p: Point, shape: impl Fn(Point) -> f32) -> f32 {
        let moved = [p[0] + self.shadow[0], p[1] + self.shadow[1]];
        shape(p).max(-shape(moved))
    }
}

/// A shadow's ink.
pub(super) fn shadow() -> Ink {
    Ink::thin(BLACK, SHADOW_OPACITY)
}

/// The point on the other side of the face.
pub(super) fn mirrored([x, y]: Point, sign: f32) -> Point {
    [sign * x, y]
}

/// Left and right of the picture.
pub(super) const BOTH: [f32; 2] = [-1.0, 1.0];
