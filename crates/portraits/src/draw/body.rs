//! Neck and shoulders. They stand upright, however the head leans.

use crate::canvas::{Bounds, Canvas, Ink};
use crate::frame::Point;
use crate::palette::shaded;
use crate::proportions::beyond_ellipse;

use super::scene::{Scene, shadow};

const SHOULDERS: Point = [0.0, 38.0];
const SHOULDERS_HALF: Point = [26.0, 16.5];
const NECK_RADIUS: f32 = 5.0;
/// Where the neck ends in the collar.
const COLLAR: Point = [0.0, 22.6];
const COLLAR_HALF: Point = [6.6, 3.0];
const RIM: f32 = 1.3;
/// How far the head's shadow reaches down the neck.
const UNDER_CHIN: f32 = 2.6;

pub(super) fn paint(canvas: &mut Canvas, scene: &Scene) {
    shoulders(canvas, scene);
    neck(canvas, scene);
}

fn shoulders(canvas: &mut Canvas, scene: &Scene) {
    let bounds = Bounds {
        middle: SHOULDERS,
        half: SHOULDERS_HALF,
    };
    let frame = &scene.body;
    canvas.fill(frame, bounds, Ink::solid(scene.shirt), beyond_shoulders);
    canvas.fill(frame, bounds, shadow(), |p| {
        scene.beyond_shadow(p, beyond_shoulders)
    });
    let rim = COLLAR_HALF.map(|half| half + RIM);
    canvas.ellipse(frame, COLLAR, rim, Ink::solid(shaded(scene.shirt, 0.3)));
}

fn neck(canvas: &mut Canvas, scene: &Scene) {
    let ink = Ink::solid(shaded(scene.skin, 0.1));
    canvas.line(&scene.body, [[0.0, 0.0], COLLAR], NECK_RADIUS, ink);
    canvas.ellipse(&scene.body, COLLAR, COLLAR_HALF, ink);
    // The head's shadow: what of the neck is in the face moved down.
    let bounds = Bounds {
        middle: [0.0, scene.shape.half[1]],
        half: [NECK_RADIUS, UNDER_CHIN + 1.0],
    };
    canvas.fill(&scene.body, bounds, shadow(), |[x, y]| {
        let face = scene.shape.beyond_face([x, y - UNDER_CHIN], 0.0);
        face.max(x.abs() - NECK_RADIUS)
    });
}

fn beyond_shoulders([x, y]: Point) -> f32 {
    beyond_ellipse([x - SHOULDERS[0], y - SHOULDERS[1]], SHOULDERS_HALF)
}
