//! The picture, painted from the back to the front.

mod body;
mod face;
mod hair;
mod scene;

use std::ops::RangeInclusive;

use image::RgbImage;

use crate::canvas::Canvas;
use crate::classes::Pattern;
use crate::frame::Point;
use crate::identity::Identity;
use crate::palette::{self, Rgb, mix, shaded};
use crate::setting::Setting;
use scene::Scene;

/// The sides, in pixels, that a picture can have. At 64 every attribute still shows.
pub const SIDES: RangeInclusive<u32> = 32..=512;

/// Brightness of the light in the middle of the picture, and how much it changes from there to the lit side.
const BRIGHTNESS: [f32; 2] = [0.78, 1.0];
const SLOPE: f32 = 0.08;

/// Stripes and dots, in units: from one to the next, half of a stripe, radius of a dot.
const PERIOD: f32 = 8.0;
const HALF_STRIPE: f32 = 2.0;
const DOT: f32 = 2.1;
/// The shadow that they are on the background.
const PATTERN_SHADE: f32 = 0.35;

/// The picture of a person in a setting, a square of `side` pixels; the nearest of [`SIDES`] where it is not one of them.
pub fn draw(identity: &Identity, setting: &Setting, side: u32) -> RgbImage {
    let side = clamped(side);
    let scene = Scene::new(identity, setting, side);
    let mut canvas = background(setting, side);
    hair::behind(&mut canvas, &scene);
    body::paint(&mut canvas, &scene);
    face::skin(&mut canvas, &scene);
    hair::beard(&mut canvas, &scene);
    face::features(&mut canvas, &scene);
    hair::before(&mut canvas, &scene);
    face::brows(&mut canvas, &scene);
    face::glasses(&mut canvas, &scene);
    let brightness = setting.brightness.between(BRIGHTNESS[0], BRIGHTNESS[1]);
    let slope = SLOPE * setting.light_from.value();
    canvas.lit(|x| brightness * (1.0 + slope * x))
}

/// The nearest side that a picture can have.
pub(crate) fn clamped(side: u32) -> u32 {
    side.clamp(*SIDES.start(), *SIDES.end())
}

fn background(setting: &Setting, side: u32) -> Canvas {
    let plain = palette::cloth(setting.background);
    let dark = shaded(plain, PATTERN_SHADE);
    let with = |beyond: fn(Point) -> f32| {
        Canvas::new(side, move |place, size| {
            pattern(plain, dark, beyond(place) / size)
        })
    };
    match setting.pattern {
        Pattern::Plain => Canvas::new(side, |_, _| plain),
        Pattern::Striped => with(beyond_stripe),
        Pattern::Dotted => with(beyond_dot),
    }
}

/// The background this many pixels away from a figure of the pattern.
fn pattern(plain: Rgb, dark: Rgb, beyond: f32) -> Rgb {
    mix(plain, dark, (0.5 - beyond).clamp(0.0, 1.0))
}

fn beyond_stripe([_, y]: Point) -> f32 {
    from_middle(y).abs() - HALF_STRIPE
}

fn beyond_dot([x, y]: Point) -> f32 {
    let (x, y) = (from_middle(x), from_middle(y));
    (x * x + y * y).sqrt() - DOT
}

/// How far a coordinate is from the middle of its period.
fn from_middle(x: f32) -> f32 {
    // No coordinate is negative: truncating is rounding down, and many processors' own way to do it.
    let whole = (x / PERIOD) as u32;
    x - PERIOD * whole as f32 - 0.5 * PERIOD
}
