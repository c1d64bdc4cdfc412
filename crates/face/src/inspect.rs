//! The whole way of a photo: from its bytes to the face that is meant, or to the reason why there is none.

use std::fmt;
use std::time::{Duration, Instant};

use image::RgbImage;

use crate::decode::decode;
use crate::error::{FaceError, Limits, Rejection};
use crate::face::{Detection, Face, FaceChoice, choose};
use crate::models::FaceModels;
use crate::quality::{FaceQuality, QualityReport};

/// A photo that is good enough, decoded and upright, with its face.
pub struct Portrait {
    /// The picture.
    pub image: RgbImage,
    /// All faces in it, best score first: what [`FaceChoice::Index`] counts.
    pub faces: Vec<Detection>,
    /// The face that is meant.
    pub face: Face,
    /// What was measured.
    pub report: QualityReport,
    /// How long it took.
    pub took: Took,
}

/// How long each step of an inspection took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Took {
    /// From the file's bytes to an upright picture.
    pub decode: Duration,
    /// Finding all faces.
    pub detect: Duration,
    /// The chosen face's landmarks.
    pub landmarks: Duration,
    /// The second look at the face, for its alignment.
    pub second_look: Duration,
    /// Measuring how good the photo is.
    pub quality: Duration,
}

impl fmt::Debug for Portrait {
    /// Leaves out the picture.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Portrait")
            .field("report", &self.report)
            .finish_non_exhaustive()
    }
}

/// A refused photo: why, and what was measured before.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{reason}")]
pub struct Refused {
    /// Why.
    pub reason: Rejection,
    /// What was measured, unless the photo could not be decoded.
    pub report: Option<QualityReport>,
}

/// Why a photo gives no portrait.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// For what the photo is or shows.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// For a fault of a model, whatever the photo.
    #[error(transparent)]
    Model(#[from] FaceError),
}

impl FaceModels {
    /// Decodes a photo, finds its faces, chooses one and checks that it is good enough.
    ///
    /// # Errors
    /// [`Refused`], with all that was measured until then; [`FaceError`] if a model fails.
    pub fn inspect(
        &self,
        bytes: &[u8],
        choice: FaceChoice,
        limits: &Limits,
    ) -> Result<Portrait, InspectError> {
        let mut took = Took::default();
        let decoded = timed(&mut took.decode, || decode(bytes, limits));
        let image = decoded.map_err(|reason| Refused {
            reason,
            report: None,
        })?;
        let faces = timed(&mut took.detect, || self.detector.detect(&image))?;
        let mut report = QualityReport::without_face(&image, faces.len());
        let found = choose(&faces, choice).map_err(|reason| refused(reason, &report))?;
        let mut face = timed(&mut took.landmarks, || self.placed(&image, &found))?;
        timed(&mut took.second_look, || {
            self.look_closer(&image, &found, &mut face)
        })?;
        let measured = timed(&mut took.quality, || FaceQuality::measure(&image, &face));
        let quality = report.face.insert(measured);
        let checked = quality.check(limits);
        checked.map_err(|reason| refused(reason, &report))?;
        Ok(Portrait {
            image,
            faces,
            face,
            report,
            took,
        })
    }
}

fn timed<T>(took: &mut Duration, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let done = work();
    *took = start.elapsed();
    done
}

fn refused(reason: Rejection, report: &QualityReport) -> Refused {
    Refused {
        reason,
        report: Some(report.clone()),
    }
}
