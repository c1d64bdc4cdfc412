//! Skin and features.

use crate::canvas::{Bounds, Canvas, Ink};
use crate::frame::Point;
use crate::palette::{self, BLACK, LIPS, WHITE, mix, shaded};
use crate::proportions::{BROW_RADIUS, EYE};

use super::scene::{BOTH, Scene, mirrored, shadow};
use crate::classes::HairStyle;

const EAR: Point = [2.6, 3.6];
const IRIS: f32 = 2.3;
const PUPIL: f32 = 1.0;
/// Glasses: radius to the middle of the frame, half the frame's thickness.
const LENS: f32 = 4.3;
const FRAME: f32 = 0.6;

/// Ears and face.
pub(super) fn skin(canvas: &mut Canvas, scene: &Scene) {
    if scene.style != HairStyle::Long {
        ears(canvas, scene);
    }
    let shape = &scene.shape;
    let bounds = Bounds {
        middle: [0.0, 0.0],
        half: [1.1 * shape.half[0], shape.half[1]],
    };
    let beyond = |p| shape.beyond_face(p, 0.0);
    canvas.fill(&scene.head, bounds, Ink::solid(scene.skin), beyond);
    canvas.fill(&scene.head, bounds, shadow(), |p| {
        scene.beyond_shadow(p, beyond)
    });
}

fn ears(canvas: &mut Canvas, scene: &Scene) {
    for sign in BOTH {
        let middle = mirrored([scene.shape.half[0] + 0.4, scene.shape.eye[1] + 1.8], sign);
        let ink = Ink::solid(shaded(scene.skin, 0.08));
        canvas.ellipse(&scene.head, middle, EAR, ink);
        let inner = EAR.map(|half| 0.5 * half);
        let ink = Ink::solid(shaded(scene.skin, 0.25));
        canvas.ellipse(&scene.head, middle, inner, ink);
    }
}

/// Eyes, nose and mouth.
pub(super) fn features(canvas: &mut Canvas, scene: &Scene) {
    for sign in BOTH {
        eye(canvas, scene, sign);
    }
    nose(canvas, scene);
    mouth(canvas, scene);
}

fn eye(canvas: &mut Canvas, scene: &Scene, sign: f32) {
    let frame = &scene.head;
    let middle = mirrored(scene.shape.eye, sign);
    // What shows of it above the white is the upper lid's edge.
    let lid = [middle[0], middle[1] - 0.5];
    let lashes = Ink::solid(shaded(scene.skin, 0.75));
    canvas.ellipse(frame, lid, [EYE[0] + 0.3, EYE[1] + 0.3], lashes);
    canvas.ellipse(frame, middle, EYE, Ink::solid(WHITE));
    let iris = Ink::solid(palette::iris(scene.eyes));
    canvas.ellipse(frame, middle, [IRIS; 2], iris);
    canvas.ellipse(frame, middle, [PUPIL; 2], Ink::solid(BLACK));
    let glint = [middle[0] - 0.35 * scene.shadow[0], middle[1] - 0.8];
    canvas.ellipse(frame, glint, [0.5; 2], Ink::solid(WHITE));
}

fn nose(canvas: &mut Canvas, scene: &Scene) {
    let (frame, nose) = (&scene.head, &scene.shape.nose);
    let (half, height) = (nose.half_width, nose.half_height());
    let ink = Ink::solid(shaded(mix(scene.skin, LIPS, 0.2), 0.22));
    let root = [0.0, scene.shape.eye[1] + 0.6];
    canvas.line(frame, [root, [0.0, nose.tip]], 0.3 * half + 0.3, ink);
    canvas.ellipse(frame, [0.0, nose.tip], [0.7 * half, height], ink);
    for sign in BOTH {
        let wing = mirrored([0.58 * half, nose.tip + 0.08 * half], sign);
        canvas.ellipse(frame, wing, [0.42 * half; 2], ink);
        let nostril = mirrored([0.42 * half, nose.tip + 0.26 * half], sign);
        let dark = Ink::solid(shaded(scene.skin, 0.6));
        canvas.ellipse(frame, nostril, [0.2 * half, 0.13 * half + 0.1], dark);
    }
    let lit = [-0.3 * scene.shadow[0], nose.tip - 0.3 * height];
    canvas.ellipse(frame, lit, [0.25 * half; 2], Ink::thin(WHITE, 0.3));
}

fn mouth(canvas: &mut Canvas, scene: &Scene) {
    let (frame, mouth) = (&scene.head, &scene.shape.mouth);
    let half = mouth.half_width;
    let bounds = Bounds {
        middle: [0.0, mouth.y],
        half: [half, 3.0],
    };
    let lips = |p: Point| mouth.lips((p[0] / half).clamp(-1.0, 1.0));
    let ink = Ink::solid(mix(scene.skin, LIPS, 0.7));
    canvas.fill(frame, bounds, ink, |p| {
        let [upper, _, lower] = lips(p);
        (upper - p[1]).max(p[1] - lower).max(p[0].abs() - half)
    });
    let dark = Ink::solid(shaded(mix(scene.skin, LIPS, 0.6), 0.6));
    canvas.fill(frame, bounds, dark, |p| {
        let [_, line, _] = lips(p);
        ((p[1] - line).abs() - 0.35).max(p[0].abs() - half)
    });
}

/// Brows, in the colour of the hair.
pub(super) fn brows(canvas: &mut Canvas, scene: &Scene) {
    let ink = Ink::solid(shaded(scene.hair, 0.1));
    for sign in BOTH {
        let [outer, peak, inner] = scene.shape.brow.map(|p| mirrored(p, sign));
        canvas.line(&scene.head, [outer, peak], BROW_RADIUS, ink);
        canvas.line(&scene.head, [peak, inner], BROW_RADIUS, ink);
    }
}

/// Round glasses, for those who wear some.
pub(super) fn glasses(canvas: &mut Canvas, scene: &Scene) {
    if !scene.glasses {
        return;
    }
    let (frame, ink) = (&scene.head, Ink::solid(BLACK));
    let [x, y] = scene.shape.eye;
    for sign in BOTH {
        let middle = mirrored([x, y], sign);
        canvas.ellipse(frame, middle, [LENS; 2], Ink::thin(WHITE, 0.12));
        let bounds = Bounds {
            middle,
            half: [LENS + FRAME; 2],
        };
        canvas.fill(frame, bounds, ink, |p| {
            let (dx, dy) = (p[0] - middle[0], p[1] - middle[1]);
            ((dx * dx + dy * dy).sqrt() - LENS).abs() - FRAME
        });
        let temple = [[x + LENS, y - 0.8], [scene.shape.half[0] + 0.6, y - 0.8]];
        canvas.line(frame, temple.map(|p| mirrored(p, sign)), FRAME, ink);
    }
    let bridge = [[LENS - x, y - 0.8], [x - LENS, y - 0.8]];
    canvas.line(frame, bridge, FRAME, ink);
}
