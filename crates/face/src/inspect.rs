//! The whole way of a photo: from its bytes to the face that is meant, or to the reason why there is none.

use std::fmt;

use image::RgbImage;

use crate::decode::decode;
use crate::detect::Detector;
use crate::error::{Limits, Rejection};
use crate::face::{Face, FaceChoice, choose};
use crate::quality::{FaceQuality, QualityReport};

/// A photo that is good enough, decoded and upright, with its face.
pub struct Portrait {
    /// The picture.
    pub image: RgbImage,
    /// The face that is meant.
    pub face: Face,
    /// What was measured.
    pub report: QualityReport,
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

/// Decodes a photo, finds its faces, chooses one and checks that it is good enough.
///
/// # Errors
/// [`Refused`], with all that was measured until then.
pub fn inspect(
    bytes: &[u8],
    detector: &Detector,
    choice: FaceChoice,
    limits: &Limits,
) -> Result<Portrait, Refused> {
    let image = decode(bytes, limits).map_err(|reason| Refused {
        reason,
        report: None,
    })?;
    let faces = detector.detect(&image);
    let mut report = QualityReport {
        image_width: image.width(),
        image_height: image.height(),
        faces_found: faces.len(),
        face: None,
    };
    let chosen = choose(&faces, choice).and_then(|face| {
        let quality = report.face.insert(FaceQuality::measure(&image, &face));
        quality.check(limits).map(|()| face)
    });
    match chosen {
        Ok(face) => Ok(Portrait {
            image,
            face,
            report,
        }),
        Err(reason) => Err(Refused {
            reason,
            report: Some(report),
        }),
    }
}
