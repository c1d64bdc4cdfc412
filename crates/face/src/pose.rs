//! How a head is turned, from where five points of its face lie.

use serde::Serialize;

use crate::face::{Face, Keypoints, LandmarkSource, Landmarks};
use crate::geometry::mean;

/// How a head is turned, in degrees; all 0 if it looks straight into the camera.
///
/// An estimate: faces differ from the canonical one, so expect errors of up to ten degrees in yaw and pitch, less in roll.
/// Beyond about 60 degrees, where points hide behind the face, it only says that the head is turned far.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Pose {
    /// Positive if the face looks towards the right of the picture.
    pub yaw: f32,
    /// Positive if the face looks up.
    pub pitch: f32,
    /// Positive if the head is tilted clockwise as seen in the picture.
    pub roll: f32,
}

/// The canonical face: eyes, nose tip, corners of the mouth in units of the distance between the eyes, x to the right of
/// the picture, y downwards, z away from the viewer. x and y are the ArcFace template's, a mean of frontal faces, made
/// symmetric; the depths are those of the six-point generic head of OpenCV's pose examples (nose tip 135 in front of the
/// eyes and 125 in front of the corners of the mouth, where the eyes' outer corners are 450 apart, 1.43 times the pupils).
const CANONICAL: [[f32; 3]; 5] = [
    [-0.5, 0.0, 0.0],
    [0.5, 0.0, 0.0],
    [0.0, 0.571, -0.43],
    [-0.414, 1.155, -0.03],
    [0.414, 1.155, -0.03],
];

/// The landmarks of each eye's outline and pupil: their mean does not follow the gaze.
const LEFT_EYE: [usize; 8] = [35, 41, 40, 42, 39, 37, 33, 36];
const RIGHT_EYE: [usize; 8] = [93, 96, 94, 95, 89, 90, 87, 91];
const NOSE_TIP: usize = 86;
const MOUTH_CORNERS: [usize; 2] = [52, 61];

impl Pose {
    /// The pose of a face whose landmarks were measured; `None` for a canonical face, which is always turned the same way,
    /// or for points that no head can have.
    pub fn of(face: &Face) -> Option<Self> {
        match face.landmark_source {
            LandmarkSource::Predicted => Self::from_points(&eyes_nose_mouth(&face.landmarks)),
            LandmarkSource::Template => None,
        }
    }

    /// Weak perspective: the affine map from the canonical face to the picture with the least squared error, whose rows are
    /// then made orthogonal and of one length (as in Poelman and Kanade's scaled orthography); that is two rows of
    /// R = Rz(roll) · Ry(yaw) · Rx(pitch), and their cross product is the third.
    pub(crate) fn from_points(points: &Keypoints) -> Option<Self> {
        let (x, y) = affine_rows(points)?;
        let (right, down) = orthonormal(x, y)?;
        let away = cross(right, down);
        let degrees = |radians: f32| radians.to_degrees();
        Some(Self {
            yaw: degrees(away[0].clamp(-1.0, 1.0).asin()),
            pitch: -degrees(away[1].atan2(away[2])),
            roll: degrees(down[0].atan2(right[0])),
        })
    }
}

fn eyes_nose_mouth(landmarks: &Landmarks) -> Keypoints {
    let eye = |indices: [usize; 8]| mean(&indices.map(|i| landmarks[i]));
    let [left, right] = MOUTH_CORNERS.map(|i| landmarks[i]);
    [
        eye(LEFT_EYE),
        eye(RIGHT_EYE),
        landmarks[NOSE_TIP],
        left,
        right,
    ]
}

type Vector = [f32; 3];

fn dot(a: Vector, b: Vector) -> f32 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

fn cross(a: Vector, b: Vector) -> Vector {
    [
        a[1] * b[2] - a[2] * b[1],
        a[2] * b[0] - a[0] * b[2],
        a[0] * b[1] - a[1] * b[0],
    ]
}

fn unit(a: Vector) -> Option<Vector> {
    let length = dot(a, a).sqrt();
    length.is_normal().then(|| a.map(|v| v / length))
}

/// The rows of the affine map's matrix: the picture's x and y as functions of the canonical face's coordinates.
fn affine_rows(points: &Keypoints) -> Option<(Vector, Vector)> {
    let centre = mean(points);
    let centre_3d: Vector =
        std::array::from_fn(|k| CANONICAL.iter().map(|p| p[k]).sum::<f32>() / 5.0);
    let canonical: [Vector; 5] = CANONICAL.map(|p| std::array::from_fn(|k| p[k] - centre_3d[k]));
    let moment = |f: &dyn Fn(usize) -> f32| -> Vector {
        std::array::from_fn(|k| (0..5).map(|i| canonical[i][k] * f(i)).sum())
    };
    let normal: [Vector; 3] = std::array::from_fn(|k| moment(&|i| canonical[i][k]));
    let row = |axis: usize| solve(normal, moment(&|i| points[i][axis] - centre[axis]));
    Some((row(0)?, row(1)?))
}

