//! Where the face is in a picture, in InsightFace's `2d106` order: jaw 0–32, eyes 33–42 and 87–96, brows 43–51 and 97–105,
//! nose 72–86, mouth 52–71. Left and right are the picture's.

use std::f32::consts::FRAC_PI_4;

use crate::draw::clamped;
use crate::frame::{Frame, Point};
use crate::identity::Identity;
use crate::proportions::{BROW_RADIUS, EYE, Proportions};
use crate::setting::Setting;

/// The jaw line from the temple to just before the chin.
const JAW_LEFT: [usize; 16] = [1, 9, 10, 11, 12, 13, 14, 15, 16, 2, 3, 4, 5, 6, 7, 8];
const JAW_RIGHT: [usize; 16] = [
    17, 25, 26, 27, 28, 29, 30, 31, 32, 18, 19, 20, 21, 22, 23, 24,
];
const CHIN: usize = 0;
/// Where the temples are on the face's outline: this share of a right angle, a little above the eyes.
const TEMPLE: f32 = -0.06;

/// Pairs of left and right: the eye from its outer corner over the upper lid to the inner one and back along the lower lid,
/// then the pupil twice.
const EYES: [(usize, usize); 10] = [
    (35, 93),
    (41, 96),
    (40, 94),
    (42, 95),
    (39, 89),
    (37, 90),
    (33, 87),
    (36, 91),
    (34, 92),
    (38, 88),
];
/// The brow's upper edge from its outer end, then the lower edge.
const BROWS: [(usize, usize); 9] = [
    (43, 101),
    (48, 105),
    (49, 104),
    (51, 103),
    (50, 102),
    (44, 100),
    (45, 99),
    (47, 98),
    (46, 97),
];
/// Root, side, wing, nostril, beside the base.
const NOSE: [(usize, usize); 5] = [(75, 81), (76, 82), (77, 83), (78, 84), (79, 85)];
/// Corner; upper lip's upper edge, from outside; lower lip's lower edge; the line between the lips, twice.
const MOUTH: [(usize, usize); 8] = [
    (52, 61),
    (64, 68),
    (63, 67),
    (55, 58),
    (56, 59),
    (65, 69),
    (66, 70),
    (54, 57),
];

/// The landmarks that stand for the key points: pupils, tip of the nose, corners of the mouth.
const KEYPOINTS: [usize; 5] = [38, 88, 86, 52, 61];

/// The 106 landmarks of the picture that [`draw`](crate::draw()) makes of the same arguments, in its pixels: x to the
/// right, y downwards, (0, 0) the upper left corner of the upper left pixel. They lie on what is drawn; hair that hangs over
/// the face does not move them.
pub fn landmarks(identity: &Identity, setting: &Setting, side: u32) -> [Point; 106] {
    let frame = Frame::head(setting, clamped(side));
    upright(&Proportions::of(identity)).map(|point| frame.to_pixels(point))
}

/// The five key points of the same picture, in its pixels: the pupils, the tip of the nose, the corners of the mouth, of each
/// pair the picture's left one first.
pub fn keypoints(identity: &Identity, setting: &Setting, side: u32) -> [Point; 5] {
    let all = landmarks(identity, setting, side);
    KEYPOINTS.map(|i| all[i])
}

/// The landmarks in the drawing's units around the middle of the face.
fn upright(shape: &Proportions) -> [Point; 106] {
    let mut points = [[0.0; 2]; 106];
    points[CHIN] = shape.outline([0.0, 1.0]);
    for (i, pair) in JAW_LEFT.into_iter().zip(JAW_RIGHT).enumerate() {
        let share = i as f32 / JAW_LEFT.len() as f32;
        let point = shape.outline(direction(TEMPLE + share * (1.0 - TEMPLE)));
        put(&mut points, pair, point);
    }
    put_all(&mut points, EYES, eye(shape));
    put_all(&mut points, BROWS, brow(shape));
    put_all(&mut points, NOSE, nose(shape));
    put_all(&mut points, MOUTH, mouth(shape));
    for (i, y) in midline(shape) {
        points[i] = [0.0, y];
    }
    points
}

/// A right point, and its mirror image.
fn put(points: &mut [Point; 106], (left, right): (usize, usize), [x, y]: Point) {
    points[left] = [-x, y];
    points[right] = [x, y];
}

fn put_all<const N: usize>(
    points: &mut [Point; 106],
    pairs: [(usize, usize); N],
    right: [Point; N],
) {
    for (pair, point) in pairs.into_iter().zip(right) {
        put(points, pair, point);
    }
}

/// The unit vector at about this share of a right angle, exactly so at 0 and 1. It is a rational function, because sines
/// are not the same on every platform.
fn direction(share: f32) -> Point {
    // The tangent of half the angle, from its series, made to end at 1.
    let t = share * (FRAC_PI_4 + (1.0 - FRAC_PI_4) * share * share);
    let norm = 1.0 + t * t;
    [(1.0 - t * t) / norm, 2.0 * t / norm]
}

