//! A detected face, and which of several is meant.

use std::fmt;

use image::RgbImage;
use serde::Serialize;

use crate::error::{FaceError, Rejection};
use crate::geometry::extent;

/// The 106 landmarks in the order of the InsightFace `2d106` layout, pixels of the photo.
pub type Landmarks = [[f32; 2]; 106];

/// Eyes, nose tip, corners of the mouth; left of the picture first. Pixels of the photo.
pub type Keypoints = [[f32; 2]; 5];

/// What a detector says of one face. Coordinates are pixels of the upright photo, y downwards.
#[derive(Clone, Copy, PartialEq)]
pub struct Detection {
    /// The box: left, top, right, bottom. It may reach outside the photo.
    pub bbox: [f32; 4],
    /// The detector's score; comparable only between faces of one detector.
    pub score: f32,
    /// The key points, if the detector gives any.
    pub keypoints: Option<Keypoints>,
}

impl Detection {
    /// The shorter side of the box, in pixels.
    pub fn size(&self) -> f32 {
        shorter_side(self.bbox)
    }
}

impl fmt::Debug for Detection {
    /// Leaves out where the face is and its key points.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Detection")
            .field("size", &self.size())
            .field("score", &self.score)
            .finish_non_exhaustive()
    }
}

fn shorter_side([left, top, right, bottom]: [f32; 4]) -> f32 {
    (right - left).min(bottom - top)
}

/// Where landmarks come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum LandmarkSource {
    /// A canonical face, placed in the detector's box or on its key points.
    Template,
    /// Measured in this photo.
    Predicted,
}

/// One face in a photo. Coordinates are pixels of the upright photo, y downwards.
#[derive(Clone, PartialEq)]
pub struct Face {
    /// The detector's box: left, top, right, bottom.
    pub bbox: [f32; 4],
    /// The detector's score; comparable only between faces of one detector.
    pub score: f32,
    /// 106 landmarks: the crops for CLIP come from these.
    pub landmarks: Landmarks,
    /// The alignment for ArcFace comes from these.
    pub keypoints: Keypoints,
    /// Where the landmarks come from.
    pub landmark_source: LandmarkSource,
}

/// The landmarks that stand for the five key points: pupils, nose tip, corners of the mouth.
const KEYPOINT_INDICES: [usize; 5] = [38, 88, 86, 52, 61];

/// The five key points among the landmarks.
pub(crate) fn keypoints_of(landmarks: &Landmarks) -> Keypoints {
    KEYPOINT_INDICES.map(|i| landmarks[i])
}

impl Face {
    /// A face from landmarks that were measured elsewhere, for `image`. Its box is the landmarks' extent, its score 1. It
    /// may lie partly outside the image.
    ///
    /// # Errors
    /// [`FaceError::Landmarks`] if a point is not finite or lies further outside the image than its longer side, if none
    /// lies inside, or if the points span less than two pixels.
    pub fn from_landmarks(landmarks: Landmarks, image: &RgbImage) -> Result<Self, FaceError> {
        let (w, h) = (image.width() as f32, image.height() as f32);
        let within = |slack: f32, [x, y]: &[f32; 2]| {
            (-slack..=w + slack).contains(x) && (-slack..=h + slack).contains(y)
        };
        if !landmarks.iter().all(|point| within(w.max(h), point)) {
            return Err(FaceError::Landmarks("a point lies far outside the picture"));
        }
        if !landmarks.iter().any(|point| within(0.0, point)) {
            return Err(FaceError::Landmarks("all points lie outside the picture"));
        }
        let (low, high) = extent(&landmarks);
        if (high[0] - low[0]).max(high[1] - low[1]) < 2.0 {
            return Err(FaceError::Landmarks("the points span less than two pixels"));
        }
        Ok(Self {
            bbox: [low[0], low[1], high[0], high[1]],
            score: 1.0,
            keypoints: keypoints_of(&landmarks),
            landmarks,
            landmark_source: LandmarkSource::Predicted,
        })
    }

    /// The shorter side of the box, in pixels.
    pub fn size(&self) -> f32 {
        shorter_side(self.bbox)
    }
}

impl fmt::Debug for Face {
    /// Leaves out the landmarks, which are somebody's features.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Face")
            .field("size", &self.size())
            .field("score", &self.score)
            .field("landmark_source", &self.landmark_source)
            .finish_non_exhaustive()
    }
}

/// Which face of a photo is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FaceChoice {
    /// The only one; several are refused.
    #[default]
    Only,
    /// The largest.
    Largest,
    /// The one that the detector is surest of.
    HighestScore,
    /// The one at this place of the detector's list, best score first, counted from 0.
    Index(usize),
}