/// Solves a symmetric 3 × 3 system by Cramer's rule.
fn solve(matrix: [Vector; 3], right: Vector) -> Option<Vector> {
    let [a, b, c] = matrix;
    let determinant = dot(a, cross(b, c));
    let solution = [
        dot(right, cross(b, c)),
        dot(a, cross(right, c)),
        dot(a, cross(b, right)),
    ];
    determinant
        .is_normal()
        .then(|| solution.map(|v| v / determinant))
}

/// Two unit vectors at a right angle, as near to the directions of `x` and `y`; both give way by the same angle.
fn orthonormal(x: Vector, y: Vector) -> Option<(Vector, Vector)> {
    let (x, y) = (unit(x)?, unit(y)?);
    let sum = unit(std::array::from_fn(|k| x[k] + y[k]))?;
    let difference = unit(std::array::from_fn(|k| x[k] - y[k]))?;
    let half = std::f32::consts::FRAC_1_SQRT_2;
    Some((
        std::array::from_fn(|k| half * (sum[k] + difference[k])),
        std::array::from_fn(|k| half * (sum[k] - difference[k])),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The canonical face turned by known angles, in perspective from `distance` eye distances away.
    fn turned(yaw: f32, pitch: f32, roll: f32, distance: f32) -> Keypoints {
        let (sy, cy) = (-yaw).to_radians().sin_cos();
        let (sp, cp) = (-pitch).to_radians().sin_cos();
        let (sr, cr) = roll.to_radians().sin_cos();
        CANONICAL.map(|[x, y, z]| {
            let (y, z) = (cp * y - sp * z, sp * y + cp * z);
            let (x, z) = (cy * x + sy * z, cy * z - sy * x);
            let (x, y) = (cr * x - sr * y, sr * x + cr * y);
            let scale = 80.0 * distance / (distance + z);
            [300.0 + scale * x, 200.0 + scale * y]
        })
    }

    fn farthest(found: Pose, yaw: f32, pitch: f32, roll: f32) -> f32 {
        let each = [found.yaw - yaw, found.pitch - pitch, found.roll - roll];
        each.into_iter().map(f32::abs).fold(0.0, f32::max)
    }

    #[test]
    fn known_turns_are_found_again() {
        for (yaw, pitch, roll) in [
            (0.0, 0.0, 0.0),
            (30.0, 0.0, 0.0),
            (-45.0, 10.0, 0.0),
            (0.0, -25.0, 0.0),
            (20.0, 15.0, -30.0),
            (-10.0, 5.0, 120.0),
        ] {
            let far = Pose::from_points(&turned(yaw, pitch, roll, 1e4)).unwrap();
            assert!(farthest(far, yaw, pitch, roll) < 0.1, "{far:?}");
            // An arm's length away, where perspective shows.
            let near = Pose::from_points(&turned(yaw, pitch, roll, 10.0)).unwrap();
            assert!(
                farthest(near, yaw, pitch, roll) < 6.0,
                "{near:?} {yaw} {pitch} {roll}"
            );
        }
    }

    #[test]
    fn landmarks_that_were_measured_have_a_pose_and_a_template_has_none() {
        let mut face = crate::template::place(&crate::Detection {
            bbox: [10.0, 10.0, 210.0, 210.0],
            score: 1.0,
            keypoints: None,
        });
        assert_eq!(Pose::of(&face), None);
        face.landmark_source = LandmarkSource::Predicted;
        assert!(farthest(Pose::of(&face).unwrap(), 0.0, 0.0, 0.0) < 3.0);
    }

    #[test]
    fn signs_are_as_they_are_told() {
        let frontal = turned(0.0, 0.0, 0.0, 1e4);
        let nose_moved = |dx: f32, dy: f32| {
            let mut points = frontal;
            points[2] = [points[2][0] + dx, points[2][1] + dy];
            Pose::from_points(&points).unwrap()
        };
        assert!(nose_moved(10.0, 0.0).yaw > 5.0);
        assert!(nose_moved(0.0, -10.0).pitch > 5.0);
        let mut tilted = frontal;
        tilted[1][1] += 20.0;
        tilted[4][1] += 16.0;
        assert!(Pose::from_points(&tilted).unwrap().roll > 5.0);
    }

    #[test]
    fn points_that_no_head_can_have_have_no_pose() {
        assert_eq!(Pose::from_points(&[[7.0, 7.0]; 5]), None);
        assert_eq!(Pose::from_points(&[[f32::NAN, 7.0]; 5]), None);
    }
}