fn eye(shape: &Proportions) -> [Point; 10] {
    let [c, s] = direction(0.5);
    let around = [
        [1.0, 0.0],
        [c, -s],
        [0.0, -1.0],
        [-c, -s],
        [-1.0, 0.0],
        [-c, s],
        [0.0, 1.0],
        [c, s],
        [0.0, 0.0],
        [0.0, 0.0],
    ];
    around.map(|p| [0, 1].map(|k| shape.eye[k] + EYE[k] * p[k]))
}

fn brow(shape: &Proportions) -> [Point; 9] {
    let [outer, peak, inner] = shape.brow;
    let between = |a: Point, b: Point| [0, 1].map(|k| 0.5 * (a[k] + b[k]));
    let above = |[x, y]: Point| [x, y - BROW_RADIUS];
    let below = |[x, y]: Point| [x, y + BROW_RADIUS];
    let (outside, inside) = (between(outer, peak), between(peak, inner));
    [
        [outer[0] + BROW_RADIUS, outer[1]],
        above(outside),
        above(peak),
        above(inside),
        above(inner),
        below(outside),
        below(peak),
        below(inside),
        below(inner),
    ]
}

fn nose(shape: &Proportions) -> [Point; 5] {
    let (half, tip) = (shape.nose.half_width, shape.nose.tip);
    let top = shape.eye[1];
    let base = tip + shape.nose.half_height();
    [
        [0.3 * half + 0.3, top],
        [0.5 * half, top + 0.65 * (tip - top)],
        [half, tip],
        [0.6 * half, base],
        [0.3 * half, base],
    ]
}

fn mouth(shape: &Proportions) -> [Point; 8] {
    let mouth = &shape.mouth;
    let at = |share: f32, edge: usize| [share * mouth.half_width, mouth.lips(share)[edge]];
    let (upper, line, lower) = (0, 1, 2);
    [
        at(1.0, line),
        at(0.6, upper),
        at(0.25, upper),
        at(0.65, lower),
        at(0.33, lower),
        at(0.8, line),
        at(0.4, line),
        at(0.4, line),
    ]
}

/// Index and height of the points on the midline.
fn midline(shape: &Proportions) -> [(usize, f32); 9] {
    let (top, tip) = (shape.eye[1], shape.nose.tip);
    let along = |share: f32| top + share * (tip - top);
    let [upper, line, lower] = shape.mouth.lips(0.0);
    [
        (72, along(0.0)),
        (73, along(0.35)),
        (74, along(0.7)),
        (86, tip),
        (80, tip + shape.nose.half_height()),
        (71, upper),
        (62, line),
        (60, line),
        (53, lower),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_landmark_is_given_once() {
        let shape = Proportions::of(&Identity::drawn(1));
        let pairs = JAW_LEFT.into_iter().zip(JAW_RIGHT);
        let pairs = pairs.chain(EYES).chain(BROWS).chain(NOSE).chain(MOUTH);
        let mut given: Vec<usize> = pairs.flat_map(|(left, right)| [left, right]).collect();
        given.extend(midline(&shape).map(|(i, _)| i));
        given.push(CHIN);
        assert_eq!(given.len(), 106);
        assert_eq!(
            given.into_iter().collect::<BTreeSet<_>>(),
            (0..106).collect()
        );
    }

    #[test]
    fn the_jaw_is_evenly_walked() {
        let points = upright(&Proportions::of(&Identity::drawn(5)));
        let jaw: Vec<Point> = JAW_LEFT.iter().chain([&CHIN]).map(|i| points[*i]).collect();
        let steps = jaw
            .windows(2)
            .map(|p| (p[1][0] - p[0][0]).hypot(p[1][1] - p[0][1]));
        let (low, high) = steps.fold((f32::MAX, 0f32), |(l, h), s| (l.min(s), h.max(s)));
        assert!(low > 0.5 && high < 2.2 * low, "{low} {high}");
    }

    #[test]
    fn all_points_stay_in_the_picture() {
        for seed in 0..10_000 {
            let points = landmarks(&Identity::drawn(seed), &Setting::drawn(seed), 64);
            let inside = |p: &Point| p.iter().all(|k| (2.0..62.0).contains(k));
            assert!(points.iter().all(inside), "{seed}");
        }
    }

    #[test]
    fn points_grow_with_the_picture() {
        let (identity, setting) = (Identity::drawn(2), Setting::drawn(9));
        let small = keypoints(&identity, &setting, 64);
        let large = keypoints(&identity, &setting, 256);
        for (s, l) in small.iter().zip(large) {
            assert!((4.0 * s[0] - l[0]).abs() < 1e-3 && (4.0 * s[1] - l[1]).abs() < 1e-3);
        }
        assert!(small[0][0] < small[1][0] && small[3][0] < small[4][0]);
    }
}