/// A face counts beside the largest one only from this share of its size on.
const COUNTS_FROM_SIZE: f32 = 0.25;
/// A face counts only from this share of the best score on.
const COUNTS_FROM_SCORE: f32 = 0.25;

/// Picks the face that is meant, of a detector's list, best score first.
///
/// With [`FaceChoice::Only`] and [`FaceChoice::Largest`] the largest one is meant; with the former there must be no other
/// that counts. Two kinds do not count: a face whose score is less than a quarter of the best one is a mistake of the
/// detector, and a face smaller than a quarter of the largest is a passer-by or a poster in the background. Nobody who
/// uploads such a photo means them. An index counts all.
///
/// # Errors
/// [`Rejection::NoFace`], [`Rejection::SeveralFaces`], [`Rejection::NoSuchFace`].
pub fn choose(faces: &[Detection], choice: FaceChoice) -> Result<Detection, Rejection> {
    let best = faces.first().ok_or(Rejection::NoFace)?;
    match choice {
        FaceChoice::HighestScore => Ok(*best),
        FaceChoice::Index(index) => faces.get(index).copied().ok_or(Rejection::NoSuchFace {
            index,
            found: faces.len(),
        }),
        FaceChoice::Only | FaceChoice::Largest => largest(faces, choice),
    }
}

fn largest(faces: &[Detection], choice: FaceChoice) -> Result<Detection, Rejection> {
    let best = faces.iter().map(|f| f.score).fold(0.0, f32::max);
    let sure = || faces.iter().filter(|f| f.score >= COUNTS_FROM_SCORE * best);
    let largest = sure()
        .max_by(|a, b| a.size().total_cmp(&b.size()))
        .ok_or(Rejection::NoFace)?;
    let found = sure()
        .filter(|f| f.size() >= COUNTS_FROM_SIZE * largest.size())
        .count();
    if choice == FaceChoice::Only && found > 1 {
        return Err(Rejection::SeveralFaces { found });
    }
    Ok(*largest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template;

    fn face(size: f32) -> Detection {
        scored(size, 1.0)
    }

    fn scored(size: f32, score: f32) -> Detection {
        Detection {
            bbox: [0.0, 0.0, size, size],
            score,
            keypoints: None,
        }
    }

    #[test]
    fn small_faces_in_the_background_do_not_count() {
        let chosen = choose(&[face(20.0), face(100.0)], FaceChoice::Only);
        assert!(chosen.is_ok_and(|f| f.size() > 99.0));
    }

    #[test]
    fn doubtful_faces_do_not_count() {
        let chosen = choose(&[face(100.0), scored(200.0, 0.2)], FaceChoice::Only);
        assert!(chosen.is_ok_and(|f| f.size() < 101.0));
    }

    #[test]
    fn two_comparable_faces_need_a_choice() {
        let faces = [face(60.0), face(100.0), face(10.0)];
        assert_eq!(
            choose(&faces, FaceChoice::Only),
            Err(Rejection::SeveralFaces { found: 2 })
        );
        assert!(choose(&faces, FaceChoice::Largest).is_ok_and(|f| f.size() > 99.0));
    }

    #[test]
    fn the_surest_and_the_nth_face_can_be_asked_for() {
        let faces = [scored(60.0, 0.9), scored(100.0, 0.8), scored(10.0, 0.1)];
        let size = |choice| choose(&faces, choice).map(|f| f.size() as u32);
        assert_eq!(size(FaceChoice::HighestScore), Ok(60));
        assert_eq!(size(FaceChoice::Largest), Ok(100));
        assert_eq!(size(FaceChoice::Index(2)), Ok(10));
        assert_eq!(
            size(FaceChoice::Index(3)),
            Err(Rejection::NoSuchFace { index: 3, found: 3 })
        );
    }

    #[test]
    fn no_face_is_an_error_whatever_the_choice() {
        for choice in [
            FaceChoice::Only,
            FaceChoice::Largest,
            FaceChoice::HighestScore,
            FaceChoice::Index(0),
        ] {
            assert_eq!(choose(&[], choice), Err(Rejection::NoFace));
        }
    }

    #[test]
    fn impossible_landmarks_are_refused() {
        let image = RgbImage::new(100, 50);
        let good = template::place(&face(50.0)).landmarks;
        assert!(Face::from_landmarks(good, &image).is_ok());
        for (bad, i) in [(f32::NAN, 0), (f32::INFINITY, 105), (-1e9, 3), (1e9, 50)] {
            let mut landmarks = good;
            landmarks[i][0] = bad;
            assert!(Face::from_landmarks(landmarks, &image).is_err());
        }
        assert!(Face::from_landmarks([[7.0, 7.0]; 106], &image).is_err());
    }
}
