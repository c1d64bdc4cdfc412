//! Hair behind and before the face, and the beard.

use crate::canvas::{Bounds, Canvas, Ink, beyond_line};
use crate::classes::HairStyle;
use crate::frame::Point;
use crate::palette::{WHITE, shaded};
use crate::proportions::beyond_ellipse;

use super::scene::{BOTH, Scene, mirrored, shadow};

/// Where the curls of an afro are around it: unit vectors, the right half from the crown downwards.
const CURLS: [Point; 6] = [
    [0.0, -1.0],
    [0.5, -0.866],
    [0.866, -0.5],
    [1.0, 0.0],
    [0.866, 0.5],
    [0.643, 0.766],
];
const CURL: f32 = 5.0;
/// How low the hair reaches at the sides of the face, as a share of half its height. Landmarks begin below.
const SIDES_END: f32 = -0.14;

/// How the hair lies on the forehead, in shares of half the face's height and width, and how thick it is, in units.
struct Cap {
    thickness: f32,
    hairline: f32,
    temples: f32,
}

const SHORT: Cap = Cap {
    thickness: 2.0,
    hairline: -0.58,
    temples: 0.95,
};
const LONG: Cap = Cap {
    thickness: 2.4,
    hairline: -0.62,
    temples: 0.9,
};
const AFRO: Cap = Cap {
    thickness: 3.0,
    hairline: -0.56,
    temples: 0.95,
};
const BUN: Cap = Cap {
    thickness: 1.2,
    hairline: -0.7,
    temples: 1.0,
};

/// What of the hair is behind face, neck and shoulders.
pub(super) fn behind(canvas: &mut Canvas, scene: &Scene) {
    match scene.style {
        HairStyle::None | HairStyle::Short => {}
        HairStyle::Long => mane(canvas, scene),
        HairStyle::Afro => cloud(canvas, scene),
        HairStyle::Bun => knot(canvas, scene),
    }
}

/// What of it is before the face.
pub(super) fn before(canvas: &mut Canvas, scene: &Scene) {
    match scene.style {
        HairStyle::None => bald(canvas, scene),
        HairStyle::Short => cap(canvas, scene, &SHORT),
        HairStyle::Afro => cap(canvas, scene, &AFRO),
        HairStyle::Bun => cap(canvas, scene, &BUN),
        HairStyle::Long => {
            locks(canvas, scene);
            cap(canvas, scene, &LONG);
        }
    }
}

/// The beard: the lower face but for the cheeks.
pub(super) fn beard(canvas: &mut Canvas, scene: &Scene) {
    if !scene.beard {
        return;
    }
    let [a, b] = scene.shape.half;
    let top = 0.05 * b;
    let bounds = Bounds {
        middle: [0.0, 0.5 * (top + b + 1.0)],
        half: [a + 1.0, 0.5 * (b + 1.0 - top)],
    };
    let beyond = |[x, y]: Point| {
        let cheeks = beyond_ellipse([x, y - 0.09 * b], [0.9 * a, 0.42 * b]);
        let face = scene.shape.beyond_face([x, y], 0.5);
        face.max(-cheeks).max(top - y)
    };
    canvas.fill(&scene.head, bounds, Ink::solid(scene.hair), beyond);
    canvas.fill(&scene.head, bounds, shadow(), |p| {
        scene
            .beyond_shadow(p, |q| scene.shape.beyond_face(q, 0.5))
            .max(beyond(p))
    });
}

fn bald(canvas: &mut Canvas, scene: &Scene) {
    let gleam = [-1.8 * scene.shadow[0], -0.72 * scene.shape.half[1]];
    canvas.ellipse(&scene.head, gleam, [3.2, 1.6], Ink::thin(WHITE, 0.28));
}

