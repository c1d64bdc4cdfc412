//! Finding faces, with the detector that a bundle names.

use std::fmt;
use std::path::Path;

use image::RgbImage;

use crate::error::FaceError;
use crate::face::{Detection, Keypoints};
use crate::frontal::Frontal;
use crate::scrfd::{Fit, Scrfd, overlap};

/// A face detector that is ready to run. It may be shared between threads.
pub struct Detector {
    kind: Kind,
}

enum Kind {
    Frontal(Box<Frontal>),
    Scrfd(Box<Scrfd>),
    /// The second one looks where the first finds nobody.
    Both(Box<Scrfd>, Box<Frontal>),
}

impl fmt::Debug for Detector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            Kind::Frontal(_) => "Detector(frontal)",
            Kind::Scrfd(_) => "Detector(SCRFD)",
            Kind::Both(..) => "Detector(SCRFD, then frontal)",
        })
    }
}

impl Detector {
    /// The detector of upright frontal faces whose model is part of this crate. It gives boxes only.
    ///
    /// # Errors
    /// [`FaceError::BuiltinModel`] if the model is damaged.
    pub fn builtin_frontal() -> Result<Self, FaceError> {
        let kind = Kind::Frontal(Box::new(Frontal::load()?));
        Ok(Self { kind })
    }

    /// An SCRFD detector with key points from its ONNX file, such as `scrfd_10g_bnkps.onnx`.
    ///
    /// # Errors
    /// [`FaceError::Load`] if it cannot be read, [`FaceError::Contract`] if it is another model.
    pub fn scrfd(path: &Path) -> Result<Self, FaceError> {
        let kind = Kind::Scrfd(Box::new(Scrfd::load(path)?));
        Ok(Self { kind })
    }

    /// An SCRFD detector, and the built-in one for photos in which it finds nobody.
    ///
    /// # Errors
    /// As of the two.
    pub fn scrfd_then_frontal(path: &Path) -> Result<Self, FaceError> {
        let frontal = Box::new(Frontal::load()?);
        let kind = Kind::Both(Box::new(Scrfd::load(path)?), frontal);
        Ok(Self { kind })
    }

    /// All faces in an upright photo, best score first; they are one detector's.
    ///
    /// # Errors
    /// [`FaceError::Run`] if the model fails or gives anything but numbers.
    pub fn detect(&self, image: &RgbImage) -> Result<Vec<Detection>, FaceError> {
        if image.width() == 0 || image.height() == 0 {
            return Ok(Vec::new());
        }
        let plausible = |found: &Detection| is_plausible(found, image);
        let frontal = |detector: &Frontal| {
            let mut found = detector.detect(image);
            found.retain(plausible);
            found
        };
        match &self.kind {
            Kind::Frontal(detector) => Ok(frontal(detector)),
            Kind::Scrfd(detector) => detector.detect(image, plausible),
            Kind::Both(first, second) => {
                let found = first.detect(image, plausible)?;
                Ok(if found.is_empty() {
                    frontal(second)
                } else {
                    found
                })
            }
        }
    }

    /// Whether the built-in detector found this face in the place of the file's: the bundle's landmark model then knows no such
    /// faces.
    pub(crate) fn stood_in_for(&self, found: &Detection) -> bool {
        matches!(self.kind, Kind::Both(..)) && found.keypoints.is_none()
    }

    /// The detector that gives key points.
    fn scrfd_of(&self) -> Option<&Scrfd> {
        match &self.kind {
            Kind::Frontal(_) => None,
            Kind::Scrfd(detector) | Kind::Both(detector, _) => Some(detector),
        }
    }

    /// Whether it can look at a face again for its key points.
    pub(crate) fn looks_again_at(&self, found: &Detection) -> bool {
        self.scrfd_of().is_some() && !self.stood_in_for(found)
    }

    /// The key points that a second look at a part of a photo gives for the face that is `expected` in this box, if the
    /// look shows it: its neighbours may be in the part, too.
    pub(crate) fn look_again(
        &self,
        part: &RgbImage,
        expected: [f32; 4],
    ) -> Result<Option<Keypoints>, FaceError> {
        let Some(detector) = self.scrfd_of() else {
            return Ok(None);
        };
        let found = detector.detect_at(part, SECOND_LOOK, Fit::Corner)?;
        let nearest = found
            .iter()
            .map(|face| (overlap(&face.bbox, &expected), face))
            .max_by(|a, b| a.0.total_cmp(&b.0));
        let same = nearest.filter(|(shared, _)| *shared >= SAME_FACE);
        Ok(same.and_then(|(_, face)| face.keypoints))
    }
}

/// Intersection over union from which a box of the second look is the first one's. The boxes are of two kinds: a
/// detector's reaches from the forehead to the chin, the landmarks' from the brows.
const SAME_FACE: f32 = 0.25;
/// Side at which a face is looked at again for its alignment.
const SECOND_LOOK: u32 = 640;
/// The square over a box's longer side may be this many times as large as the photo: a face that fills the photo reaches
/// beyond it.
const LARGEST: f32 = 2.0;

/// Nobody means a face whose centre is not in the photo, and crops of any size would follow from a box of any size.
fn is_plausible(found: &Detection, image: &RgbImage) -> bool {
    let [left, top, right, bottom] = found.bbox;
    let (cx, cy) = (f32::midpoint(left, right), f32::midpoint(top, bottom));
    let (w, h) = (image.width() as f32, image.height() as f32);
    found.size() >= 1.0
        && (right - left).max(bottom - top).powi(2) <= LARGEST * w * h
        && (0.0..w).contains(&cx)
        && (0.0..h).contains(&cy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

    #[test]
    fn a_second_look_gives_the_key_points_of_the_face_that_is_expected() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/spots.onnx");
        let detector = Detector::scrfd(&path).unwrap();
        let (left, right) = ([96.0, 160.0, 192.0, 256.0], [416.0, 160.0, 512.0, 256.0]);
        let red = |[l, t, r, b]: [f32; 4], x: u32, y: u32| {
            (l..r).contains(&(x as f32)) && (t..b).contains(&(y as f32))
        };
        let part = RgbImage::from_fn(640, 640, |x, y| {
            let level = if red(left, x, y) || red(right, x, y) {
                [255, 0, 0]
            } else {
                [128; 3]
            };
            Rgb(level)
        });
        for expected in [left, right] {
            let points = detector.look_again(&part, expected).unwrap().unwrap();
            assert!(
                points
                    .iter()
                    .all(|[x, y]| red(expected, *x as u32, *y as u32))
            );
        }
        let elsewhere = detector.look_again(&part, [300.0, 400.0, 390.0, 490.0]);
        assert_eq!(elsewhere.unwrap(), None);
        let frontal = Detector::builtin_frontal().unwrap();
        assert_eq!(frontal.look_again(&part, left).unwrap(), None);
    }
}
