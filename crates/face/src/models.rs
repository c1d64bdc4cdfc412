//! The face models of a bundle, loaded together.

use std::fmt;
use std::path::PathBuf;

use image::RgbImage;

use crate::detect::Detector;
use crate::error::FaceError;
use crate::face::{Detection, Face, Keypoints, LandmarkSource, Landmarks, keypoints_of};
use crate::geometry::{extent, face_square};
use crate::landmarks::Landmarker;
use crate::recognizer::Recognizer;
use crate::template;

/// Longest side of the part that a second look is taken at, in pixels: it reaches far beyond the photo where a face fills
/// a large one, which needs no second look.
const LARGEST_SECOND_LOOK: u32 = 16_384;

/// Where the face detector is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DetectorFile {
    /// The frontal detector that this crate carries.
    Builtin,
    /// An SCRFD ONNX file, such as `scrfd_10g_bnkps.onnx`.
    Onnx(PathBuf),
    /// Such a file, and the frontal detector for photos in which it finds nobody. The landmark model is the file's companion:
    /// faces of the frontal detector get a canonical face's landmarks.
    OnnxThenBuiltin(PathBuf),
}

/// The files of a bundle's face models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaceFiles {
    /// Finds faces.
    pub detector: DetectorFile,
    /// Places 106 landmarks, such as `2d106det.onnx`. Without it a canonical face stands in for them.
    pub landmarks: Option<PathBuf>,
    /// Recognises faces, such as `glintr100.onnx`.
    pub recognizer: PathBuf,
}

/// The face models, ready to run. They may be shared between threads.
pub struct FaceModels {
    /// Finds faces.
    pub detector: Detector,
    /// Recognises faces.
    pub recognizer: Recognizer,
    landmarker: Option<Landmarker>,
}

impl fmt::Debug for FaceModels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaceModels")
            .field("detector", &self.detector)
            .finish_non_exhaustive()
    }
}

impl FaceModels {
    /// Loads all of them.
    ///
    /// # Errors
    /// [`FaceError::Load`] or [`FaceError::Contract`] name the file, its role and what was expected of it.
    pub fn load(files: &FaceFiles) -> Result<Self, FaceError> {
        Ok(Self {
            detector: match &files.detector {
                DetectorFile::Builtin => Detector::builtin_frontal()?,
                DetectorFile::Onnx(path) => Detector::scrfd(path)?,
                DetectorFile::OnnxThenBuiltin(path) => Detector::scrfd_then_frontal(path)?,
            },
            recognizer: Recognizer::load(&files.recognizer)?,
            landmarker: files
                .landmarks
                .as_deref()
                .map(Landmarker::load)
                .transpose()?,
        })
    }

    /// The whole face that a detection stands for: its landmarks and the key points for its alignment.
    ///
    /// # Errors
    /// [`FaceError::Run`] if a model fails.
    pub fn face(&self, image: &RgbImage, found: &Detection) -> Result<Face, FaceError> {
        let mut face = self.placed(image, found)?;
        self.look_closer(image, found, &mut face)?;
        Ok(face)
    }

    /// A detection with landmarks, and the first look's key points or those that the landmarks tell.
    pub(crate) fn placed(&self, image: &RgbImage, found: &Detection) -> Result<Face, FaceError> {
        let own = self.landmarker.as_ref();
        let Some(landmarker) = own.filter(|_| !self.detector.stood_in_for(found)) else {
            return Ok(template::place(found));
        };
        let landmarks = landmarker.predict(image, found.bbox)?;
        Ok(Face {
            bbox: found.bbox,
            score: found.score,
            keypoints: found.keypoints.unwrap_or_else(|| keypoints_of(&landmarks)),
            landmarks,
            landmark_source: LandmarkSource::Predicted,
        })
    }

    /// Puts the key points of a second look in place of the first one's, if it gives any.
    pub(crate) fn look_closer(
        &self,
        image: &RgbImage,
        found: &Detection,
        face: &mut Face,
    ) -> Result<(), FaceError> {
        if !self.detector.looks_again_at(found) {
            return Ok(());
        }
        if let Some(keypoints) = self.second_look(image, &face.landmarks)? {
            face.keypoints = keypoints;
        }
        Ok(())
    }

    /// The key points of a second look at the face, from as near as the recogniser was trained with; none if the detector
    /// gives none or does not see the face again.
    fn second_look(
        &self,
        image: &RgbImage,
        landmarks: &Landmarks,
    ) -> Result<Option<Keypoints>, FaceError> {
        let crop = face_square(landmarks).scaled(2.0).rounded();
        if crop.width() > LARGEST_SECOND_LOOK {
            return Ok(None);
        }
        let (low, high) = extent(landmarks);
        let (left, top) = (crop.left as f32, crop.top as f32);
        let expected = [low[0] - left, low[1] - top, high[0] - left, high[1] - top];
        let found = self.detector.look_again(&crop.of(image), expected)?;
        Ok(found.map(|points| points.map(|[x, y]| [x + left, y + top])))
    }
}