/// Hair on the head, down to the hairline and the temples.
fn cap(canvas: &mut Canvas, scene: &Scene, cap: &Cap) {
    let [a, b] = scene.shape.half;
    let bounds = Bounds {
        middle: [0.0, -0.6 * b],
        half: [1.15 * a + cap.thickness, 0.6 * b + cap.thickness],
    };
    // The bare forehead is an ellipse whose crown is the hairline.
    let forehead = [cap.temples * a, 0.93 * b];
    let forehead_y = cap.hairline * b + forehead[1];
    let head = |p| scene.shape.beyond_face(p, cap.thickness);
    let beyond = |[x, y]: Point| {
        let bare = beyond_ellipse([x, y - forehead_y], forehead);
        head([x, y]).max(-bare).max(y - SIDES_END * b)
    };
    canvas.fill(&scene.head, bounds, Ink::solid(scene.hair), beyond);
    canvas.fill(&scene.head, bounds, shadow(), |p| {
        scene.beyond_shadow(p, head).max(beyond(p))
    });
    let gleam = [-2.2 * scene.shadow[0], -0.86 * b];
    canvas.ellipse(&scene.head, gleam, [4.2, 1.1], Ink::thin(WHITE, 0.22));
}

/// Long hair behind the head, darker than before it.
fn mane(canvas: &mut Canvas, scene: &Scene) {
    let ink = Ink::solid(shaded(scene.hair, 0.25));
    let [a, b] = scene.shape.half;
    canvas.ellipse(&scene.head, [0.0, -1.0], [a + 4.0, b + 2.0], ink);
    canvas.line(&scene.head, [[0.0, 0.0], [0.0, 18.0]], a + 2.0, ink);
}

/// Long hair at the sides of the face: it falls over ears and shoulders and leaves the cheeks bare.
fn locks(canvas: &mut Canvas, scene: &Scene) {
    let [a, b] = scene.shape.half;
    let width = 3.8;
    for sign in BOTH {
        let [top, end] = [[a - 1.0, -0.25 * b], [a + 1.2, 21.0]].map(|p| mirrored(p, sign));
        let bounds = Bounds {
            middle: [0.5 * (top[0] + end[0]), 0.5 * (top[1] + end[1])],
            half: [width + 0.5, 0.5 * (end[1] - top[1]) + width],
        };
        let beyond = |p: Point| {
            let lock = beyond_line(p, [top, end]) - width;
            lock.max(-scene.shape.beyond_face(p, 0.0))
        };
        canvas.fill(&scene.head, bounds, Ink::solid(scene.hair), beyond);
        canvas.fill(&scene.head, bounds, shadow(), |p| {
            scene.beyond_shadow(p, beyond)
        });
    }
}

/// An afro behind the head: an ellipse with curls around it.
fn cloud(canvas: &mut Canvas, scene: &Scene) {
    let [a, b] = scene.shape.half;
    let middle = [0.0, -0.42 * b];
    let half = [a + 5.0, 0.62 * b + 4.0];
    let ink = Ink::solid(scene.hair);
    canvas.ellipse(&scene.head, middle, half, ink);
    for sign in BOTH {
        for [c, s] in CURLS {
            let place = [sign * half[0] * c, middle[1] + half[1] * s];
            canvas.ellipse(&scene.head, place, [CURL; 2], ink);
        }
    }
    let bounds = Bounds { middle, half };
    canvas.fill(&scene.head, bounds, shadow(), |p| {
        scene.beyond_shadow(p, |[x, y]| beyond_ellipse([x, y - middle[1]], half))
    });
}

/// A knot on the crown.
fn knot(canvas: &mut Canvas, scene: &Scene) {
    let middle = [0.0, -scene.shape.half[1] - 3.6];
    let (half, frame) = ([5.4, 4.8], &scene.head);
    canvas.ellipse(frame, middle, half, Ink::solid(scene.hair));
    let bounds = Bounds { middle, half };
    canvas.fill(frame, bounds, shadow(), |p| {
        scene.beyond_shadow(p, |[x, y]| beyond_ellipse([x, y - middle[1]], half))
    });
    canvas.ellipse(
        frame,
        [-scene.shadow[0], middle[1] - 2.0],
        [2.0, 0.9],
        Ink::thin(WHITE, 0.22),
    );
}
