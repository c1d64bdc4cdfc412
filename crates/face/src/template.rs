//! A canonical face, for detectors that give only a box.
//!
//! Units: the origin is midway between the pupils, one unit their distance, y downwards. The points follow the mean
//! proportions of an adult face; the five key points are the ArcFace template's, made symmetric. The numbering is the
//! InsightFace `2d106` layout: jaw 0–32, eyes 33–42 and 87–96, brows 43–51 and 97–105, nose 72–86, mouth 52–71.

use crate::face::{Detection, Face, LandmarkSource, Landmarks};
use crate::geometry::Similarity;

/// Eyes, nose tip, corners of the mouth.
const KEYPOINTS: [[f32; 2]; 5] = [
    [-0.5, 0.0],
    [0.5, 0.0],
    [0.0, 0.571],
    [-0.414, 1.155],
    [0.414, 1.155],
];

/// The jaw line from the left temple to the chin, and its mirror image.
const JAW_LEFT: [usize; 16] = [1, 9, 10, 11, 12, 13, 14, 15, 16, 2, 3, 4, 5, 6, 7, 8];
const JAW_RIGHT: [usize; 16] = [
    17, 25, 26, 27, 28, 29, 30, 31, 32, 18, 19, 20, 21, 22, 23, 24,
];
const CHIN: usize = 0;

/// The jaw as half an ellipse: height of the temples, half the face's width, and from there to the chin.
const TEMPLE_Y: f32 = -0.05;
const JAW_HALF_WIDTH: f32 = 1.1;
const JAW_DEPTH: f32 = 1.9;

/// Points on the midline: index, y.
const MIDLINE: [(usize, f32); 9] = [
    (72, 0.0),
    (73, 0.2),
    (74, 0.39),
    (86, 0.571),
    (80, 0.73),
    (71, 1.04),
    (62, 1.135),
    (60, 1.19),
    (53, 1.34),
];

/// Mirrored points: left index, right index, |x|, y.
const PAIRS: [(usize, usize, f32, f32); 32] = [
    // Eyes: outer corner, lids, inner corner, two of the pupil.
    (35, 93, 0.73, 0.01),
    (41, 96, 0.63, -0.055),
    (40, 94, 0.5, -0.08),
    (42, 95, 0.37, -0.055),
    (39, 89, 0.27, 0.02),
    (37, 90, 0.37, 0.055),
    (33, 87, 0.5, 0.075),
    (36, 91, 0.63, 0.055),
    (34, 92, 0.5, 0.0),
    (38, 88, 0.5, 0.0),
    // Brows: upper edge from the outer end, then the lower one.
    (43, 101, 0.92, -0.27),
    (48, 105, 0.76, -0.40),
    (49, 104, 0.58, -0.45),
    (51, 103, 0.40, -0.44),
    (50, 102, 0.22, -0.38),
    (44, 100, 0.75, -0.31),
    (45, 99, 0.57, -0.35),
    (47, 98, 0.39, -0.35),
    (46, 97, 0.22, -0.30),
    // Nose: root, side, wing, nostril.
    (75, 81, 0.13, 0.02),
    (76, 82, 0.20, 0.42),
    (77, 83, 0.29, 0.56),
    (78, 84, 0.20, 0.68),
    (79, 85, 0.10, 0.70),
    // Mouth: corners, upper and lower edge, inner edges.
    (52, 61, 0.414, 1.155),
    (64, 68, 0.25, 1.06),
    (63, 67, 0.10, 1.02),
    (55, 58, 0.27, 1.26),
    (56, 59, 0.14, 1.32),
    (65, 69, 0.33, 1.15),
    (66, 70, 0.16, 1.13),
    (54, 57, 0.16, 1.18),
];

/// Where the pupils lie in the frontal detector's square box (share of its side from its top), and their distance.
const PUPILS_Y: f32 = 0.36;
const PUPIL_DISTANCE: f32 = 0.42;

fn landmarks() -> Landmarks {
    let mut points = [[0.0; 2]; 106];
    points[CHIN] = [0.0, TEMPLE_Y + JAW_DEPTH];
    for (i, (left, right)) in JAW_LEFT.iter().zip(JAW_RIGHT).enumerate() {
        let angle = i as f32 / JAW_LEFT.len() as f32 * std::f32::consts::FRAC_PI_2;
        let (x, y) = (
            JAW_HALF_WIDTH * angle.cos(),
            TEMPLE_Y + JAW_DEPTH * angle.sin(),
        );
        points[*left] = [-x, y];
        points[right] = [x, y];
    }
    for (i, y) in MIDLINE {
        points[i] = [0.0, y];
    }
    for (left, right, x, y) in PAIRS {
        points[left] = [-x, y];
        points[right] = [x, y];
    }
    points
}

/// The canonical face on the detector's key points or, where there are none, in the frontal detector's box.
pub(crate) fn place(found: &Detection) -> Face {
    let placement = match &found.keypoints {
        Some(points) => Similarity::fit(&KEYPOINTS, points),
        None => in_box(found.bbox),
    };
    let put = |point| placement.apply(point);
    Face {
        bbox: found.bbox,
        score: found.score,
        landmarks: landmarks().map(put),
        keypoints: found.keypoints.unwrap_or_else(|| KEYPOINTS.map(put)),
        landmark_source: LandmarkSource::Template,
    }
}

fn in_box([left, top, right, bottom]: [f32; 4]) -> Similarity {
    Similarity {
        a: f64::from(PUPIL_DISTANCE * (right - left)),
        b: 0.0,
        tx: f64::from(f32::midpoint(left, right)),
        ty: f64::from(top + PUPILS_Y * (bottom - top)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_landmark_is_given_once() {
        let mut given: Vec<usize> = vec![CHIN];
        given.extend(JAW_LEFT.iter().chain(&JAW_RIGHT));
        given.extend(MIDLINE.iter().map(|m| m.0));
        given.extend(PAIRS.iter().flat_map(|p| [p.0, p.1]));
        assert_eq!(given.len(), 106);
        assert_eq!(
            given.into_iter().collect::<BTreeSet<_>>(),
            (0..106).collect()
        );
    }

    #[test]
    fn key_points_agree_with_the_landmarks_that_stand_for_them() {
        let points = landmarks();
        for (key, i) in KEYPOINTS.iter().zip([38, 88, 86, 52, 61]) {
            assert!(key.iter().zip(points[i]).all(|(k, p)| (k - p).abs() < 1e-6));
        }
    }
}
